// The evidence panel: removal curves, what each method noted on the way, and an evaluation's tables.

const OPERATORS = { zero: "A removed token\u2019s embedding is zero." };
const STATUS = {
  found: "found by the search",
  at_floor: "at the floor: some token flips the prediction at the smallest scale tried",
  not_reached: "not reached: no token flips the prediction inside the bracket",
  fixed: "fixed, not searched",
};
const NO_CURVES = "This result holds no removal curves. noiser.with_curves(lm, result) makes them, --curves on the command line, "
  + "and the box \u201cRemoval curves\u201d in the web app.";
// A plain name for a note, and what it means.
const NOTES = {
  layout: ["How it ran", "packed: the prompt once, and behind it only what each edit changes; full: every edit as a whole row, and why"],
  flipped: ["Flips at k", "The tokens whose noise at the scale k flips the prediction; none for k_min in the paper\u2019s variant"],
  first_to_flip: ["Flips first", "The token seen to flip the prediction at the smallest scale"],
  tie: ["Tied prediction", "Whether several tokens share the prediction\u2019s probability; the lowest id counts"],
  non_monotone: ["Flips and flips back", "How many tokens were seen to flip the prediction at one scale and not at a larger one; "
    + "above 0, search=exact is the safe choice"],
  r2: ["Fit (R\u00b2)", "How much of the variation over the subsets the linear model explains; 1 is all of it"],
  sampler: ["Sampler", "exact: all sets of units; permutation: pairs of an order and its reverse; leverage: a regression on pairs of sets"],
  coalitions: ["Sets run", "How many sets of units went through the model"],
  empty: ["Without any unit", "The explained quantity when every unit is replaced"],
  efficiency_gap: ["Sum is off by", "By how much the values miss the change from no unit to the whole prompt; 0 is exact"],
  completeness_gap: ["Sum is off by", "Completeness gap: by how much the contributions miss the change from the baseline to the prompt, "
    + "in units of the quantity; 0 is exact"],
  completeness_gaps: ["Each is off by", "Completeness gaps: by how much each token\u2019s contributions miss what occlusion measures; 0 is exact"],
};

// A <section> with the evidence for and against the scores. It follows the store. `level` is the level of its heading.
function evidencePanel(view, store, level = 3) {
  const curves = h("div", { class: "noiser-curves" });
  const notes = h("div", { class: "noiser-notes" });
  let drawn = null;
  let move = null;
  const update = (state) => {
    const key = JSON.stringify([state.target, state.hidden, state.sort, state.reference]);
    if (key !== drawn) {
      drawn = key;
      move = fillCurves(curves, view, store);
      notes.replaceChildren(...visibleRows(view, state).map((row) => methodNotes(view, row, state.target, level + 2)));
    }
    move(state);
  };
  update(store.get());
  store.subscribe(update);
  return h("section", { class: "noiser-evidence", "aria-label": "Evidence" },
    h(`h${level}`, { text: "Evidence" }), curves,
    h(`h${level + 1}`, { text: "What each method noted" }), notes, evaluationPart(view.evaluation, level + 1));
}

// Redraws the curves. Returns the function that moves them to another number of tokens.
function fillCurves(into, view, store) {
  const state = store.get();
  const lines = curveLines(view, state);
  if (!lines.length) {
    into.replaceChildren(h("p", { class: "noiser-hint", text: NO_CURVES }));
    return () => {};
  }
  const steps = [...new Set(lines.flatMap((line) => line.curve.counts))].sort((a, b) => a - b);
  const domain = valueDomain(lines, view.targets[state.target]);
  const charts = ["removed", "kept"].map((kind) => removalChart(kind, lines, steps, domain));
  const table = curveTable(lines);
  const struck = struckPrompt(view, lines, state);
  const slider = countSlider(steps, store);
  const operator = String(lines[0].curve.operator);
  into.replaceChildren(
    h("p", { class: "noiser-hint" }, curveSubject(view.targets[state.target])
      + ", as the tokens with the highest scores are removed, and as only they are kept. "
      + "A faithful method makes the first curve fall early and the second rise early. "
      + (Object.hasOwn(OPERATORS, operator) ? OPERATORS[operator] : `Tokens are removed by: ${visible(operator)}.`)
      + (steps.every((step, place) => step === place) ? "" : " Steps along the axes are the numbers measured, not to scale.")),
    h("div", { class: "noiser-charts" }, charts.map((chart) => chart.element)),
    slider.element, h("div", { class: "noiser-beside" }, table.element, struck.element));
  return (now) => {
    const place = stepIndex(steps, now.curve);
    for (const part of [slider, ...charts, table, struck]) part.move(steps[place], place);
  };
}

