"use strict";
// What the matrix shows: the state that the address holds, and the rows that it selects, in order.
headswap.view = (() => {
  const { data, patterns, pattern, differs } = headswap;
  const TEXTS = ["q", "check", "family", "evidence", "zoo", "cause", "sort", "model"];
  const empty = () => ({ ...Object.fromEntries(TEXTS.map((key) => [key, ""])), outcome: new Set(), differs: false, down: false });
  const state = empty();

  // ---- the address ------------------------------------------------------------------------------------------
  const reset = (kept = {}) => Object.assign(state, empty(), kept);
  const read = (hash) => {
    const given = new URLSearchParams(hash);
    reset();
    for (const key of TEXTS) state[key] = given.get(key) ?? "";
    const outcomes = (given.get("outcome") || "").split(",").map((name) => data.outcomes.indexOf(name));
    state.outcome = new Set(outcomes.filter((place) => place >= 0));
    state.differs = given.has("differs");
    state.down = given.has("down");
  };
  const toText = () => {
    const given = new URLSearchParams();
    for (const key of TEXTS) if (state[key]) given.set(key, state[key]);
    if (state.outcome.size) given.set("outcome", [...state.outcome].map((place) => data.outcomes[place]).join(","));
    if (state.differs) given.set("differs", "1");
    if (state.down) given.set("down", "1");
    return given.toString();
  };

  // ---- filters and order ------------------------------------------------------------------------------------
  const lower = data.names.map((name) => name.toLowerCase());
  const messages = data.messages.map((text) => text.toLowerCase());
  const containing = (texts, term) => texts.map((text) => text.toLowerCase().includes(term));

  let fits; // whether a cell matches what is chosen about cells
  const chooseCells = () => {
    const column = data.columns.indexOf(state.check), cause = data.causes.indexOf(state.cause);
    const nothing = !state.outcome.size && !state.evidence && !state.check && !state.cause;
    fits = nothing ? null : (cell, place) =>
      (!state.check || place === column) &&
      (!state.cause || cell[5].includes(cause)) &&
      (!state.outcome.size || state.outcome.has(cell[0])) &&
      (!state.evidence || data.evidence[cell[1]] === state.evidence);
  };
  const rows = () => {
    chooseCells();
    const fitting = fits && patterns.map((one) => one.cells.some((cell, place) => cell && fits(cell, place)));
    const family = state.family && data.families.indexOf(state.family), zoo = state.zoo && data.zoos.indexOf(state.zoo);
    const terms = state.q.toLowerCase().split(/\s+/).filter(Boolean).map((term) => {
      const said = messages.map((text) => text.includes(term));
      return { term, families: containing(data.families, term), zoos: containing(data.zoos, term), patterns: patterns.map((one) => one.present.some((cell) => said[cell[2]])) };
    });
    return order().filter((row) =>
      (!fitting || fitting[data.pattern[row]]) &&
      (family === "" || data.family[row] === family) &&
      (zoo === "" || data.zoo[row] === zoo) &&
      (!state.differs || differs.has(row)) &&
      terms.every((one) => lower[row].includes(one.term) || one.families[data.family[row]] || one.zoos[data.zoo[row]] || one.patterns[data.pattern[row]]));
  };

  const byText = (of) => (a, b) => (of(a) < of(b) ? -1 : Number(of(a) !== of(b)));
  const ORDERS = {
    "": (a, b) => pattern(a).worst - pattern(b).worst || pattern(b).bad - pattern(a).bad,
    name: byText((row) => data.names[row]),
    family: byText((row) => data.families[data.family[row]]),
    time: (a, b) => data.seconds[a] - data.seconds[b],
    memory: (a, b) => (data.memory[a] ?? -1) - (data.memory[b] ?? -1),
  };
  let ordered = [], orderedBy = null;
  const order = () => {
    const wanted = `${state.down}${state.sort}`;
    if (orderedBy !== wanted) {
      const column = data.columns.indexOf(state.sort.startsWith("check:") ? state.sort.slice(6) : "\0");
      const rank = (row) => { const cell = pattern(row).cells[column]; return cell ? cell[0] : data.outcomes.length; };
      const compare = column < 0 ? ORDERS[state.sort] || ORDERS[""] : (a, b) => rank(a) - rank(b);
      const turn = state.down ? -1 : 1;
      ordered = Array.from(data.names, (_, row) => row).sort((a, b) => turn * compare(a, b) || a - b);
      orderedBy = wanted;
    }
    return ordered;
  };

  return { state, reset, read, toText, rows, dim: (cell, place) => Boolean(fits) && !fits(cell, place) };
})();
