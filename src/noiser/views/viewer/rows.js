// Methods as aligned rows, and one method with its strongest tokens.

const FIRST_TOKENS = 2500; // tokens built before the first paint
const BARS = 15;

// All rows: {element, update(state, before), lit(what), texts()}.
function rowsPart(viewer) {
  const { view, store } = viewer;
  const list = h("div", { class: "noiser-rows" });
  const heads = h("div", { class: "noiser-heads", "aria-hidden": "true" });
  const rows = view.rows.map((_, row) => rowElement(viewer, row));
  const waiting = { stop: () => (cancelAnimationFrame(waiting.frame), clearTimeout(waiting.timer)) };
  const shown = () => visibleRows(view, store.get()).map((row) => rows[row]);
  const update = (state, before) => {
    if (!before || changed(state, before, "unit")) rows.forEach((row) => (row.text = null));
    if (!before || changed(state, before, "unit", "target", "scale", "numbers") || state.scale === "all")
      rows.forEach((row) => (row.painted = false));
    const order = shown();
    const elements = order.length
      ? order.map((row) => row.element)
      : [h("p", { class: "noiser-quiet", text: "All methods are hidden; choose some under \u201cMethods and options\u201d." })];
    if (elements.length !== list.children.length || elements.some((element, i) => element !== list.children[i]))
      list.replaceChildren(...elements);
    headings(viewer, heads);
    fillRows(viewer, order, waiting);
  };
  return {
    element: h("div", null, heads, list),
    update,
    lit(at, old) {
      shown().forEach((row) => highlightRow(viewer, row, at, old));
      if (!heads.hidden)
        heads.children[2].textContent =
          at.column === null ? "" : `Score of ${clip(columns(view, store.get().unit).labels[at.column], 10)}`;
    },
    texts: () =>
      shown()
        .map((row) => row.text)
        .filter(Boolean),
    destroy: waiting.stop,
  };
}

// Draws the first rows at once and the others one by one, so that a long comparison appears early.
function fillRows(viewer, order, waiting) {
  waiting.stop();
  let budget = FIRST_TOKENS;
  order.forEach((row) => updateSide(viewer, row));
  const next = (at) => {
    for (; at < order.length && budget > 0; at++) {
      if (order[at].painted) continue;
      fillRow(viewer, order[at]);
      budget -= viewer.view.labels.length;
    }
    budget = 1;
    if (at < order.length) waiting.frame = requestAnimationFrame(() => (waiting.timer = setTimeout(() => next(at), 0)));
  };
  next(0);
}

function fillRow(viewer, row) {
  if (!row.text) {
    row.text = buildText(viewer, row.row);
    row.slot.replaceChildren(row.text.element, row.rest);
  }
  paintText(viewer, row.text);
  row.painted = true;
  const { rest, largest } = scoresOf(viewer.view, viewer.store.get(), row.row);
  const none = largest === 0 ? "No token has any influence. " : "";
  row.rest.textContent = none + (rest ? `In no ${viewer.store.get().unit}: ${reading(rest)}` : "");
  row.rest.hidden = !row.rest.textContent;
}

function rowElement(viewer, row) {
  const { view, store } = viewer;
  const name = rowName(view, row);
  const open = h("button", {
    type: "button",
    class: "noiser-name",
    text: name,
    title: "Look at this method alone",
    on: { click: () => store.set({ view: "one", method: row }) },
  });
  const parts = {
    row,
    text: null,
    largest: h("div"),
    slot: h("div", { class: "noiser-slot" }),
    rest: h("div", { class: "noiser-rest", hidden: true }),
    value: h("div", { class: "noiser-side noiser-value" }),
    agreement: h("div", { class: "noiser-side noiser-agreement" }),
  };
  const naming = h(
    "div",
    { class: "noiser-naming" },
    h(`h${viewer.level + 1}`, null, view.rows.length > 1 ? open : name),
    parts.largest,
    warningsOf(view, row),
  );
  parts.element = h(
    "div",
    { class: "noiser-row", "data-method": view.rows[row].method, "data-row": row, role: "group", "aria-label": name },
    naming,
    parts.slot,
    parts.value,
    parts.agreement,
    costElement(view.rows[row].cost),
  );
  return parts;
}

