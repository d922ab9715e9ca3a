// Sources as a tree that opens: the list of a statement's sources, each with its paragraphs, sentences and words.

const WHOLE = "\u25e6"; // a part that was measured as a whole
const WHOLE_TITLE = "Not refined: measured as a whole. Nothing is known about its parts.";
const FIRST_SOURCES = 15; // sources in the list at first, and parts of a part
const MORE_SOURCES = 200; // how many more at a time
const MOST_TEXT = 1500; // characters of an opened part's text
const TREES = new WeakMap();

// The sources of one statement by one method: {text, start, rest, total, largest, roots}. A root or part is
// {level, source, name, tokens, score, raw, stderr, whole, share, shareError, parent, depth, parts()}.
function treeOf(view, row, target) {
  if (!TREES.has(view)) TREES.set(view, new Map());
  const key = `${row} ${target}`;
  if (!TREES.get(view).has(key)) TREES.get(view).set(key, readTree(view, view.sources.rows[row].statements[target]));
  return TREES.get(view).get(key);
}

function readTree(view, statement) {
  const total = statement.parts.reduce((sum, part) => sum + Math.abs(part[2]), 0);
  const roots = statement.parts.map((part) => readPart(view, part, null, total));
  return { ...statement, total, largest: largestOf(roots.map((root) => root.score)), roots };
}

function readPart(view, [first, tokens, score, raw = null, stderr = null, whole = 0, below = []], parent, total) {
  const source = parent ? parent.source : first;
  const level = parent ? view.sources.levels[first] : view.sources.list[first].level;
  const measured = raw === null ? score : raw;
  const part = { level, source, tokens, score, raw: measured, stderr, whole: Boolean(whole), parent, depth: parent ? parent.depth + 1 : 1 };
  part.share = total ? Math.abs(score) / total : 0;
  part.shareError = stderr !== null && score * measured > 0 ? (stderr * part.share) / Math.abs(measured) : null;
  part.hasParts = below.length > 0;
  let parts = null; // made when they are looked at: a long prompt has ten thousands
  part.parts = () => (parts = parts || below.map((each) => readPart(view, each, part, total)));
  return part;
}

// The parts that were not divided, in the order of the prompt.
function leavesOf(part) {
  return part.hasParts ? part.parts().flatMap(leavesOf) : [part];
}

function partText(view, part) {
  const runs = [];
  for (let i = 0; i < part.tokens.length; i += 2) runs.push(view.texts.slice(part.tokens[i], part.tokens[i + 1]).join(""));
  return runs.join(" \u2026 ").replace(/\u23ce+/g, " ").trim() || "\u00b7";
}

function partName(view, part) {
  return part.depth === 1 ? view.sources.list[part.source].name : clip(partText(view, part), 120);
}

// A share in per cent, with a minus sign if the source speaks against the statement, and its standard error.
function shareText({ share, score, shareError }) {
  const size = 100 * share;
  const digits = size >= 10 || size === 0 ? 0 : 1;
  const shown = size > 0 && size < 0.1 ? "< 0.1" : size.toFixed(digits);
  const error = shareError === null ? "" : ` \u00b1 ${100 * shareError >= 10 ? (100 * shareError).toFixed(0) : (100 * shareError).toFixed(1)}`;
  return `${score < 0 && size >= 0.1 ? "\u2212" : ""}${shown} %${error}`;
}

function scoreTitle(part) {
  const error = part.stderr === null ? "" : `, standard error of what was measured ${number(part.stderr).slice(1)}`;
  const raw = part.raw === part.score ? "" : `, measured ${reading(part.raw)}`;
  return `Score ${reading(part.score)}${raw}${error}`;
}

function bySize(parts) {
  return [...parts].sort((a, b) => Math.abs(b.score) - Math.abs(a.score));
}

// {element, update(tree, order), open(source)}. `onHover(part or null)` is told what the pointer is at, `onRead(part)` to show it in the prompt.
function treePart(view, { onHover, onRead }) {
  const element = h("div", { class: "noiser-tree", role: "tree", "aria-label": "Sources" });
  const rows = new WeakMap(); // element of a row -> its part
  const made = { tree: null, order: "score" };
  const fill = (parent, parts, before, most) => {
    const sorted = made.order === "score" ? bySize(parts) : parts;
    const shown = sorted.slice(0, most);
    const built = shown.map((part, n) => treeRow(view, part, made.tree, n, sorted.length));
    built.forEach((row, n) => rows.set(row, shown[n]));
    if (shown.length < sorted.length) built.push(moreRow(parts, shown.length, sorted.length, parent, fill));
    before(...built);
    return built;
  };
  const update = (tree, order) => {
    Object.assign(made, { tree, order });
    element.replaceChildren();
    fill(null, tree.roots, (...built) => element.append(...built), FIRST_SOURCES);
    const best = bySize(tree.roots)[0];
    const row = [...element.children].find((each) => rows.get(each) === best);
    if (row && best.hasParts) toggle(row);
    setStop(element.firstElementChild);
  };
  const toggle = (row) => {
    if (row.noiserMore) return setStop(row.noiserMore(row), true);
    const part = rows.get(row);
    if (!row.hasAttribute("aria-expanded")) return;
    const open = row.getAttribute("aria-expanded") === "true";
    row.setAttribute("aria-expanded", String(!open));
    row.querySelector(".noiser-source-text")?.remove();
    if (open) {
      for (let next = row.nextElementSibling; next && depthOf(next) > part.depth; next = row.nextElementSibling) next.remove();
      return;
    }
    const text = openedText(view, part, made.tree, onRead);
    if (text) row.append(text);
    if (part.hasParts) fill(part, part.parts(), (...built) => row.after(...built), FIRST_SOURCES);
  };
  const setStop = (row, focus = false) => {
    if (!row) return;
    element.querySelectorAll('[tabindex="0"]').forEach((each) => (each.tabIndex = -1));
    row.tabIndex = 0;
    if (focus) row.focus();
  };
  followTree(element, rows, { toggle, setStop, onHover });
  const open = (source) => {
    let row = [...element.children].find((each) => rows.get(each)?.source === source);
    while (!row && element.lastElementChild?.noiserMore) {
      element.lastElementChild.noiserMore(element.lastElementChild);
      row = [...element.children].find((each) => rows.get(each)?.source === source);
    }
    if (!row) return;
    if (row.getAttribute("aria-expanded") === "false") toggle(row);
    setStop(row, true);
    row.scrollIntoView({ block: "nearest" });
  };
  return { element, update, open };
}

