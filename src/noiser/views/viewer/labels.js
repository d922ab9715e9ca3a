// What is drawn for a view and a state: pure functions that know nothing of the page.

// A view with every field. Unknown fields are kept, and scores that are not numbers become 0.
function completeView(given) {
  const view = { title: "", model: "", units: {}, roles: {}, failures: {}, evaluation: null, ...given };
  view.prompt = { text: "", input_ids: [], tokens: [], ...view.prompt };
  const raw = view.prompt.tokens;
  view.labels = view.labels || raw.map((token) => visible(token).replace(/^ /, "\u00b7"));
  view.texts = view.texts || raw.map(visible);
  view.special = view.special || raw.map(() => false);
  view.units = { ...view.units };
  view.roles = view.roles || {};
  view.failures = view.failures || {};
  view.sources = view.sources || null;
  view.targets = (view.targets || []).map((target) => completeTarget(target, view.labels.length));
  view.rows = (view.rows || []).map((row) => completeRow(row, view));
  view.agreement = { spearman: [], top3_overlap: [], ...view.agreement };
  return view;
}

function completeTarget(target, length) {
  const raw = (target.tokens || []).join("");
  const value = target.value === undefined ? target.prob : target.value;
  const context = target.context || length;
  return { quantity: "prob", rank: 0, foil: null, label: visible(raw), text: visible(raw), ...target, value, context };
}

function completeRow(row, view) {
  const length = view.labels.length;
  const scores = view.targets.map((_, n) => {
    const own = (row.scores || [])[n] || [];
    return Array.from({ length }, (_, i) => (Number.isFinite(own[i]) ? own[i] : 0));
  });
  return { method: "method", options: {}, seed: null, unit: "token", notes: {}, cost: null, curves: [], ...row, scores, ...errorsOf(row) };
}

// A row's standard errors and critical values, if both are there and are numbers; else null.
function errorsOf({ stderr, critical }) {
  const numbers = (lists) => lists.every((list) => Array.isArray(list) && list.every((each) => Number.isFinite(each) && each >= 0));
  const whole = Array.isArray(stderr) && critical && numbers(stderr) && Array.isArray(critical.each) && numbers(Object.values(critical));
  return { stderr: whole ? stderr : null, critical: whole ? critical : null };
}

// The name of a row, unlike every other row's: its label. Older results have no labels: where a method comes twice, its name is followed
// by the options that differ.
function rowName(view, row) {
  const { method, label = method, options } = view.rows[row];
  const equal = view.rows.filter((other) => (other.label ?? other.method) === label);
  if (equal.length === 1) return visible(label).replace(/,/g, ";");
  const differs = Object.keys(options).filter((key) =>
    equal.some((other) => JSON.stringify(other.options[key]) !== JSON.stringify(options[key])),
  );
  const suffix = differs.map((key) => `${key}=${options[key]}`).join(" ") || `${equal.indexOf(view.rows[row]) + 1}`;
  return visible(`${label} (${clip(suffix, 24)})`).replace(/,/g, ";");
}

const COLUMNS = new WeakMap();

// The columns, which have one score each: tokens, or units of one kind.
// {unit, count, labels, texts, special, of: column of each token or null, members: tokens of each column}
function columns(view, unit) {
  if (!COLUMNS.has(view)) COLUMNS.set(view, new Map());
  const known = COLUMNS.get(view);
  if (!known.has(unit)) known.set(unit, unit in view.units && unit !== "token" ? unitColumns(view, unit) : tokenColumns(view));
  return known.get(unit);
}

function tokenColumns(view) {
  const of = view.labels.map((_, i) => i);
  return {
    unit: "token",
    count: of.length,
    labels: view.labels,
    texts: view.texts,
    special: view.special,
    of,
    members: of.map((i) => [i]),
  };
}

function unitColumns(view, unit) {
  const { of = [], texts = [] } = view.units[unit];
  const members = texts.map(() => []);
  const placed = view.labels.map((_, i) => (Number.isInteger(of[i]) && members[of[i]] ? of[i] : null));
  placed.forEach((column, i) => column !== null && members[column].push(i));
  const labels = texts.map((text) => clip(text.trim(), 60));
  return { unit, count: texts.length, labels, texts, special: texts.map(() => false), of: placed, members };
}

const SCORES = new WeakMap();

