// The prompt as running text: one element for each run of tokens that share a score, coloured by class.

const SEGMENTS = new WeakMap();
const LONG = 400; // tokens from which a text is cut into blocks
const CHUNK = 120; // pieces of a block, at least

// The text, cut where its column changes, at a chat's turns, and at the start of a continuation: [{column, first, text, space, special}].
// A leading space stands before the box, not in it. `again` marks a column that was seen before.
function segmentsOf(view, unit) {
  const cols = columns(view, unit);
  if (!SEGMENTS.has(cols)) SEGMENTS.set(cols, cutSegments(view, cols));
  return SEGMENTS.get(cols);
}

function cutSegments(view, cols) {
  const found = [];
  const seen = new Set();
  for (let i = 0; i < view.labels.length; i++) {
    const column = cols.of[i];
    const last = found[found.length - 1];
    const whole = last && last.column === column && last.special === view.special[i] && !(i in view.roles) && i !== view.prompt.given;
    if (whole) last.text += view.texts[i];
    else found.push({ column, first: i, text: view.texts[i], special: view.special[i], again: column !== null && seen.has(column) });
    seen.add(column);
  }
  return found;
}

// One row's text: {element, parts: the elements of each column, row}. paintText adds colours and labels.
function buildText(viewer, row) {
  const { view, store } = viewer;
  const { unit } = store.get();
  const cols = columns(view, unit);
  const parts = Array.from({ length: cols.count }, () => []);
  const element = h("div", { class: "noiser-text", role: "group", "aria-label": `The prompt by ${rowName(view, row)}` });
  const children = [];
  for (const segment of segmentsOf(view, unit)) {
    if (segment.first in view.roles) children.push(h("span", { class: "noiser-role", text: view.roles[segment.first] }));
    if (segment.first === view.prompt.given && segment.first > 0)
      children.push(h("span", { class: "noiser-answer", "aria-hidden": "true", text: " \u2192" }));
    const space = /^ [^ ]/.test(segment.text);
    if (space) children.push(" ");
    const part = segmentElement(segment, space ? segment.text.slice(1) : segment.text, cols);
    children.push(part);
    const breaks = segment.text.match(/\u23ce*$/)[0].length;
    if (breaks) children.push("\n".repeat(breaks));
    if (segment.column !== null) parts[segment.column].push(part);
  }
  const answer = h("span");
  inBlocks(children, answer, view.labels.length).forEach((part) => element.append(part));
  return { element, parts, row, current: null, answer };
}

// A long text in blocks that end with a line or a sentence. Blocks off the screen are not laid out, and a change stays in its block.
function inBlocks(children, answer, length) {
  if (length < LONG) return [...children, answer];
  const blocks = [[]];
  children.forEach((child) => {
    const block = blocks[blocks.length - 1];
    if (child !== " " || block.length || blocks.length === 1) block.push(child);
    const text = child.textContent ?? child;
    if (
      block.length > CHUNK &&
      (/\n$/.test(text) || (block.length > 2 * CHUNK && /[.!?\u3002]["\u201d)]?$/.test(text)) || block.length > 6 * CHUNK)
    )
      blocks.push([]);
  });
  blocks[blocks.length - 1].push(answer);
  return blocks.map((block) => {
    const element = h("div", { class: "noiser-chunk" }, ...block);
    element.style.containIntrinsicHeight = `auto ${Math.ceil(element.textContent.length / 65) * 34}px`;
    return element;
  });
}

function segmentElement(segment, text, cols) {
  const part = document.createElement("span");
  part.noiserClass = segment.column === null ? "noiser-plain" : "noiser-token";
  if (segment.special) part.noiserClass += " noiser-special";
  if (cols.members[segment.column]?.length > 1) part.noiserClass += " noiser-unitbox";
  if (!["token", "word", "treebank"].includes(cols.unit)) part.noiserClass += " noiser-wide";
  if (text === "") part.noiserClass += " noiser-piece";
  part.className = part.noiserClass;
  part.textContent = text.replace(/\u23ce(?=[^\u23ce])/g, "\u23ce\n") || "\u00a0";
  if (segment.column === null) return part;
  part.dataset.token = segment.column;
  if (segment.again) part.setAttribute("aria-hidden", "true");
  else {
    part.setAttribute("role", "img");
    part.tabIndex = -1;
  }
  return part;
}

// An arrow to the answer, if the text ends right before it.
function answerElement(view, state) {
  const target = view.targets[state.target];
  const whole = target && target.context >= view.labels.length;
  if (!whole) return h("span");
  const arrow = view.prompt.given < view.labels.length ? " " : " \u2192\u00a0";
  const foil = target.foil ? [" not ", h("s", { text: question(view, state.target).foil ?? "" })] : [];
  return h("span", { class: "noiser-answer", "aria-hidden": "true" }, arrow, h("b", { text: target.text.trim() || target.label }), ...foil);
}

// Adds colours, labels for screen readers, and scores if the reader wants them.
function paintText(viewer, text) {
  const { view, store } = viewer;
  const state = store.get();
  const cols = columns(view, state.unit);
  const { scores, place } = scoresOf(view, state, text.row);
  const within = inContext(view, state);
  const share = shares(view, state, text.row);
  const count = within.filter(Boolean).length;
  const name = rowName(view, text.row);
  const self = state.unit === "token" && view.targets.length > 1 ? contextLength(view, state.target) : -1;
  const said = (column) => cols.labels[column] + (cols.special[column] ? ", special token" : "");
  text.parts.forEach((parts, column) => {
    const look = within[column] ? stepClass(share[column]) : column === self ? "noiser-later noiser-self" : "noiser-later";
    const label = within[column]
      ? spoken(said(column), scores[column], place[column], count, name)
      : `${said(column)}, not before this output, no score`;
    for (const part of parts) {
      part.className = `${part.noiserClass} ${look}`;
      if (part.getAttribute("role")) part.setAttribute("aria-label", label);
      if (state.numbers && within[column] && part === parts[parts.length - 1]) part.dataset.score = brief(scores[column]);
      else delete part.dataset.score;
    }
  });
  const answer = answerElement(view, state);
  text.answer.replaceWith(answer);
  text.answer = answer;
  setTabStop(text, text.current ?? place.indexOf(1));
}

function spoken(label, score, place, count, name) {
  return `${label}, ${reading(score)}, ${direction(score)}, ${ordinal(place)} of ${count}, ${name}`;
}

function direction(score) {
  return score > 0 ? "supports" : score < 0 ? "opposes" : "no influence";
}

// Two significant digits with a sign, for narrow places.
function brief(score) {
  const size = Math.abs(score);
  const sign = score > 0 ? "+" : score < 0 ? "\u2212" : "";
  if (size === 0) return "0";
  if (size < 0.005 || size >= 1e4) return sign + size.toExponential(0).replace("e+", "e");
  return sign + (size < 10 ? size.toFixed(2) : size.toFixed(0));
}

// Only one token of a row can be reached with the tab key.
function setTabStop(text, column) {
  const focusable = (at) => text.parts[at]?.[0];
  const next = focusable(column) ? column : text.parts.findIndex((parts) => parts.length);
  if (focusable(text.current)) focusable(text.current).tabIndex = -1;
  text.current = next < 0 ? null : next;
  if (focusable(next)) focusable(next).tabIndex = 0;
}
