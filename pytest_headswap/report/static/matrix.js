"use strict";
// The matrix: its filters, its order, its address, its keys. Only the rows in view are in the document.
(() => {
  const { data, pattern, differs, href, message, byId, el, count, plural, time, chip, view } = headswap;
  const { state } = view;
  const ALL = 300; // so many rows are drawn at once
  const BUFFER = 30; // rows drawn above and below those in view
  const PRINTED = 2000;
  const table = byId("matrix"), scroll = byId("scroll"), body = table.tBodies[0];
  const size = data.names.length;

  // ---- the address: every view is a link --------------------------------------------------------------------
  let typing = false;
  const remember = (hash) => {
    try { sessionStorage.setItem("headswap-matrix", hash); } catch { /* the filters work without */ }
  };
  const writeHash = (push) => {
    const hash = view.toText();
    if (hash !== location.hash.slice(1)) {
      try { history[push ? "pushState" : "replaceState"](null, "", `#${hash}`); } catch { /* as above */ }
    }
    remember(hash);
  };

  // ---- the table --------------------------------------------------------------------------------------------
  let shown = [], first = 0, last = 0, height = 30, printing = false;
  const active = { place: 0, column: 0 };
  const headings = [["name", "Architecture"], ["family", "Family"], ...data.columns.map((name) => [`check:${name}`, name]), ["time", "Time"], ["memory", "Peak MB"]];

  const breakable = (name) => name.split(/(?<=[_.])/).flatMap((part) => [part, el("wbr")]);
  const drawHead = () => {
    const line = el("tr", { "aria-rowindex": "1" });
    for (const [key, title] of headings) {
      const button = el("button", { type: "button" }), label = el("span");
      label.append(...breakable(title));
      button.append(label);
      const numeric = key === "time" || key === "memory"; // the largest first is what one looks for
      button.addEventListener("click", () => {
        state.down = state.sort === key ? !state.down : numeric;
        state.sort = key;
        update();
      });
      line.append(el("th", { scope: "col", className: key.startsWith("check:") ? "cell" : `${key}${numeric ? " number" : ""}` }, button));
    }
    table.tHead.replaceChildren(line);
  };

  const tell = (cell, column, row) => {
    const name = data.columns[column];
    if (!cell) return `${name}: no result`;
    const parts = [`${name}: ${data.outcomes[cell[0]]}`];
    if (data.byVersion) parts.push(cell[3] ? `${cell[3]} of ${cell[4]} bad` : plural(cell[4], "result"));
    if (data.evidence[cell[1]]) parts.push(data.evidence[cell[1]]);
    return `${parts.join(", ")}${cell[2] ? `. ${message(cell, row)}` : ""}`;
  };

  const drawRow = (row, place) => {
    const link = href(row), { cells, worst } = pattern(row);
    const here = data.names[row] === state.model;
    const line = el("tr", { className: `${differs.has(row) ? "row-differs" : ""}${here ? " here" : ""}`, "aria-rowindex": String(place + 2) });
    if (here) line.setAttribute("aria-selected", "true");
    const title = el("a", { tabIndex: -1, title: `${data.names[row]}: ${data.outcomes[worst]}` }, chip(worst), el("span", { className: "text" }, ...breakable(data.names[row])), el("span", { className: "hidden" }, ` ${data.outcomes[worst]}`));
    if (link) title.href = link; else title.setAttribute("role", "note");
    line.append(el("th", { scope: "row", className: "name" }, title, ...(differs.has(row) ? [el("span", { className: "differs" }, "differs")] : [])));
    line.append(el("td", { className: "family" }, data.families[data.family[row]]));
    cells.forEach((cell, column) => {
      const td = el("td", { className: "cell" }), words = tell(cell, column, row);
      const inner = el(cell && link ? "a" : "span", { tabIndex: -1, title: words, "aria-label": words });
      if (cell && link) inner.href = `${link}#${data.anchors[column]}`; else inner.setAttribute("role", "img");
      if (cell) inner.append(chip(cell[0], cell[1]));
      if (cell && data.byVersion && cell[3]) inner.append(el("small", {}, `${cell[3]}/${cell[4]}`));
      if (cell && view.dim(cell, column)) td.className += " dim";
      td.append(inner);
      line.append(td);
    });
    line.append(el("td", { className: "time number" }, time(data.seconds[row])));
    line.append(el("td", { className: "memory number" }, data.memory[row] === null ? "" : count(data.memory[row])));
    return line;
  };

  const draw = (force = false) => {
    drawRows(force);
    byId("frame").classList.toggle("more", scroll.scrollWidth - scroll.clientWidth - scroll.scrollLeft > 3);
  };
  const drawRows = (force) => {
    const top = Math.floor(scroll.scrollTop / height), end = Math.ceil((scroll.scrollTop + scroll.clientHeight) / height);
    const whole = shown.length <= ALL;
    if (!force && (whole || (first <= Math.max(0, top - 5) && last >= Math.min(shown.length, end + 5)))) return;
    first = whole || printing ? 0 : Math.max(0, Math.min(top, shown.length - 1) - BUFFER);
    last = whole ? shown.length : Math.min(shown.length, printing ? PRINTED : end + BUFFER);
    const focused = body.contains(document.activeElement);
    body.replaceChildren(...shown.slice(first, last).map((row, place) => drawRow(row, first + place)));
    const real = body.rows[0]?.getBoundingClientRect().height;
    if (real) height = real;
    table.style.marginTop = `${first * height}px`;
    table.style.marginBottom = printing ? "0" : `${(shown.length - last) * height}px`;
    const drawn = active.place >= first && active.place < last;
    const target = targetAt(drawn ? active.place : first, drawn ? active.column : 0);
    if (target) target.tabIndex = 0;
    if (target && focused && drawn) target.focus({ preventScroll: true });
  };
  const targetAt = (place, column) => body.rows[place - first]?.cells[column]?.firstElementChild;

  const drawTable = () => {
    shown = view.rows();
    const place = state.model ? shown.findIndex((row) => data.names[row] === state.model) : -1;
    Object.assign(active, { place: Math.max(0, place), column: 0 });
    scroll.scrollTop = 0;
    draw(true);
    if (place > 0) {
      scroll.scrollTop = Math.max(0, place * height - scroll.clientHeight / 3);
      draw(true);
    }
    table.setAttribute("aria-rowcount", String(shown.length + 1));
    byId("none").hidden = shown.length > 0;
    byId("shown").textContent = shown.length === size ? plural(size, "architecture") : `${count(shown.length)} of ${plural(size, "architecture")}`;
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const mine = headings[column][0] === state.sort;
      cell.setAttribute("aria-sort", mine ? (state.down ? "descending" : "ascending") : "none");
    });
  };

  // ---- controls ---------------------------------------------------------------------------------------------
  const fill = (select, texts, all, sorted = true) => {
    const present = texts.filter(Boolean);
    if (sorted) present.sort();
    select.replaceChildren(el("option", { value: "" }, all), ...present.map((text) => el("option", { value: text }, text)));
    return present.length;
  };
  const CONTROLS = [["search", "q"], ["check", "check"], ["family", "family"], ["evidence", "evidence"], ["zoo", "zoo"]];
  const showControls = () => {
    for (const [id, key] of CONTROLS) if (byId(id).value !== state[key]) byId(id).value = state[key];
    byId("differs").checked = state.differs;
    for (const tile of byId("outcomes").children) {
      tile.setAttribute("aria-pressed", String(state.outcome.has(data.outcomes.indexOf(tile.dataset.outcome))));
    }
    const cause = byId("cause-filter");
    cause.hidden = !state.cause;
    if (state.cause) {
      const text = byId(`cause-${state.cause}`)?.querySelector(".text")?.textContent ?? "This report does not list that reason.";
      const remove = el("button", { type: "button", className: "quiet" }, "Remove");
      remove.addEventListener("click", () => { state.cause = ""; update(); });
      cause.replaceChildren(el("b", {}, "Only this reason: "), el("span", {}, text), remove);
    }
  };
  const update = (typed = false) => {
    state.model = "";
    showControls();
    drawTable();
    writeHash(!(typed && typing)); // letters typed in a row are one step back
    typing = typed;
  };
  const follow = () => {
    view.read(location.hash.slice(1));
    typing = false;
    showControls();
    drawTable();
    remember(view.toText());
  };
  const clear = () => {
    view.reset({ sort: state.sort, down: state.down });
    update();
  };

  // ---- keys -------------------------------------------------------------------------------------------------
  const FAMILY = 1, LAST = data.columns.length + 1;
  const focusAt = (place, column) => {
    Object.assign(active, { place, column });
    const head = table.tHead.offsetHeight, top = place * height;
    if (top < scroll.scrollTop) scroll.scrollTop = top;
    else if (top + height + head > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = top + height + head - scroll.clientHeight;
    draw();
    body.querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
    const target = targetAt(place, column);
    if (!target) return;
    target.tabIndex = 0;
    target.focus({ preventScroll: true });
    target.scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-10, 0], PageDown: [10, 0] };
  body.addEventListener("keydown", (event) => {
    const cell = event.target.closest("th, td");
    if (!cell || event.metaKey || event.altKey || (event.ctrlKey && event.key !== "Home" && event.key !== "End")) return;
    let place = first + cell.parentElement.sectionRowIndex, column = cell.cellIndex;
    if (event.key === "Home") { column = 0; if (event.ctrlKey) place = 0; }
    else if (event.key === "End") { column = LAST; if (event.ctrlKey) place = shown.length - 1; }
    else if (STEPS[event.key]) {
      place += STEPS[event.key][0];
      column += STEPS[event.key][1];
      if (column === FAMILY) column += STEPS[event.key][1] || 1;
    } else return;
    event.preventDefault();
    focusAt(Math.max(0, Math.min(place, shown.length - 1)), Math.max(0, Math.min(column, LAST)));
  });
  body.addEventListener("click", (event) => {
    const line = event.target.closest("tr");
    if (!line || !event.target.closest("a[href]")) return;
    state.model = data.names[shown[first + line.sectionRowIndex]]; // to come back to
    writeHash(false);
  });
  document.addEventListener("keydown", (event) => {
    const search = byId("search");
    if (event.key === "/" && !event.target.closest("input, select, textarea")) {
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.target === search && event.key === "ArrowDown" && shown.length) {
      event.preventDefault();
      focusAt(0, 0);
    }
  });

  // ---- begin ------------------------------------------------------------------------------------------------
  fill(byId("check"), data.columns.slice(), data.byVersion ? "any version" : "any check", false);
  fill(byId("family"), data.families.slice(), "all families");
  fill(byId("evidence"), data.evidence.slice(), "any evidence");
  byId("zoo-label").hidden = fill(byId("zoo"), data.zoos.slice(), "all zoos") < 2;
  byId("differs-label").hidden = !data.byVersion;
  byId("search").addEventListener("input", () => { state.q = byId("search").value; update(true); });
  for (const id of ["check", "family", "evidence", "zoo"]) byId(id).addEventListener("change", () => { state[id] = byId(id).value; update(); });
  byId("differs").addEventListener("change", () => { state.differs = byId("differs").checked; update(); });
  for (const id of ["reset", "reset-too"]) byId(id).addEventListener("click", clear);
  byId("search").form.addEventListener("submit", (event) => event.preventDefault());
  const toMatrix = () => { if (state.cause || state.model) byId("matrix-section").scrollIntoView(); };
  addEventListener("hashchange", () => { follow(); toMatrix(); });
  const print = (on) => {
    printing = on;
    byId("print-note").textContent = on && shown.length > PRINTED ? `Printed: the first ${count(PRINTED)} of ${plural(shown.length, "architecture")}.` : "";
    draw(true);
  };
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  matchMedia("print").addEventListener("change", (event) => print(event.matches)); // then the page has its size back
  addEventListener("resize", () => draw(true));
  scroll.addEventListener("scroll", () => draw(), { passive: true });
  drawHead();
  table.classList.toggle("by-version", data.byVersion);
  headswap.drawOutcomes((outcome) => {
    if (!state.outcome.delete(outcome)) state.outcome.add(outcome);
    update();
  });
  headswap.drawFamilies((name) => {
    state.family = state.family === name ? "" : name;
    update();
    byId("matrix-section").scrollIntoView();
  });
  follow();
  if (performance.getEntriesByType("navigation")[0]?.type !== "back_forward") toMatrix();
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
})();