function warningsOf(view, row) {
  const { warnings } = notesOf(view, row, 0);
  if (!warnings.length) return null;
  const summary = h("summary", { text: warnings.length === 1 ? "! 1 warning" : `! ${warnings.length} warnings` });
  return h("details", { class: "noiser-warnings" }, summary, h("ul", null, ...warnings.map((text) => h("li", { text }))));
}

function costElement(cost) {
  if (!cost) return h("div", { class: "noiser-side noiser-cost", text: "n/a" });
  const seconds = cost.seconds >= 100 ? `${thousands(cost.seconds)} s` : `${cost.seconds.toFixed(1)} s`;
  const backward = cost.backward_tokens ? `, ${thousands(cost.backward_tokens)} backward` : "";
  const title = `${thousands(cost.forward_tokens)} tokens forward${backward}`;
  return h("div", { class: "noiser-side noiser-cost", title }, seconds, h("small", { text: `${thousands(cost.forward_tokens)} tokens` }));
}

// Updates what stands beside the text: the largest score, and the agreement with the reference row.
function updateSide(viewer, row) {
  const { view, store } = viewer;
  const state = store.get();
  row.largest.textContent = view.rows.length > 1 ? `largest ${brief(scoresOf(view, state, row.row).largest).replace("+", "")}` : "";
  if (view.rows.length < 2) return row.agreement.replaceChildren();
  const reference = referenceRow(view, state);
  const found = agreementOf(view, state, reference, row.row);
  const said = row.row === reference ? "reference" : found === null ? "n/a" : (found < 0 ? "\u2212" : "") + Math.abs(found).toFixed(2);
  const title =
    row.row === reference
      ? "The others are held against this method"
      : `Rank agreement (Spearman) with ${rowName(view, reference)}${agreementScope(view, state)}; press to hold the others against this method`;
  const button = h("button", {
    type: "button",
    text: said,
    title,
    "aria-pressed": String(row.row === reference),
    "aria-label": `${said}. ${title}`,
  });
  button.addEventListener("click", () => {
    store.set({ reference: row.row });
    row.agreement.querySelector("button").focus();
  });
  const heading = row.row !== reference && h("span", { class: "noiser-narrow", "aria-hidden": "true", text: "agreement " });
  row.agreement.replaceChildren(...[heading, button].filter(Boolean));
}

function headings(viewer, heads) {
  const { view, store } = viewer;
  heads.hidden = view.rows.length < 2;
  const state = store.get();
  const reference = view.rows.length ? clip(rowName(view, referenceRow(view, state)), 40) : "";
  const over = state.unit === "token" ? "" : ", over tokens";
  heads.replaceChildren(...["Method", "Prompt", "", `Agreement with ${reference}${over}`, "Cost"].map((text) => h("span", { text })));
}

// Highlights a column in a row and shows its score.
function highlightRow(viewer, row, at, old) {
  if (!row.text) return;
  (row.text.parts[old.column] || []).forEach((part) => part.classList.remove("noiser-lit"));
  (row.text.parts[at.column] || []).forEach((part) => part.classList.add("noiser-lit"));
  const state = viewer.store.get();
  const scored = at.column !== null && inContext(viewer.view, state)[at.column];
  row.value.textContent = scored ? reading(scoresOf(viewer.view, state, row.row).scores[at.column]) : "";
}

// One method: its text, and bars.
function onePart(viewer) {
  const { view, store } = viewer;
  const element = h("div", { class: "noiser-row noiser-one" });
  let text = null;
  let bars = [];
  let all = false;
  const update = (state, before) => {
    const row = state.method;
    Object.assign(element.dataset, { method: view.rows[row].method, row });
    if (!text || text.row !== row || before.unit !== state.unit) text = buildText(viewer, row);
    paintText(viewer, text);
    const table = barsTable(viewer, row, all);
    bars = table ? [...table.querySelectorAll("tbody tr")] : [];
    const count = inContext(view, state).filter(Boolean).length;
    const more = () => {
      all = !all;
      update(store.get(), store.get());
      element.querySelector(".noiser-link").focus();
    };
    const link =
      count > BARS &&
      h("button", {
        type: "button",
        class: "noiser-link",
        text: all ? `Show the ${BARS} strongest` : `Show all ${thousands(count)}`,
        on: { click: more },
      });
    element.replaceChildren(...[oneHeader(viewer, row), text.element, restLine(viewer, row), table, table && link].filter(Boolean));
  };
  const lit = (at, old) => {
    (text.parts[old.column] || []).forEach((part) => part.classList.remove("noiser-lit"));
    (text.parts[at.column] || []).forEach((part) => part.classList.add("noiser-lit"));
    bars.forEach((bar) => bar.classList.toggle("noiser-lit", Number(bar.dataset.token) === at.column));
  };
  return { element, update, lit, texts: () => [text], destroy() {} };
}

