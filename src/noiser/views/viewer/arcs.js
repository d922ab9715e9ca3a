// Interactions: the prompt with arcs between the units that do most together, and a table of the same pairs.

const PAIR_COUNTS = [5, 10, 20, 50];
const MOST_WIDTH = 5; // of an arc, in pixels

// Draws a view with interactions at the end of `element`. Returns {root, store, destroy} as `mount` does.
function mountInteractions(element, given, options = {}) {
  colourSheet();
  const view = completeView(given);
  const { unit, pairs } = view.interactions;
  const viewer = { id: `noiser-${++mounted}`, view, store: createStore({ ...DEFAULTS, unit }), level: options.level || 2 };
  const shown = createStore({ count: Math.min(10, pairs.length), lit: null });
  const text = buildText(viewer, 0);
  paintText(viewer, text);
  const arcs = svgEl("svg", { class: "noiser-arcs", "aria-hidden": "true" });
  const stage = h("div", { class: "noiser-stage noiser-one" }, arcs, text.element);
  const table = h("table", { class: "noiser-bars noiser-pairs" });
  const draw = () => {
    drawArcs(arcs, stage, text, view, shown.get());
    litParts(text, view, shown.get());
    [...table.querySelectorAll("tbody tr")].forEach((row, n) => row.classList.toggle("noiser-lit", isLit(pairs[n], n, shown.get().lit)));
  };
  shown.subscribe((state, before) => {
    if (changed(state, before, "count")) fillPairs(table, viewer, state.count);
    draw();
  });
  fillPairs(table, viewer, shown.get().count);
  followPairs(stage, table, shown, text);
  const root = h(
    "section",
    { class: "noiser", id: viewer.id, "aria-label": view.title || "Interactions" },
    ...interactionHead(viewer),
    pairCounts(pairs.length, shown, unit),
    stage,
    table,
  );
  element.append(root);
  const observer = new ResizeObserver(draw);
  observer.observe(stage);
  draw();
  return { root, store: viewer.store, destroy: () => (observer.disconnect(), root.remove()) };
}

// The question, what is explained, how it was computed, and what the colours mean.
function interactionHead({ view, level }) {
  const { unit, facts, warnings } = view.interactions;
  const asked = question(view, 0);
  const answer = asked.answer ? ["Which ", `${unit}s`, " work together for ", h("b", { text: `\u201c${asked.answer}\u201d` }), "?"] : [`${asked.lead}.`];
  const foil = asked.foil === null ? "" : ` (${asked.between} \u201c${asked.foil}\u201d)`;
  return [
    h(`h${level}`, { class: "noiser-question" }, ...answer),
    h("p", { class: "noiser-facts", text: `${asked.facts}${foil}` }),
    h("p", { class: "noiser-quiet", text: facts }),
    warnings.length ? h("ul", { class: "noiser-failures" }, ...warnings.map((text) => h("li", { text }))) : null,
    h(
      "p",
      { class: "noiser-hint noiser-meaning" },
      `A solid orange arc: together the two ${unit}s do more than each alone. A dashed blue arc: they do less, because one is enough or one `
        + "counteracts the other. The wider, the stronger. The colour of a ", `${unit} is its Shapley value.`,
    ),
  ].filter(Boolean);
}

function pairCounts(total, shown, unit) {
  const counts = [...PAIR_COUNTS.filter((count) => count < total), Math.min(total, 200)];
  const name = (count) => (count === total ? `all ${total}` : String(count));
  const select = h("select", null, ...counts.map((count) => h("option", { value: count, text: name(count), selected: count === shown.get().count })));
  select.addEventListener("change", () => shown.set({ count: Number(select.value), lit: null }));
  return h("div", { class: "noiser-controls" }, h("label", { class: "noiser-group" }, h("span", { text: `Strongest pairs of ${unit}s` }), select));
}

// The rows of the table: both units, a bar, and the interaction.
function fillPairs(table, viewer, count) {
  const { pairs, unit } = viewer.view.interactions;
  const { labels } = columns(viewer.view, unit);
  const largest = Math.abs(pairs[0]?.[2] || 0) || 1;
  const name = (first, second) => `${labels[first]}  +  ${labels[second]}`;
  const rows = pairs.slice(0, count).map(([first, second, value], n) => pairRow(n, name(first, second), value, value / largest));
  const heads = ["Place", "Pair", "", "Interaction"].map((text) => h(text ? "th" : "td", text ? { scope: "col", text } : null));
  table.replaceChildren(
    h("caption", { text: "Bars to the right: more together than each alone; bars to the left: less" }),
    h("thead", null, h("tr", null, ...heads)),
    h("tbody", null, ...rows),
  );
}