function depthOf(row) {
  return Number(row.getAttribute("aria-level"));
}

function treeRow(view, part, tree, place, count) {
  const name = partName(view, part);
  const opens = part.hasParts || partText(view, part).length > name.length;
  const fill = h("i", { class: stepClass(Math.sign(part.score) * 0.8) });
  fill.style.width = `${tree.largest ? Math.min(100, (100 * Math.abs(part.score)) / tree.largest) : 0}%`;
  const share = shareText(part);
  const sign = part.whole && h("span", { class: "noiser-whole", title: WHOLE_TITLE, text: ` ${WHOLE}` });
  const row = h("div", {
      class: "noiser-treerow", role: "treeitem", tabindex: -1, "aria-level": part.depth, "aria-posinset": place + 1, "aria-setsize": count,
      "aria-expanded": opens ? "false" : null, "data-level": part.level,
      "aria-label": `${name}, ${share}, ${direction(part.score)}, score ${reading(part.score)}${part.whole ? ", not refined" : ""}`,
    },
    h("span", { class: "noiser-turn", "aria-hidden": "true", text: opens ? "\u25b8" : "" }),
    h("span", { class: "noiser-sourcename" }, name, sign),
    h("span", { class: "noiser-sourcebar", "aria-hidden": "true" }, fill),
    h("span", { class: "noiser-share", title: scoreTitle(part), text: share }),
    h("span", { class: "noiser-sourcescore", text: reading(part.score) }),
  );
  row.style.setProperty("--depth", part.depth - 1);
  return row;
}

// The row that shows more: its function does, and returns the first new row.
function moreRow(parts, from, total, parent, fill) {
  const depth = parent ? parent.depth + 1 : 1;
  const row = h("div", { class: "noiser-treerow noiser-treemore", role: "treeitem", tabindex: -1, "aria-level": depth },
    h("span", { class: "noiser-turn" }), h("span", { class: "noiser-link", text: `Show ${Math.min(MORE_SOURCES, total - from)} more of ${thousands(total)}` }));
  row.style.setProperty("--depth", depth - 1);
  row.noiserMore = (own) => {
    const built = fill(parent, parts, (...all) => own.after(...all.slice(from)), from + MORE_SOURCES);
    own.remove();
    return built[from];
  };
  return row;
}

// The text of an opened part: words in their colours, or one that was measured as a whole.
function openedText(view, part, tree, onRead) {
  const inWords = part.hasParts && ["word", "token"].includes(part.parts()[0].level);
  if (part.hasParts && !inWords) return null;
  const text = h("div", { class: "noiser-source-text" });
  if (inWords) text.append(...part.parts().flatMap((word) => wordElements(view, word, tree, word.tokens)));
  else text.append(clip(partText(view, part), MOST_TEXT));
  if (part.whole) text.append(h("p", { class: "noiser-quiet", text: `${WHOLE} ${WHOLE_TITLE}` }));
  text.append(h("button", { type: "button", class: "noiser-link", tabindex: -1, text: "Show it in the prompt", on: { click: () => onRead(part) } }));
  return text;
}

function followTree(element, rows, { toggle, setStop, onHover }) {
  const rowAt = (event) => event.target.closest(".noiser-treerow");
  element.addEventListener("click", (event) => {
    const row = rowAt(event);
    if (!row || event.target.closest(".noiser-source-text")) return;
    setStop(row, true);
    toggle(row);
  });
  element.addEventListener("mouseover", (event) => onHover(rowAt(event) ? rows.get(rowAt(event)) || null : null));
  element.addEventListener("mouseleave", () => onHover(null));
  element.addEventListener("keydown", (event) => {
    const row = event.target.closest(".noiser-treerow");
    if (!row || event.altKey || event.ctrlKey || event.metaKey || event.target.closest("button")) return;
    const open = row.getAttribute("aria-expanded");
    const back = () => {
      let above = row.previousElementSibling;
      while (above && depthOf(above) >= depthOf(row)) above = above.previousElementSibling;
      return above;
    };
    const next = {
      ArrowDown: () => row.nextElementSibling, ArrowUp: () => row.previousElementSibling,
      Home: () => element.firstElementChild, End: () => element.lastElementChild,
      ArrowRight: () => (open === "true" ? row.nextElementSibling : open && toggle(row)),
      ArrowLeft: () => (open === "true" ? toggle(row) : back()),
      Enter: () => toggle(row), " ": () => toggle(row),
    }[event.key];
    if (!next) return;
    event.preventDefault();
    const to = next();
    if (to) setStop(to, true);
  });
}