// The curves of the visible rows that have any: {row, name, curve}.
function curveLines(view, state) {
  const curveOf = (row) => (view.rows[row].curves || [])[state.target];
  const lines = visibleRows(view, state).map((row) => ({ row, name: rowName(view, row), curve: curveOf(row) }));
  return lines.filter(({ curve }) => curve && Array.isArray(curve.counts) && curve.counts.length > 1);
}

// The quantity of the curves, in words.
function curveSubject(target) {
  const name = quantityName(target).replace(/^./, (letter) => letter.toUpperCase());
  if (String(target.quantity).startsWith("function")) return name;
  if (Object.hasOwn(DISTANCES, target.quantity)) return `Minus the ${quantityName(target)} from the clean prediction`;
  const foil = target.foil ? ` ${target.quantity === "log_odds" ? "over" : "less that of"} \u201c${trimmedForQuotes(target.foil_text ?? "")}\u201d` : "";
  return `${name} of \u201c${trimmedForQuotes(target.text)}\u201d${foil}`;
}

// The lowest and highest value of all curves. The scale of a probability begins at 0.
function valueDomain(lines, target) {
  const values = lines.flatMap(({ curve }) => [...curve.removed, ...curve.kept]).filter(Number.isFinite);
  const reduced = (best, first) => values.reduce((a, b) => best(a, b), first);
  const fromZero = ["prob", "mean_prob"].includes(target.quantity);
  const [low, high] = [reduced(Math.min, fromZero ? 0 : Infinity), reduced(Math.max, fromZero ? 0 : -Infinity)];
  if (!Number.isFinite(low)) return [0, 1];
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

// A chart in words.
function chartText(kind, lines, count) {
  const said = lines.map(({ name, curve }) => {
    const [from, to] = [curve[kind][0], curve[kind][curve.counts.indexOf(count)]];
    const verb = to < from ? "falls" : to > from ? "rises" : "stays";
    const what = verb === "stays" ? verb : `${verb} to ${amount(to)}`;
    return `${name}: ${amount(from)} ${what} with ${count} of ${curve.counts.at(-1)} tokens ${kind}`;
  });
  return `Chart of tokens ${kind}. ${said.join("; ")}.`;
}

// The index of a count among the steps. Without a count, that of about a fifth of the tokens.
function stepIndex(steps, count) {
  const wanted = count === null || count === undefined ? steps[steps.length - 1] / 5 : count;
  const place = steps.findIndex((step) => step >= wanted);
  return place < 0 ? steps.length - 1 : place;
}

// Ascending heights, moved as little as possible to keep them apart between two bounds. Close ones form a stack around their mean.
function spreadApart(wanted, low, high) {
  const apart = Math.min(15, (high - low) / wanted.length);
  const tall = (stack) => (stack.length - 1) * apart;
  const mean = (stack) => stack.reduce((sum, each) => sum + each, 0) / stack.length;
  const topOf = (stack) => Math.max(low, Math.min(high - tall(stack), mean(stack) - tall(stack) / 2));
  const close = (above, below) => above && topOf(above) + tall(above) + apart > topOf(below);
  const stacks = [];
  for (const each of wanted) {
    stacks.push([each]);
    while (close(stacks.at(-2), stacks.at(-1))) stacks.push(stacks.splice(-2).flat());
  }
  return stacks.flatMap((stack) => stack.map((_, n) => topOf(stack) + n * apart));
}

// A number for the page, without a plus sign: four decimals, or an exponent.
function amount(value) {
  if (!Number.isFinite(value)) return "n/a";
  return reading(value).replace(/^\+/, "");
}

// A slider over the measured counts of removed or kept tokens.
function countSlider(steps, store) {
  const all = thousands(steps[steps.length - 1]);
  const said = h("output", {});
  const on = { input: () => store.set({ curve: steps[Number(input.value)] }) };
  const label = "How many tokens are removed, or kept";
  const input = h("input", { type: "range", min: 0, max: steps.length - 1, step: 1, "aria-label": label, on });
  const move = (count, place) => {
    input.value = String(place);
    input.setAttribute("aria-valuetext", `${count} of ${all} tokens`);
    said.textContent = `${thousands(count)} of ${all}`;
  };
  return { element: h("label", { class: "noiser-count" }, h("span", { text: "Highest-scoring tokens" }), input, said), move };
}

// The stored values at the chosen count, one row for each method.
function curveTable(lines) {
  const rows = lines.map(({ row, name, curve }) => ({ row, name, curve, cells: [h("td", {}), h("td", {})] }));
  const caption = h("caption", {});
  const heads = ["Method", "Removed", "Kept"].map((text) => h("th", { scope: "col", text }));
  const body = rows.map(({ row, name, cells }) => h("tr", {}, h("th", { scope: "row" }, lineSample(row), name), cells));
  const move = (count) => {
    caption.textContent = count === 1 ? "With the highest token" : `With the ${thousands(count)} highest tokens`;
    for (const { curve, cells } of rows) {
      const at = curve.counts.indexOf(count);
      cells[0].replaceChildren(valueElement(curve.removed[at]));
      cells[1].replaceChildren(valueElement(curve.kept[at]));
    }
  };
  return { element: h("table", { class: "noiser-values" }, caption, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, body)), move };
}

