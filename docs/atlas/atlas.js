"use strict";
// Search the files of conformance/heads. `Line` in conformance/atlas.py describes their columns.
(() => {
  const CHUNK = 20;
  const RUNS = { meta: "on the meta device", fake: "under fake tensors", real: "with real tensors" };
  const byId = (id) => document.getElementById(id);
  const search = byId("atlas-search"), list = byId("atlas-list"), more = byId("atlas-more"), status = byId("atlas-count");
  const count = (number, unit) => `${number.toLocaleString("en")} ${unit}${number === 1 ? "" : "s"}`;
  const el = (tag, fields, ...children) => {
    const made = Object.assign(document.createElement(tag), fields);
    made.append(...children);
    return made;
  };
  const code = (text) => el("code", {}, text);

  // ---- the files -------------------------------------------------------------------------------------------------
  const read = (zoo, text) => {
    const [versions, header, ...rows] = text.replace(/\n$/, "").split("\n");
    const columns = header.split("\t"), entries = new Map();
    for (const row of rows) {
      const cells = row.split("\t");
      const line = Object.fromEntries(columns.map((column, place) => [column, cells[place]]));
      const id = `${zoo}/${line.architecture}`;
      const entry = entries.get(id) || { id, zoo, name: line.architecture, family: line.family, lines: [] };
      entry.lines.push(line);
      entries.set(id, entry);
    }
    for (const entry of entries.values()) {
      const heads = entry.lines.filter((line) => line.kind);
      const facts = heads.map((line) => [line.head, line.kind, line.type, line.role].join(" "));
      entry.heads = heads;
      const more = heads.length ? [`heads=${heads.length}`] : ["without a head", entry.lines[0].evidence];
      entry.searched = [`${zoo}:${entry.name}`, entry.id, entry.family, ...more, ...facts].join(" ").toLowerCase();
    }
    return { zoo, library: versions.slice(2).split(", ")[0], entries: [...entries.values()] };
  };

  // ---- search ----------------------------------------------------------------------------------------------------
  let entries = [], shown = [], drawn = 0;

  const matching = (query) => {
    const words = query.split(/\s+/).filter(Boolean);
    const rank = (name) => (name === query ? 0 : words.length && name.startsWith(words[0]) ? 1 : words.some((word) => name.includes(word)) ? 2 : 3);
    return entries
      .filter((entry) => words.every((word) => entry.searched.includes(word)))
      .map((entry, place) => [rank(entry.name.toLowerCase()), place, entry])
      .sort((a, b) => a[0] - b[0] || a[1] - b[1])
      .map(([, , entry]) => entry);
  };
  const found = (typed) => {
    const query = typed.toLowerCase().trim();
    // a name may have the tag of its weights, or other separators
    const tries = [query, query.replace(/\.[\w-]+$/, ""), query.replace(/[^a-z0-9]+/g, " ").trim()];
    return tries.map(matching).find((entries) => entries.length) || [];
  };

  // ---- one architecture ------------------------------------------------------------------------------------------
  const width = (line) => `${line.type}, ${Number(line.features).toLocaleString("en")} → ${line.kind === "identity" ? "no classes yet" : Number(line.classes).toLocaleString("en")}`;

  const path = (line) => {
    const step = (text, className) => el("li", {}, el("span", { className }, text));
    const steps = (text) => text.split(" > ").filter(Boolean).map((name) => step(name, ""));
    const here = step(line.head || "the model itself", "atlas-this");
    const made = el("ol", { className: "atlas-path" }, ...steps(line.before), here, ...steps(line.after), step(line.outputs, ""));
    made.setAttribute("aria-label", "From the backbone through the head to the output");
    return made;
  };

  const facts = (line) => {
    const [first, ...rest] = line.evidence.split("; ");
    const tensors = line.tensors.split(", ").filter(Boolean).map((name) => (name.startsWith(".") ? line.head + name : name));
    const sets = tensors.length ? `dimension ${line.dim} of ${line.outputs.split(", ")[0]} is set by ${tensors[0]} in ${first}` : first;
    const rows = [
      ["kind", line.kind],
      ["layer", width(line)],
      ["role", line.role === "main" ? "" : line.role],
      ["activation", line.activation],
      ["tensors", tensors.join(", ")],
      ["evidence", [sets, ...rest].join("; ")],
      ["found by", `an abstract run ${RUNS[line.run] || ""}`],
    ];
    return el("dl", {}, ...rows.filter(([, text]) => text).flatMap(([title, text]) => [el("dt", {}, title), el("dd", {}, text)]));
  };

  const exampleOf = (entry) => {
    const examples = [...document.querySelectorAll(".atlas-code")].filter((example) => example.dataset.zoo === entry.zoo);
    const ofFamily = (example) => (example.dataset.families || "").split(" ").includes(entry.family);
    return examples.find(ofFamily) || examples.find((example) => !example.dataset.families);
  };
  const program = (entry) => {
    const example = exampleOf(entry), { example: name, checkpoint } = example.dataset;
    const shownCode = example.querySelector("pre > code").cloneNode(true);
    const texts = document.createTreeWalker(shownCode, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      let text = texts.currentNode.nodeValue.replaceAll(name, () => entry.name);
      if (checkpoint) text = text.replaceAll(checkpoint, "NAME_OR_FOLDER");
      texts.currentNode.nodeValue = text;
    }
    const copy = el("button", { className: "md-code__button atlas-copy", type: "button", title: "Copy to clipboard" });
    copy.dataset.clipboardText = shownCode.textContent;
    copy.dataset.mdType = "copy";
    copy.setAttribute("aria-label", "Copy to clipboard");
    const paths = entry.heads.map((line) => `'${line.head}'`).join(", ");
    return [
      el("div", { className: "language-python highlight" }, el("nav", { className: "md-code__nav" }, copy), el("pre", {}, shownCode)),
      el("p", { className: "atlas-note" }, "It prints ", code(`[${paths}]`), "."),
    ];
  };

  const withoutHead = (entry) => {
    const [, reason, message] = entry.lines[0].evidence.match(/^\[(\w+)\] (.*)$/) || [null, "", entry.lines[0].evidence];
    return [el("p", { className: "atlas-note" }, ...(reason ? [el("a", { href: `../errors/#${reason}` }, code(reason)), ": "] : []), message)];
  };

  const bodyOf = (entry) => {
    const link = el("p", { className: "atlas-note" }, el("a", { href: `#${entry.id}` }, "Link to this architecture"));
    if (!entry.heads.length) return [...withoutHead(entry), link];
    const several = entry.heads.length > 1;
    const parts = entry.heads.flatMap((line) => [...(several ? [el("h3", {}, code(line.head))] : []), path(line), facts(line)]);
    const notes = entry.lines[0].notes;
    const small = entry.zoo === "transformers" ? ["The width is that of a small configuration. A checkpoint has its own width and class count. If the error is no_inputs, pass example_inputs to swap_head."] : [];
    const texts = [...(notes ? [`${notes[0].toUpperCase()}${notes.slice(1)}.`] : []), ...small];
    return [...program(entry), ...parts, ...texts.map((text) => el("p", { className: "atlas-note" }, text)), link];
  };

  const drawEntry = (entry) => {
    const name = el("span", { className: "atlas-name" }, entry.name, " ", el("span", { className: "atlas-zoo" }, entry.zoo));
    const heads = entry.heads.slice(0, 2).flatMap((line, place) => [...(place ? [", "] : []), code(line.head || "the model itself")]);
    if (entry.heads.length > 2) heads.push(` and ${entry.heads.length - 2} more`);
    const widths = [...new Set(entry.heads.map(width))];
    const first = el("span", { className: "atlas-head" }, ...(heads.length ? heads : ["no head"]));
    const second = el("span", { className: "atlas-facts" }, heads.length ? widths.slice(0, 2).join("; ") : (entry.lines[0].evidence.match(/^\[(\w+)\]/) || ["", ""])[1]);
    const details = el("details", { id: entry.id }, el("summary", {}, name, " ", first, " ", second));
    details.addEventListener("toggle", () => {
      if (!details.open) return;
      if (details.children.length === 1) details.append(el("div", { className: "atlas-body" }, ...bodyOf(entry)));
      setHash(entry.id);
    });
    return el("li", {}, details);
  };

  // ---- the list --------------------------------------------------------------------------------------------------
  const drawMore = () => {
    list.append(...shown.slice(drawn, drawn + CHUNK).map(drawEntry));
    drawn = Math.min(drawn + CHUNK, shown.length);
    more.hidden = drawn === shown.length;
    more.textContent = `Show ${Math.min(CHUNK, shown.length - drawn)} more`;
  };
  const update = () => {
    shown = search.value.trim() ? found(search.value) : entries;
    drawn = 0;
    list.replaceChildren();
    drawMore();
    const all = count(entries.length, "architecture");
    status.textContent = shown.length === entries.length ? `${all} of ${libraries}` : shown.length ? `${shown.length.toLocaleString("en")} of ${all}` : `None of ${all} matches: type a part of the name, or fewer words`;
  };
  let libraries = "";

  // ---- the address -----------------------------------------------------------------------------------------------
  const setHash = (hash) => history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  const route = () => {
    const hash = location.hash.slice(1);
    const query = new URLSearchParams(hash).get("q");
    if (query !== null) search.value = query;
    else {
      const known = entries.some((entry) => entry.id === hash);
      if (!known && !/^\w+\/./.test(hash)) return update();
      search.value = known ? hash : hash.slice(hash.indexOf("/") + 1);
    }
    update();
    const asked = byId(hash);
    if (asked && list.contains(asked)) asked.open = true;
    search.scrollIntoView({ block: "center" });
    return undefined;
  };

  search.addEventListener("input", () => {
    update();
    setHash(search.value.trim() ? new URLSearchParams({ q: search.value.trim() }) : "");
    if (shown.length === 1) list.querySelector("details").open = true;
  });
  search.form.addEventListener("submit", (event) => {
    event.preventDefault();
    const first = list.querySelector("details");
    if (!first) return;
    first.open = true;
    first.querySelector("summary").focus();
  });
  more.addEventListener("click", () => {
    const next = drawn;
    drawMore();
    list.children[next].querySelector("summary").focus();
  });
  addEventListener("hashchange", route);

  const load = async (zoo) => {
    const answer = await fetch(`${zoo}.tsv`);
    if (!answer.ok) throw new Error(`${zoo}.tsv: ${answer.status}`);
    return read(zoo, await answer.text());
  };
  Promise.all(byId("atlas").dataset.zoos.split(" ").map(load)).then(
    (zoos) => {
      entries = zoos.flatMap((zoo) => zoo.entries);
      libraries = zoos.map((zoo) => zoo.library).join(", ");
      if (search.value) update();
      else route();
    },
    () => { status.textContent = "The list could not be loaded. Reload the page, or open the files below."; },
  );
})();