function oneHeader(viewer, row) {
  const { view, store } = viewer;
  const cost = view.rows[row].cost;
  const said = cost ? `${cost.seconds.toFixed(1)} s, ${thousands(cost.forward_tokens)} tokens through the model` : "";
  const several = view.rows.length > 1;
  return h(
    "div",
    { class: "noiser-group" },
    several ? null : h(`h${viewer.level + 1}`, { class: "noiser-quiet", text: rowName(view, row) }),
    h("p", { class: "noiser-quiet", text: said }),
    h("div", { class: "noiser-naming" }, warningsOf(view, row)),
  );
}

function restLine(viewer, row) {
  const { rest, largest } = scoresOf(viewer.view, viewer.store.get(), row);
  if (largest === 0) return h("p", { class: "noiser-rest", text: "No token has any influence on this answer, by this method." });
  return rest ? h("p", { class: "noiser-rest", text: `In no ${viewer.store.get().unit}: ${reading(rest)}` }) : null;
}

// The strongest columns with their scores, the strongest first; null if nothing has influence.
function barsTable(viewer, row, all) {
  const { view, store } = viewer;
  const state = store.get();
  const cols = columns(view, state.unit);
  const { scores, largest, place, halves, ranges } = scoresOf(view, state, row);
  const within = inContext(view, state);
  if (largest === 0) return null;
  const half = (i) => halves?.[i] ?? null;
  const reach = Math.max(largest, ...scores.map((score, i) => Math.abs(score) + half(i)));
  const order = place
    .map((_, i) => i)
    .filter((i) => within[i])
    .sort((a, b) => place[a] - place[b] || a - b);
  const chosen = order.slice(0, all ? order.length : BARS);
  const body = chosen.map((i) => barRow(i, placeCell(place[i], isUncertain(ranges, i) && ranges[i]), cols, scores[i], half(i), reach));
  const intervals = halves ? ". Thin lines and \u00b1: 95 % intervals from the method\u2019s own random draws" : "";
  const caption = h("caption", {
    text: `Strongest ${state.unit}s first; bars to the right support the answer, bars to the left oppose it${intervals}`,
  });
  const head = h(
    "thead",
    null,
    h("tr", null, ...["Place", capitalized(state.unit), "", "Score"].map((text) => h(text ? "th" : "td", text ? { scope: "col", text } : null))),
  );
  return h("table", { class: "noiser-bars" }, caption, head, h("tbody", null, ...body));
}

// A place, and the places that it may have.
function placeCell(place, range) {
  if (!range) return h("td", { text: place });
  const text = `${range[0]}\u2013${range[1]}`;
  return h("td", { title: `Place ${place} as measured; at 95 %, for all together, it may be ${range[0]} to ${range[1]}` }, `${place} `,
    h("small", { text: `(${text})` }));
}

// `reach` is the largest value that a bar or its interval comes to.
function barRow(column, place, cols, score, half, reach) {
  const fill = h("i", { class: stepClass(Math.sign(score) * 0.8) });
  fill.style.width = `${(Math.abs(score) / reach) * 50}%`;
  fill.style[score < 0 ? "right" : "left"] = "50%";
  const whisker = half !== null && h("b", { class: "noiser-whisker" });
  if (whisker) {
    whisker.style.left = `${50 + ((score - half) / reach) * 50}%`;
    whisker.style.width = `${(half / reach) * 100}%`;
  }
  const bar = h("div", { class: "noiser-bar", "aria-hidden": "true" }, fill, whisker);
  return h(
    "tr",
    { "data-token": column },
    place,
    h("th", { scope: "row", text: cols.labels[column] }),
    h("td", null, bar),
    h("td", { text: readingWithin(score, half) }),
  );
}

function capitalized(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
