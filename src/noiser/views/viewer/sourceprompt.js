// The prompt as folds, one for each stretch of a source. Only opened folds hold text, and a long one is drawn in pieces.

const FOLDS = 100; // folds drawn at a time
const PIECE = 400; // words drawn at a time

// {element, update(tree, row), lit(part), read(part)}
function sourcePrompt(view, onHover) {
  const list = h("div", { class: "noiser-folds" });
  const count = new Set(view.sources.list.map((_, n) => n)).size;
  const title = `The prompt: ${thousands(view.texts.length)} tokens in ${thousands(count)} ${count === 1 ? "source" : "sources"}`;
  const element = h("details", { class: "noiser-sourceprompt", open: true }, h("summary", { text: title }), list);
  const stretches = stretchesOf(view);
  const folds = [];
  const waiting = {};
  let tree = null;
  const make = (from) => {
    const some = stretches.slice(from, from + FOLDS).map((stretch) => foldOf(view, stretch, () => tree));
    folds.push(...some);
    some.forEach((fold) => fold.update(tree));
    list.append(...some.map((fold) => fold.element));
    if (folds.length < stretches.length) waiting.timer = setTimeout(() => make(folds.length), 0);
  };
  list.addEventListener("mouseover", (event) => {
    const word = event.target.closest(".noiser-token");
    onHover(word ? word.noiserPart : null, word);
  });
  list.addEventListener("mouseleave", () => onHover(null, null));
  return {
    element,
    update(found) {
      tree = found;
      if (!folds.length) waiting.frame = requestAnimationFrame(() => (waiting.timer = setTimeout(() => folds.length || make(0), 0)));
      folds.forEach((fold) => fold.update(tree));
    },
    lit: (part) => folds.forEach((fold) => fold.lit(part)),
    read(part) {
      element.open = true;
      while (folds.length < stretches.length && !folds.some((fold) => fold.holds(part))) make(folds.length);
      folds.find((fold) => fold.holds(part))?.read(part);
    },
    destroy: () => (cancelAnimationFrame(waiting.frame), clearTimeout(waiting.timer)),
  };
}

// The prompt cut where its source changes: [{source or null, start, stop}]. Stretches of nothing but space are left out.
function stretchesOf(view) {
  const owned = view.sources.list.flatMap(({ tokens }, source) =>
    tokens.flatMap((start, i) => (i % 2 ? [] : [{ source, start, stop: tokens[i + 1] }])));
  owned.sort((a, b) => a.start - b.start);
  const found = [];
  let end = 0;
  for (const stretch of [...owned, { start: view.texts.length }]) {
    if (stretch.start > end) found.push({ source: null, start: end, stop: stretch.start });
    if (stretch.stop) found.push(stretch);
    end = Math.max(end, stretch.stop || 0);
  }
  return found.filter(({ start, stop }) => view.texts.slice(start, stop).join("").replace(/[\s\u23ce]/g, ""));
}

function foldOf(view, stretch, treeNow) {
  const { source, start, stop } = stretch;
  const share = h("span", { class: "noiser-share" });
  const mark = h("span", { class: "noiser-foldmark", "aria-hidden": "true" });
  const name = source === null ? "outside the sources" : view.sources.list[source].name;
  const hint = clip(view.texts.slice(start, Math.min(stop, start + 40)).join("").replace(/\u23ce+/g, " ").trim(), 90);
  const text = h("div", { class: "noiser-text noiser-foldtext" });
  const element = h("details", { class: "noiser-fold" },
    h("summary", null, mark, h("b", { text: name }), h("span", { class: "noiser-foldhint", text: hint }), share), text);
  const state = { drawn: null, timer: 0 };
  const draw = () => {
    if (!element.open || state.drawn === treeNow()) return;
    state.drawn = treeNow();
    clearTimeout(state.timer);
    text.replaceChildren();
    const root = treeNow().roots.find((each) => each.source === source);
    const runs = root ? runsWithin(root, start, stop) : [{ part: null, tokens: [start, stop] }];
    const piece = (from) => {
      const some = runs.slice(from, from + PIECE);
      text.append(h("div", { class: "noiser-chunk" }, ...some.flatMap(({ part, tokens }) => wordElements(view, part, treeNow(), tokens))));
      if (from + PIECE < runs.length) state.timer = setTimeout(() => element.isConnected && piece(from + PIECE), 0);
    };
    piece(0);
  };
  element.addEventListener("toggle", draw);
  const lit = (part) => {
    if (!element.open || (!part && !text.querySelector(".noiser-lit"))) return;
    const inside = (token) => part && token.noiserPart && part.source === source && within(token.noiserPart.tokens[0], part.tokens);
    text.querySelectorAll(".noiser-token").forEach((token) => token.classList.toggle("noiser-lit", Boolean(inside(token))));
  };
  return {
    element, lit,
    holds: (part) => part.source === source && part.tokens[0] >= start && part.tokens[0] < stop,
    update(tree) {
      const root = tree.roots.find((each) => each.source === source);
      share.textContent = root ? shareText(root) : "";
      mark.className = `noiser-foldmark ${root ? stepClass(tree.largest ? root.score / tree.largest : 0) : "noiser-c0"}`;
      draw();
    },
    read(part) {
      element.open = true;
      draw();
      lit(part);
      (text.querySelector(".noiser-lit") || element).scrollIntoView({ block: "center" });
    },
  };
}

function within(token, tokens) {
  for (let i = 0; i < tokens.length; i += 2) if (token >= tokens[i] && token < tokens[i + 1]) return true;
  return false;
}

// The finest parts of a source inside a stretch, as runs of tokens in the order of the prompt.
function runsWithin(root, start, stop) {
  const runs = [];
  for (const part of leavesOf(root))
    for (let i = 0; i < part.tokens.length; i += 2) {
      const tokens = [Math.max(start, part.tokens[i]), Math.min(stop, part.tokens[i + 1])];
      if (tokens[0] < tokens[1]) runs.push({ part, tokens });
    }
  return runs.sort((a, b) => a.tokens[0] - b.tokens[0]);
}

// The elements of a part's text, coloured by its score; the space before it stands outside.
function wordElements(view, part, tree, tokens) {
  const runs = [];
  for (let i = 0; i < tokens.length; i += 2) runs.push(view.texts.slice(tokens[i], tokens[i + 1]).join(""));
  return runs.flatMap((run) => {
    const [, space, text, breaks] = /^( *)([^]*?)(\u23ce*)$/.exec(run);
    const look = part && tree.largest ? stepClass(part.score / tree.largest) : "noiser-c0";
    const word = h("span", { class: `${part ? "noiser-token" : "noiser-plain"} ${look}`, text: text.replace(/\u23ce/g, "\u23ce\n") });
    if (part) word.noiserPart = part;
    return [space, text && word, breaks && `${breaks}${"\n".repeat(breaks.length)}`].filter(Boolean);
  });
}