// The scores of one row for one target, summed over each unit:
// {scores, rest: the sum over tokens of no unit, largest: of either sign, place: see ranksOf, halves: how far the 95 % intervals reach,
// or null, ranges: see rangesOf}. Recent results are kept.
function scoresOf(view, state, row, target = state.target) {
  if (!SCORES.has(view) || SCORES.get(view).size > 200) SCORES.set(view, new Map());
  const known = SCORES.get(view);
  const key = `${row} ${target} ${state.unit}`;
  if (!known.has(key)) known.set(key, unitSums(view, state, row, target));
  return known.get(key);
}

function unitSums(view, state, row, target) {
  const { of, count, unit } = columns(view, state.unit);
  const own = (view.rows[row].scores || [])[target] || [];
  const scores = new Array(count).fill(0);
  let rest = 0;
  for (let i = 0; i < contextLength(view, target); i++) {
    if (of[i] === null) rest += own[i];
    else scores[of[i]] += own[i];
  }
  const within = inContext(view, state, target);
  const place = ranksOf(scores, within);
  const errors = unitErrors(view, state, row, target);
  const { critical } = view.rows[row];
  const halves = errors && errors.map((error) => error * critical.each[target]);
  const ranges = errors && critical[unit] ? rangesOf(scores, errors, critical[unit][target], within) : null;
  return { scores, rest: unit === "token" ? null : rest, largest: largestOf(scores), place, halves, ranges };
}

// The standard error of each column, summed over its tokens: of a sum over tokens that were perturbed apart, a bound. Null if unknown.
function unitErrors(view, state, row, target) {
  const own = (view.rows[row].stderr || [])[target];
  return own ? columns(view, state.unit).members.map((tokens) => tokens.reduce((sum, i) => sum + (own[i] || 0), 0)) : null;
}

// The first and the last place that each column may have by the size of its score, all at 95 % together; null outside the context.
function rangesOf(scores, errors, critical, within) {
  const inside = scores.map((_, i) => i).filter((i) => within[i]);
  const size = (i) => Math.abs(scores[i]);
  const low = (i) => Math.max(0, size(i) - critical * errors[i]);
  const high = (i) => size(i) + critical * errors[i];
  const lows = inside.map(low).sort((a, b) => a - b);
  const highs = inside.map(high).sort((a, b) => a - b);
  const found = scores.map(() => null);
  for (const i of inside) {
    const below = countFirst(highs, (each) => each < low(i));
    const notAbove = countFirst(lows, (each) => each <= high(i));
    found[i] = [1 + inside.length - notAbove, inside.length - below];
  }
  return found;
}

// How many of the ascending values, from the first, pass a test that all later ones fail.
function countFirst(ascending, test) {
  let [from, to] = [0, ascending.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (test(ascending[middle])) from = middle + 1;
    else to = middle;
  }
  return from;
}

function largestOf(scores) {
  return scores.reduce((most, score) => Math.max(most, Math.abs(score)), 0);
}

// The number of tokens before a target. Only these have scores.
function contextLength(view, target) {
  const found = view.targets[target];
  return found ? Math.min(found.context, view.labels.length) : 0;
}

// Which columns come before a target, as a list of true and false.
function inContext(view, state, target = state.target) {
  const before = contextLength(view, target);
  return columns(view, state.unit).members.map((tokens) => tokens.length > 0 && tokens[0] < before);
}

// A row's scores as shares in [-1, 1] of its largest score, or with scale "all" of the largest of all visible rows; all 0 if nothing
// has influence.
function shares(view, state, row, target = state.target) {
  const { scores, largest } = scoresOf(view, state, row, target);
  const most =
    state.scale === "all" ? Math.max(...visibleRows(view, state).map((each) => scoresOf(view, state, each, target).largest), 0) : largest;
  return scores.map((score) => (most > 0 ? score / most : 0));
}

// The rank of each column by the size of its score, 1 for the strongest. Equal scores share a rank; null outside the context.
function ranksOf(scores, within) {
  const sizes = scores.map(Math.abs);
  const order = sizes
    .map((_, i) => i)
    .filter((i) => within[i])
    .sort((a, b) => sizes[b] - sizes[a]);
  const found = scores.map(() => null);
  order.forEach((i, at) => (found[i] = at > 0 && sizes[order[at - 1]] === sizes[i] ? found[order[at - 1]] : at + 1));
  return found;
}

// Whether a column may have another place than its own.
function isUncertain(ranges, column) {
  return Boolean(ranges && ranges[column] && ranges[column][0] !== ranges[column][1]);
}