function pairRow(place, name, value, share) {
  const fill = h("i", { class: stepClass(Math.sign(share) * 0.8) });
  fill.style.width = `${Math.abs(share) * 50}%`;
  fill.style[share < 0 ? "right" : "left"] = "50%";
  return h(
    "tr",
    { "data-pair": place, tabindex: 0 },
    h("td", { text: place + 1 }),
    h("th", { scope: "row", text: name }),
    h("td", null, h("div", { class: "noiser-bar", "aria-hidden": "true" }, fill)),
    h("td", { text: reading(value) }),
  );
}

// Marks what the pointer or the keyboard is at: a unit of the text with all its pairs, or one pair of the table.
function followPairs(stage, table, shown, text) {
  const at = (event) => {
    const part = event.target.closest("[data-token]");
    const row = event.target.closest("[data-pair]");
    if (part) shown.set({ lit: { unit: Number(part.dataset.token) } });
    else if (row) shown.set({ lit: { pair: Number(row.dataset.pair) } });
  };
  for (const element of [stage, table]) {
    element.addEventListener("mouseover", at);
    element.addEventListener("focusin", at);
    element.addEventListener("mouseleave", () => shown.set({ lit: null }));
    element.addEventListener("focusout", () => shown.set({ lit: null }));
  }
  stage.addEventListener("keydown", (event) => {
    if (!event.altKey && !event.ctrlKey && !event.metaKey && moveInText(event, [text])) event.preventDefault();
  });
}

function isLit(pair, place, lit) {
  return lit !== null && (lit.pair === place || lit.unit === pair[0] || lit.unit === pair[1]);
}

function litParts(text, view, { lit }) {
  const pair = lit && lit.pair !== undefined ? view.interactions.pairs[lit.pair] : null;
  const units = pair ? pair.slice(0, 2) : lit ? [lit.unit] : [];
  text.parts.forEach((parts, unit) => parts.forEach((part) => part.classList.toggle("noiser-lit", units.includes(unit))));
}

// Redraws the arcs where the words stand now; the lit ones last, so that they lie on top.
function drawArcs(svg, stage, text, view, { count, lit }) {
  const frame = stage.getBoundingClientRect();
  const boxes = text.parts.map((parts) => (parts.length ? parts[0].getClientRects()[0] : null));
  const largest = Math.abs(view.interactions.pairs[0]?.[2] || 0) || 1;
  const drawn = view.interactions.pairs.slice(0, count).map((pair, place) => {
    const [from, to] = [boxes[pair[0]], boxes[pair[1]]];
    if (!from || !to || pair[2] === 0) return null;
    const share = Math.abs(pair[2]) / largest;
    const look = lit === null ? "" : isLit(pair, place, lit) ? " noiser-arc-lit" : " noiser-arc-dim";
    return svgEl("path", {
      class: `noiser-arc noiser-arc-${pair[2] > 0 ? "more" : "less"}${look}`,
      d: arcPath(from, to, frame),
      "stroke-width": (1 + (MOST_WIDTH - 1) * share).toFixed(2),
      "stroke-opacity": (0.35 + 0.6 * share).toFixed(2),
    });
  });
  svg.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
  svg.replaceChildren(...drawn.filter(Boolean).reverse());
  svg.append(...svg.querySelectorAll(".noiser-arc-lit"));
}

// Above the words on one line; from the upper word's lower edge to the lower word's upper edge otherwise.
function arcPath(from, to, frame) {
  const middle = (box) => box.left + box.width / 2 - frame.left;
  const near = (a, b) => Math.abs(a - b) < 4;
  const point = (x, y) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  if (near(from.top, to.top)) {
    const y = from.top - frame.top - 1;
    const rise = Math.min(44, 14 + Math.abs(middle(to) - middle(from)) / 8);
    return `M${point(middle(from), y)}C${point(middle(from), y - rise)} ${point(middle(to), y - rise)} ${point(middle(to), y)}`;
  }
  const [upper, lower] = from.top < to.top ? [from, to] : [to, from];
  const [start, end] = [upper.bottom - frame.top + 1, lower.top - frame.top - 1];
  const bend = Math.max(10, (end - start) / 2);
  return `M${point(middle(upper), start)}C${point(middle(upper), start + bend)} ${point(middle(lower), end - bend)} ${point(middle(lower), end)}`;
}
