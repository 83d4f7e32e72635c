"use strict";
// The matrix: its filters, its order, its address, its keys.
(() => {
  const { data, rows, byId, el, count, time, kind, chip } = headswap;
  const CHUNK = 120;
  const table = byId("matrix"), scroll = byId("scroll"), body = table.tBodies[0];
  const messages = data.messages.map((text) => text.toLowerCase());

  // ---- state, kept in the address ---------------------------------------------------------------------------
  const initial = () => ({ q: "", outcome: new Set(), family: "", evidence: "", zoo: "", differs: false, sort: "", down: false });
  let state = initial();

  const readHash = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    state = initial();
    for (const key of ["q", "family", "evidence", "zoo", "sort"]) state[key] = given.get(key) ?? "";
    const outcomes = (given.get("outcome") || "").split(",").map((name) => data.outcomes.indexOf(name));
    state.outcome = new Set(outcomes.filter((place) => place >= 0));
    state.differs = given.has("differs");
    state.down = given.has("down");
  };
  const writeHash = () => {
    const given = new URLSearchParams();
    for (const key of ["q", "family", "evidence", "zoo", "sort"]) if (state[key]) given.set(key, state[key]);
    if (state.outcome.size) given.set("outcome", [...state.outcome].map((place) => data.outcomes[place]).join(","));
    if (state.differs) given.set("differs", "1");
    if (state.down) given.set("down", "1");
    const hash = given.toString();
    try {
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
      sessionStorage.setItem("headswap-matrix", hash);
    } catch { /* the filters work without */ }
  };

  // ---- filters and order ------------------------------------------------------------------------------------
  const fits = (cell) =>
    (!state.outcome.size || state.outcome.has(cell[0])) && (!state.evidence || data.evidence[cell[1]] === state.evidence);

  const selected = () => {
    const terms = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const hits = terms.map((term) => messages.map((text) => text.includes(term)));
    return rows.filter((row) =>
      (!state.family || data.families[row.family] === state.family) &&
      (!state.zoo || data.zoos[row.zoo] === state.zoo) &&
      (!state.differs || row.differs) &&
      ((!state.outcome.size && !state.evidence) || row.present.some(fits)) &&
      terms.every((term, place) => row.searched.includes(term) || row.present.some((cell) => hits[place][cell[3]])));
  };

  const ORDERS = {
    "": (a, b) => a.worst - b.worst || b.bad - a.bad,
    name: (a, b) => (a.name < b.name ? -1 : Number(a.name > b.name)),
    family: (a, b) => (data.families[a.family] < data.families[b.family] ? -1 : Number(a.family !== b.family)),
    time: (a, b) => a.seconds - b.seconds,
    memory: (a, b) => (a.memory ?? -1) - (b.memory ?? -1),
  };
  const orderOf = (sort) => {
    const column = data.columns.indexOf(sort.startsWith("check:") ? sort.slice(6) : "\0");
    if (column < 0) return ORDERS[sort] || ORDERS[""];
    const rank = (row) => (row.cells[column] ? row.cells[column][0] : data.outcomes.length);
    return (a, b) => rank(a) - rank(b);
  };

  // ---- the table --------------------------------------------------------------------------------------------
  let shown = [], drawn = 0;
  const headings = [["name", "Architecture"], ["family", "Family"], ...data.columns.map((name) => [`check:${name}`, name]), ["time", "Time"], ["memory", "Peak MB"]];

  const drawHead = () => {
    const line = el("tr");
    for (const [key, title] of headings) {
      const button = el("button", { type: "button" });
      title.split(/(?<=_)/).forEach((part, place) => button.append(...(place ? [el("wbr"), part] : [part])));
      button.addEventListener("click", () => {
        const down = key === "time" || key === "memory"; // the largest first is what one looks for
        state.down = state.sort === key ? !state.down : down;
        state.sort = key;
        update();
      });
      const numeric = key === "time" || key === "memory";
      line.append(el("th", { scope: "col", className: key.startsWith("check:") ? "cell" : `${key}${numeric ? " number" : ""}` }, button));
    }
    table.tHead.replaceChildren(line);
  };

  const tell = (row, column) => {
    const cell = row.cells[column], name = data.columns[column];
    if (!cell) return `${name}: no result`;
    const parts = [`${name}: ${data.outcomes[cell[0]]}`];
    if (data.byVersion) parts.push(cell[4] ? `${cell[4]} of ${cell[5]} bad` : `${cell[5]} results`);
    if (data.evidence[cell[1]]) parts.push(data.evidence[cell[1]]);
    parts.push(time(cell[2]));
    return `${parts.join(", ")}${cell[3] ? `. ${data.messages[cell[3]]}` : ""}`;
  };

  const drawRow = (row) => {
    const href = `architectures/${row.page}`;
    const line = el("tr", { className: row.differs ? "row-differs" : "" });
    const title = el("a", { href, tabIndex: -1, title: row.name }, row.name);
    line.append(el("th", { scope: "row", className: "name" }, title, ...(row.differs ? [el("span", { className: "differs" }, "differs")] : [])));
    line.append(el("td", { className: "family" }, data.families[row.family]));
    row.cells.forEach((cell, column) => {
      const td = el("td", { className: "cell" });
      const words = tell(row, column);
      if (cell) {
        const link = el("a", { href: `${href}#c${column}`, tabIndex: -1, title: words, "aria-label": words });
        link.append(chip(cell[0], kind(cell[1])));
        if (data.byVersion && cell[4]) link.append(el("small", {}, `${cell[4]}/${cell[5]}`));
        if ((state.outcome.size || state.evidence) && !fits(cell)) td.className += " dim";
        td.append(link);
      } else {
        td.append(el("span", { tabIndex: -1, title: words, "aria-label": words }));
      }
      line.append(td);
    });
    line.append(el("td", { className: "time number" }, time(row.seconds)));
    line.append(el("td", { className: "memory number" }, row.memory === null ? "" : count(row.memory)));
    return line;
  };

  const drawMore = () => {
    if (drawn >= shown.length) return;
    const some = document.createDocumentFragment();
    for (const row of shown.slice(drawn, drawn + CHUNK)) some.append(drawRow(row));
    drawn += CHUNK;
    body.append(some);
  };

  const drawTable = () => {
    const order = orderOf(state.sort), turn = state.down ? -1 : 1;
    shown = selected().sort((a, b) => turn * order(a, b) || a.number - b.number);
    drawn = 0;
    body.replaceChildren();
    scroll.scrollTop = 0;
    drawMore();
    const first = body.querySelector("a");
    if (first) first.tabIndex = 0;
    table.setAttribute("aria-rowcount", String(shown.length + 1));
    byId("none").hidden = shown.length > 0;
    byId("shown").textContent = shown.length === rows.length ? `${count(rows.length)} architectures` : `${count(shown.length)} of ${count(rows.length)} architectures`;
    [...table.tHead.rows[0].cells].forEach((cell, place) => {
      const mine = headings[place][0] === state.sort;
      cell.setAttribute("aria-sort", mine ? (state.down ? "descending" : "ascending") : "none");
    });
  };

  // ---- controls ---------------------------------------------------------------------------------------------
  const fill = (select, texts, all) => {
    const sorted = texts.filter(Boolean).sort();
    select.replaceChildren(el("option", { value: "" }, all), ...sorted.map((text) => el("option", { value: text }, text)));
    return sorted.length;
  };
  const connect = (id, key, event = "change") => {
    byId(id).addEventListener(event, () => {
      state[key] = id === "differs" ? byId(id).checked : byId(id).value;
      update();
    });
  };
  const showControls = () => {
    for (const [id, key] of [["search", "q"], ["family", "family"], ["evidence", "evidence"], ["zoo", "zoo"]]) {
      if (byId(id).value !== state[key]) byId(id).value = state[key];
    }
    byId("differs").checked = state.differs;
    for (const tile of byId("outcomes").children) {
      tile.setAttribute("aria-pressed", String(state.outcome.has(data.outcomes.indexOf(tile.dataset.outcome))));
    }
  };
  const update = () => {
    showControls();
    drawTable();
    writeHash();
  };
  const clear = () => {
    state = { ...initial(), sort: state.sort, down: state.down };
    update();
  };

  // ---- keys -------------------------------------------------------------------------------------------------
  const focusCell = (line, column) => {
    const target = line.cells[column]?.firstElementChild;
    if (!target || target.tabIndex === undefined) return false;
    body.querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
    target.tabIndex = 0;
    target.focus({ preventScroll: true });
    target.scrollIntoView({ block: "nearest", inline: "nearest" });
    return true;
  };
  const FAMILY = 1, LAST = data.columns.length + 1;
  const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-10, 0], PageDown: [10, 0] };
  body.addEventListener("keydown", (event) => {
    const cell = event.target.closest("th, td");
    if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
    let line = cell.parentElement.sectionRowIndex, column = cell.cellIndex;
    if (event.key === "Home") column = 0;
    else if (event.key === "End") column = LAST;
    else if (STEPS[event.key]) {
      line = Math.max(0, line + STEPS[event.key][0]);
      column += STEPS[event.key][1];
      if (column === FAMILY) column += STEPS[event.key][1] || 1;
    } else return;
    event.preventDefault();
    while (line >= body.rows.length && drawn < shown.length) drawMore();
    focusCell(body.rows[Math.min(line, body.rows.length - 1)], Math.max(0, Math.min(column, LAST)));
  });
  document.addEventListener("keydown", (event) => {
    const search = byId("search");
    if (event.key === "/" && !event.target.closest("input, select, textarea")) {
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.target === search && event.key === "ArrowDown" && body.rows.length) {
      event.preventDefault();
      focusCell(body.rows[0], 0);
    }
  });

  // ---- begin ------------------------------------------------------------------------------------------------
  fill(byId("family"), data.families.slice(), "all families");
  fill(byId("evidence"), data.evidence.slice(), "any evidence");
  byId("zoo-label").hidden = fill(byId("zoo"), data.zoos.slice(), "all zoos") < 2;
  byId("differs-label").hidden = !data.byVersion;
  connect("search", "q", "input");
  for (const id of ["family", "evidence", "zoo", "differs"]) connect(id, id);
  for (const id of ["reset", "reset-too"]) byId(id).addEventListener("click", clear);
  byId("search").form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => { readHash(); showControls(); drawTable(); });
  addEventListener("beforeprint", () => { while (drawn < shown.length) drawMore(); });
  scroll.addEventListener("scroll", () => {
    if (scroll.scrollTop + 2 * scroll.clientHeight > scroll.scrollHeight) drawMore();
  }, { passive: true });
  drawHead();
  headswap.drawOutcomes((outcome) => {
    if (!state.outcome.delete(outcome)) state.outcome.add(outcome);
    update();
  });
  headswap.drawFamilies((name) => {
    state.family = state.family === name ? "" : name;
    update();
  });
  readHash();
  update();
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
})();
