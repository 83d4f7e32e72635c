"use strict";
// What stands in #data, the elements that are made of it, and the overview. Texts become text nodes, never markup.
const headswap = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const FAMILIES = 8;
  const NAME = /\u0001/g; // in a message: the name of the architecture
  const byId = (id) => document.getElementById(id);

  // A pattern is what a whole row of cells looks like; most rows share a few. Cell 0 is "no result".
  const patterns = data.patterns.map((numbers) => {
    const cells = numbers.map((number) => data.cells[number]);
    const present = cells.filter(Boolean);
    return {
      cells, present,
      worst: present.reduce((worst, cell) => Math.min(worst, cell[0]), data.outcomes.length - 1),
      bad: present.reduce((sum, cell) => sum + cell[3], 0),
    };
  });
  const differs = new Set(data.differs);
  const href = (number) => {
    const page = data.pages[number];
    return page && `architectures/${page.endsWith(".html") ? page : `${data.names[number]}-${page}.html`}`;
  };
  const pattern = (number) => patterns[data.pattern[number]];
  const message = (cell, number) => data.messages[cell[2]].replace(NAME, () => data.names[number]);

  const el = (tag, properties = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (key in node && key !== "role") node[key] = value; else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  };
  const count = (number) => number.toLocaleString("en");
  const plural = (number, unit) => `${count(number)} ${unit}${number === 1 ? "" : "s"}`;
  const time = (seconds) => {
    if (seconds < 0.0995) return `${Math.round(1000 * seconds)} ms`;
    if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
    if (seconds < 59.5) return `${Math.round(seconds)} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  };
  const chip = (outcome, evidence = 0) => {
    const letter = data.letters[evidence];
    const node = el("span", { className: `chip o-${data.outcomes[outcome]}${letter && ` e-${letter}`}`, "aria-hidden": "true" }, data.symbols[outcome]);
    if (letter) node.append(el("small", {}, letter));
    return node;
  };

  // ---- the overview -----------------------------------------------------------------------------------------
  const bar = (counts, total) => counts.flatMap((number, outcome) => {
    if (!number) return [];
    const part = el("span", { className: `part o-${data.outcomes[outcome]}` });
    part.style.flexGrow = number / total;
    return [part];
  });
  const inWords = (counts) => data.outcomes.map((name, place) => `${counts[place]} ${name}`).filter((_, place) => counts[place]).join(", ") || "no results";

  const drawOutcomes = (pick) => {
    const total = data.counts.reduce((sum, number) => sum + number, 0);
    const share = byId("share");
    share.replaceChildren(...bar(data.counts, total));
    share.setAttribute("aria-label", inWords(data.counts));
    byId("outcomes").replaceChildren(...data.outcomes.flatMap((name, outcome) => {
      if (!data.counts[outcome]) return [];
      const tile = el("button", { type: "button", className: "tile", "data-outcome": name }, chip(outcome), el("b", {}, count(data.counts[outcome])), el("span", {}, name));
      tile.addEventListener("click", () => pick(outcome));
      return [tile];
    }));
  };

  let allFamilies = false, families = null;
  const sumFamilies = () => {
    families = data.families.map((name) => ({ name, counts: data.outcomes.map(() => 0), bad: 0, seconds: 0, total: 0 }));
    data.family.forEach((place, number) => {
      const family = families[place], { present, bad } = pattern(number);
      for (const cell of present) family.counts[cell[0]] += 1;
      family.total += present.length;
      family.bad += bad;
      family.seconds += data.seconds[number];
    });
    families.sort((a, b) => b.bad - a.bad || b.seconds - a.seconds);
  };
  const drawFamilies = (pick) => {
    if (!families) sumFamilies();
    const longest = families.reduce((most, family) => Math.max(most, family.seconds), 1e-9);
    byId("families").tBodies[0].replaceChildren(...families.slice(0, allFamilies ? undefined : FAMILIES).map((family) => {
      const name = el("button", { type: "button", className: "link", title: family.name }, family.name || "no family");
      name.addEventListener("click", () => pick(family.name));
      const summary = inWords(family.counts);
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

  return { data, patterns, pattern, differs, href, message, byId, el, count, plural, time, chip, drawOutcomes, drawFamilies };
})();