// The rows that are not hidden, in the chosen order: as given, by agreement with the reference (n/a last), or by cost.
function visibleRows(view, state) {
  const rows = view.rows.map((_, row) => row).filter((row) => !state.hidden.includes(rowName(view, row)));
  if (state.sort === "agreement") {
    const reference = referenceRow(view, state);
    const key = (row) => (row === reference ? 2 : (agreementOf(view, state, reference, row) ?? -2));
    return rows.sort((a, b) => key(b) - key(a));
  }
  if (state.sort === "cost") return rows.sort((a, b) => costOf(view, a) - costOf(view, b));
  return rows;
}

function costOf(view, row) {
  const { cost } = view.rows[row];
  return cost && Number.isFinite(cost.seconds) ? cost.seconds : Infinity;
}

// The reference row: the chosen one, or the first that is not hidden.
function referenceRow(view, state) {
  const hidden = (row) => state.hidden.includes(rowName(view, row));
  if (view.rows[state.reference] && !hidden(state.reference)) return state.reference;
  return Math.max(
    0,
    view.rows.findIndex((_, row) => !hidden(row)),
  );
}

// Spearman's rank correlation of two rows for the current output, or null.
function agreementOf(view, state, one, other) {
  const found = ((targetAgreement(view, state) || view.agreement.spearman)[one] || [])[other];
  return Number.isFinite(found) ? found : null;
}

// The agreement for the current output. Older views hold only the mean over all outputs.
function targetAgreement(view, state) {
  return (view.agreement.targets || [])[state.target];
}

// What the agreement is over, for titles; empty if there is only one possibility.
function agreementScope(view, state) {
  const units = state.unit === "token" ? "" : " over tokens";
  if (view.targets.length < 2) return units;
  return units + (targetAgreement(view, state) ? " for this output" : ", mean over all outputs");
}

// A row's notes for one target, and its warnings.
function notesOf(view, row, target) {
  const { warnings = [], rows = null, ...notes } = view.rows[row].notes || {};
  return { notes: rows && rows[target] ? { ...notes, ...rows[target] } : notes, warnings: [warnings].flat().map(visible) };
}

// Quantities that are minus a distance from the clean run's distribution: their value there is 0.
const DISTANCES = { hellinger: "Hellinger distance", jsd: "Jensen\u2013Shannon divergence" };

// What the scores are differences of.
function quantityName(target) {
  const known = { prob: "probability", log_prob: "log probability", mean_prob: "mean probability", log_odds: "log odds", ...DISTANCES };
  return Object.hasOwn(known, target.quantity) ? known[target.quantity] : visible(target.quantity);
}

// The question in parts: {lead, answer, between, foil, facts}, all strings; foil is null if there is none. `sign` formats numbers:
// with a true minus sign on the page, with a hyphen for copies.
function question(view, n, sign = minus) {
  const target = view.targets[n];
  if (!target) return { lead: "Nothing is explained here", answer: "", between: "", foil: null, facts: "" };
  const model = clip(visible(view.model), 60);
  const value = Number.isFinite(target.value) ? target.value : target.prob;
  if (String(target.quantity).startsWith("function")) {
    return { lead: "Why", answer: visible(target.quantity), between: `= ${sign(String(Number(value.toPrecision(4))))}`, foil: null, facts: model };
  }
  const p = `p = ${short(target.prob)}`;
  if (target.foil) {
    const what = target.quantity === "prob" ? "difference in probability" : quantityName(target);
    const facts = `${p} against ${short(target.foil.prob)}, ${what} ${sign(number(value))}, by ${model}`;
    const foil = trimmedForQuotes(target.foil_text ?? visible(target.foil.tokens.join("")));
    return { lead: "Why", answer: trimmedForQuotes(target.text), between: "and not", foil, facts };
  }
  const rank = target.rank === 0 ? "the first choice" : `choice number ${target.rank + 1}`;
  const which = target.tokens.length === 1 || target.rank === 0 ? rank : `at the least likely step ${rank}`;
  const changed = Object.hasOwn(DISTANCES, target.quantity) ? "of its distribution" : sign(value.toFixed(3));
  const also = target.quantity === "prob" ? "" : `, ${quantityName(target)} ${changed}`;
  return { lead: "Why", answer: trimmedForQuotes(target.text), between: "", foil: null, facts: `${p}${also}, ${which} of ${model}` };
}

// The same in one line of plain text.
function questionText(view, n, sign = minus) {
  const { lead, answer, between, foil, facts } = question(view, n, sign);
  const what = answer && `\u201c${answer}\u201d`;
  return (
    [lead, what, between, foil !== null && `\u201c${foil}\u201d`].filter(Boolean).join(" ") + (answer ? "?" : ".") + (facts && `  ${facts}`)
  );
}
