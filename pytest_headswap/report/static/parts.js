"use strict";
// What stands in #data, the elements that are made of it, and the overview. Texts become text nodes, never markup.
const headswap = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const FAMILIES = 8;
  const byId = (id) => document.getElementById(id);

  const rows = data.rows.map(([name, zoo, family, page, seconds, memory, differs, cells], number) => {
    const present = cells.filter(Boolean);
    return {
      number, name, zoo, family, page, seconds, memory, differs: Boolean(differs), cells, present,
      worst: Math.min(...present.map((cell) => cell[0])),
      bad: present.reduce((sum, cell) => sum + cell[4], 0),
      searched: `${name} ${data.families[family]} ${data.zoos[zoo]}`.toLowerCase(),
    };
  });

  const el = (tag, properties = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (key in node && key !== "role") node[key] = value; else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  };
  const count = (number) => number.toLocaleString("en");
  const time = (seconds) => {
    if (seconds < 0.0995) return `${Math.round(1000 * seconds)} ms`;
    if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
    if (seconds < 59.5) return `${Math.round(seconds)} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  };
  const kind = (evidence) => {
    const text = data.evidence[evidence];
    return text.startsWith("abstract") ? " e-abstract" : text.startsWith("simulated") ? " e-simulated" : "";
  };
  const chip = (outcome, more = "") => el("span", { className: `chip o-${data.outcomes[outcome]}${more}` }, data.symbols[outcome]);

  // ---- the overview -----------------------------------------------------------------------------------------
  const bar = (counts, total) => counts.flatMap((number, outcome) => {
    if (!number) return [];
    const part = el("span", { className: `part o-${data.outcomes[outcome]}` });
    part.style.flexGrow = number / total;
    return [part];
  });

  const drawOutcomes = (pick) => {
    const total = data.counts.reduce((sum, number) => sum + number, 0);
    const share = byId("share");
    share.replaceChildren(...bar(data.counts, total));
    share.setAttribute("aria-label", data.outcomes.map((name, place) => `${data.counts[place]} ${name}`).filter((_, place) => data.counts[place]).join(", "));
    byId("outcomes").replaceChildren(...data.outcomes.flatMap((name, outcome) => {
      if (!data.counts[outcome]) return [];
      const tile = el("button", { type: "button", className: "tile", "data-outcome": name }, chip(outcome), el("b", {}, count(data.counts[outcome])), el("span", {}, name));
      tile.addEventListener("click", () => pick(outcome));
      return [tile];
    }));
  };

  let allFamilies = false;
  const drawFamilies = (pick) => {
    const families = data.families.map((name, place) => ({ name, place, counts: data.outcomes.map(() => 0), bad: 0, seconds: 0, total: 0 }));
    for (const row of rows) {
      const family = families[row.family];
      for (const cell of row.present) { family.counts[cell[0]] += 1; family.total += 1; }
      family.bad += row.bad;
      family.seconds += row.seconds;
    }
    families.sort((a, b) => b.bad - a.bad || b.seconds - a.seconds);
    const longest = Math.max(...families.map((family) => family.seconds), 1e-9);
    byId("families").tBodies[0].replaceChildren(...families.slice(0, allFamilies ? undefined : FAMILIES).map((family) => {
      const name = el("button", { type: "button", className: "link", title: family.name }, family.name || "no family");
      name.addEventListener("click", () => pick(family.name));
      const summary = data.outcomes.map((name, place) => `${family.counts[place]} ${name}`).filter((_, place) => family.counts[place]).join(", ");
      const length = el("span", { className: "length" });
      length.style.width = `${(100 * family.seconds) / longest}%`;
      return el("tr", {},
        el("th", { scope: "row" }, name),
        el("td", {}, el("div", { className: "bar", role: "img", "aria-label": summary, title: summary }, ...bar(family.counts, family.total))),
        el("td", { className: `number${family.bad ? " some" : ""}` }, count(family.bad)),
        el("td", {}, el("div", { className: "track" }, length)),
        el("td", { className: "number" }, time(family.seconds)));
    }));
    const more = byId("all-families");
    more.hidden = families.length <= FAMILIES;
    more.textContent = allFamilies ? "Fewer families" : `All ${count(families.length)} families`;
    more.onclick = () => { allFamilies = !allFamilies; drawFamilies(pick); };
  };

  return { data, rows, byId, el, count, time, kind, chip, drawOutcomes, drawFamilies };
})();