// A rounded value; the element holds the stored one.
function valueElement(value) {
  return Number.isFinite(value) ? h("data", { value, title: value, text: amount(value) }) : "n/a";
}

// A copy of the prompt with the removed tokens struck out.
function struckPrompt(view, lines, state) {
  const scrolls = view.texts.length > 150 && { tabindex: 0, role: "group", "aria-label": "The prompt, with what is removed struck out" };
  const text = h("p", { class: "noiser-struck", ...scrolls });
  let [pieces, order, struck] = [[], [], 0];
  const move = (count) => {
    strike(pieces, order, struck, count);
    struck = count;
  };
  const draw = () => {
    printed.textContent = lines[Math.max(0, select.selectedIndex)].name;
    order = lines[Math.max(0, select.selectedIndex)].curve.order;
    pieces = view.texts.slice(0, contextLength(view, state.target)).map((piece) => h("span", { text: piece.replace(/\u23ce/g, "\u23ce\n") }));
    text.replaceChildren(...pieces);
    const count = struck;
    struck = 0;
    move(count);
  };
  const printed = h("span", { class: "noiser-printed" });
  const options = lines.map(({ name }, place) => h("option", { value: place, text: name }));
  const select = h("select", { on: { change: draw } }, options);
  select.selectedIndex = Math.max(0, lines.findIndex((line) => line.row === state.method));
  draw();
  const hint = h("p", { class: "noiser-hint", text: "The first curve is without the tokens struck out, the second with them alone." });
  return { element: h("div", { class: "noiser-removed" }, h("label", {}, "Removed by ", select, printed), text, hint), move };
}

// Strikes out the tokens between two counts, or restores them.
function strike(pieces, order, from, to) {
  for (let place = Math.min(from, to); place < Math.max(from, to); place++) {
    const piece = pieces[order[place]];
    if (!piece) continue;
    const [whole, spaces, rest] = /^( *)([^]*)$/.exec(piece.textContent);
    piece.replaceChildren(...(to > from ? (rest ? [spaces, h("del", { text: rest })] : [h("del", { text: whole })]) : [whole]));
  }
}

// The notes, cost, options and warnings of a method.
function methodNotes(view, row, target, level) {
  const { notes, warnings } = notesOf(view, row, target);
  const entry = ([name, value, title]) => h("div", { title }, h("dt", { text: name }), h("dd", { text: value }));
  const entries = [...noteEntries(view, view.rows[row], notes)].map(entry);
  const marked = warnings.map((sentence) => h("li", {}, h("span", { class: "noiser-mark", "aria-hidden": "true", text: "!" }), sentence));
  return h("article", {}, h(`h${level}`, { text: rowName(view, row) }),
    marked.length > 0 && h("ul", { class: "noiser-cautions", "aria-label": "Warnings" }, marked),
    ...healthPart(view.rows[row].health), h("dl", {}, entries), ...cardPart(view.rows[row].card));
}

// What may be wrong with a result, and what to do.
function healthPart(health) {
  const sentences = (health || []).map(({ said, remedy }) => h("li", {}, visible(said), " ", h("b", { text: visible(remedy) })));
  return sentences.length ? [h("ul", { class: "noiser-health", "aria-label": "Health" }, sentences)] : [];
}

// The contract card, folded.
function cardPart(card) {
  if (!card) return [];
  const entries = Object.entries(card).map(([name, value]) => h("div", {}, h("dt", { text: noteName(name) }), h("dd", { text: visible(value) })));
  return [h("details", { class: "noiser-card" }, h("summary", { text: "Contract card: what is explained, and how" }), h("dl", {}, entries))];
}

// Name, text and title of each note of a row.
function* noteEntries(view, row, notes) {
  const { k, k_status: status, layout, warnings, levels, ...others } = notes; // the view of sources has the levels
  const found = Object.hasOwn(STATUS, status) ? STATUS[status] : visible(status);
  if (k !== undefined) yield [`k (${visible(row.options.bound || "scale")})`, `${scaleRange(k)}, ${found}`];
  if (row.cost) yield ["Cost", costText(row.cost)];
  if (layout !== undefined) yield [NOTES.layout[0], visible(layout), NOTES.layout[1]];
  const options = Object.entries(row.options).map(([name, value]) => `${visible(name)} ${noteText(view, name, value)}`);
  if (options.length) yield ["Options", options.join(", ")];
  yield ["Seed", row.seed === null ? "none, nothing is drawn at random" : visible(row.seed)];
  for (const [name, value] of Object.entries(others)) {
    const [word, title] = Object.hasOwn(NOTES, name) ? NOTES[name] : [noteName(name)];
    yield [word, noteText(view, name, value), title];
  }
}

function noteName(name) {
  return visible(name.replace(/_/g, " ")).replace(/^./, (letter) => letter.toUpperCase());
}

// One scale, or the range of several.
function scaleRange(k) {
  if (!Array.isArray(k)) return amount(k);
  return `${amount(k.reduce((a, b) => Math.min(a, b), Infinity))} to ${amount(k.reduce((a, b) => Math.max(a, b), -Infinity))}`;
}

// A note's value in words. Positions of tokens get their labels.
function noteText(view, name, value) {
  const label = (token) => `${view.labels[token] ?? "?"} (position ${token})`;
  if (name === "first_to_flip" && Number.isInteger(value)) return label(value);
  if (name === "flipped" && Array.isArray(value)) return value.length ? clip(value.slice(0, 40).map(label).join(", "), 160) : "none";
  if (name === "prediction" && value) return `\u201c${trimmedForQuotes(visible(value.token))}\u201d, p = ${short(value.prob)}`;
  if (value === null) return "none";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return minus(Number.isInteger(value) ? thousands(value) : String(Number(value.toPrecision(6))));
  if (Array.isArray(value) && value.every(Number.isFinite)) return clip(value.map(amount).join(", "), 160);
  return clip(visible(typeof value === "string" ? value : JSON.stringify(value)), 160);
}

// A cost in words.
function costText(cost) {
  const backward = cost.backward_tokens ? [`${thousands(cost.backward_tokens)} backward`] : [];
  const peak = cost.peak_bytes ? [`peak ${(cost.peak_bytes / 1e9).toFixed(1)} GB`] : [];
  return [`${cost.seconds.toFixed(1)} s`, `${thousands(cost.forward_tokens)} token-forwards`, ...backward, ...peak].join(", ");
}

// The tables of an evaluation.
function evaluationPart(evaluation, level) {
  if (!evaluation) return [];
  const remarks = (evaluation.remarks || []).map((text) => h("li", { text }));
  const tables = evaluation.tables || [];
  const notes = [...new Set(tables.flatMap((table) => table.notes || []))].map((text) => h("p", { class: "noiser-hint", text }));
  const list = remarks.length > 0 && h("ul", {}, remarks);
  return [h(`h${level}`, { text: `Evaluation: ${evaluation.title}` }), notes, tables.map(metricTable), list];
}

function metricTable({ title, columns: heads, rows }) {
  const head = heads.map((text) => h("th", { scope: "col", text }));
  const body = rows.map(([name, ...values]) => h("tr", {}, h("th", { scope: "row", text: name }), values.map((text) => h("td", { text }))));
  const drawn = h("table", {}, h("caption", { text: title }), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body));
  return h("div", { class: "noiser-metric", tabindex: 0, role: "region", "aria-label": title }, drawn);
}
