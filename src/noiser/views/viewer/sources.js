// The view of sources: the answer with its statements, the sources of the chosen one, a matrix of both, and the prompt in folds.

const MATRIX_COLUMNS = 12;
const LEFT_OUT = "This prompt is too long for a page of single tokens: it shows sources, and the finest parts that were measured. "
  + "The score of each token is in the command line\u2019s JSON (--format json).";

// {element, update, lit, texts, destroy} as the other layouts.
function sourcesPart(viewer) {
  const { view, store } = viewer;
  const over = tipPart(viewer.root);
  const showTip = (part, anchor) => over.show(anchor, part ? `${clip(partName(view, part), 40)}  ${shareText(part)}` : "");
  const prompt = sourcePrompt(view, showTip);
  const tree = treePart(view, { onHover: (part) => prompt.lit(part), onRead: (part) => prompt.read(part) });
  const answer = answerPart(viewer);
  const matrix = view.targets.length > 1 ? sourceMatrix(viewer, tree.open) : null;
  const level = `h${viewer.level + 1}`;
  const note = h("p", { class: "noiser-quiet" });
  const heading = h(level, { text: "Sources" });
  const left = h("div", { class: "noiser-sourcelist" }, heading, note, tree.element);
  const right = h("div", { class: "noiser-sourceanswer" }, h(level, { text: "Answer" }), answer.element, matrix && matrix.element);
  const element = h("div", { class: "noiser-sources" }, h("div", { class: "noiser-sourcepair" }, left, right), prompt.element,
    !view.sources.tokens && h("p", { class: "noiser-quiet", text: LEFT_OUT }), over.element);
  const update = (state, before) => {
    const found = treeOf(view, state.method, state.target);
    answer.update(state);
    if (matrix) matrix.update(state, before);
    if (before && !changed(state, before, "target", "method", "order")) return;
    note.textContent = sourceNote(view, state, found);
    tree.update(found, state.order);
    if (!before || changed(state, before, "target", "method")) prompt.update(found);
  };
  return { element, update, lit() {}, texts: () => [], destroy: prompt.destroy };
}

// What the shares are, and what they leave out.
function sourceNote(view, state, tree) {
  const parts = [`Share of the sum of all sources\u2019 scores, sizes without sign, for \u201c${clip(tree.text.trim(), 40)}\u201d.`];
  if (tree.roots.some((root) => root.stderr !== null)) parts.push("\u00b1: standard error from the method\u2019s own random draws.");
  if (tree.rest) parts.push(`In no source: ${reading(tree.rest)}.`);
  if (tree.roots.some((root) => leavesOf(root).some((leaf) => leaf.whole))) parts.push(`${WHOLE} not refined: measured as a whole.`);
  if (!tree.total) parts.push("No source has any influence, by this method.");
  return parts.join(" ");
}

// The answer: press a statement to see its sources. Arrow keys move between statements.
function answerPart(viewer) {
  const { view, store } = viewer;
  const said = h("span", { class: "noiser-said", role: "status" });
  const marks = view.targets.map(() => h("sup", { class: "noiser-marks" }));
  const statements = [];
  const pieces = view.sources.answer.map(([text, n]) => {
    if (n === null) return h("span", { class: "noiser-quiet", text: text.replace(/\u23ce/g, "\u23ce\n") });
    const words = h("span", { text: text.replace(/^ /, "").replace(/\u23ce/g, "\u23ce\n") });
    statements[n] = h("span", { class: "noiser-statement", role: "button", "data-statement": n, tabindex: -1 }, words, marks[n]);
    return statements[n];
  });
  const lead = leadText(view);
  const text = h("p", { class: "noiser-answertext", role: "group", "aria-label": "The answer; press a sentence to see its sources" },
    lead && h("span", { class: "noiser-quiet", text: `${lead} ` }), pieces.map((piece) => [piece, " "]));
  const choose = (n) => {
    store.set({ target: n });
    statements[n].focus();
  };
  text.addEventListener("click", (event) => {
    const at = event.target.closest("[data-statement]");
    if (at) choose(Number(at.dataset.statement));
  });
  text.addEventListener("keydown", (event) => {
    const at = event.target.closest("[data-statement]");
    if (!at || event.altKey || event.ctrlKey || event.metaKey) return;
    const n = Number(at.dataset.statement);
    const last = statements.length - 1;
    const to = { ArrowLeft: n - 1, ArrowUp: n - 1, ArrowRight: n + 1, ArrowDown: n + 1, Home: 0, End: last, Enter: n, " ": n }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (statements[to]) choose(to);
  });
  const say = (words) => (said.textContent = words);
  const copy = async () => ((await copyText(citationsText(view, store.get()), element)) ? "Copied" : "");
  const button = h("button", { type: "button", text: "Copy citations", on: { click: () => attempt(copy, say) } });
  const cited = h("ol", { class: "noiser-cited" });
  const element = h("div", null, text, cited, h("div", { class: "noiser-copy" }, button, said));
  const update = (state) => {
    const { marks: numbers, citations } = view.sources.rows[state.method];
    statements.forEach((statement, n) => {
      statement.setAttribute("aria-pressed", String(n === state.target));
      statement.tabIndex = n === state.target ? 0 : -1;
      marks[n].textContent = numbers[n].map((number) => `[${number}]`).join("");
    });
    cited.replaceChildren(...citations.filter((each) => numbers[state.target].includes(each.number)).map((each) =>
      h("li", { value: each.number }, h("b", { text: each.name }), `: \u201c${each.excerpt}\u201d`)));
  };
  return { element, update };
}

// Statements by sources, in per cent: the sources with the largest shares first.
function sourceMatrix(viewer, open) {
  const { view, store } = viewer;
  const table = h("table");
  const box = h("div", { class: "noiser-matrix", role: "region", "aria-label": "Statements by sources", tabindex: 0 }, table);
  const note = h("p", { class: "noiser-quiet" });
  let cells = [];
  const draw = (state) => {
    const trees = view.targets.map((_, n) => treeOf(view, state.method, n));
    const shares = trees.map((tree) => new Map(tree.roots.map((root) => [root.source, root])));
    const most = (source) => Math.max(...shares.map((each) => each.get(source)?.share || 0));
    const all = view.sources.list.map((_, n) => n).sort((a, b) => most(b) - most(a));
    const chosen = all.slice(0, MATRIX_COLUMNS).sort((a, b) => a - b);
    note.textContent = all.length > chosen.length ? `The ${chosen.length} of ${all.length} sources with the largest shares, in the order of the prompt.` : "";
    const heads = trees.map((tree, n) => h("th", { scope: "col", title: tree.text, text: String(n + 1), "data-column": n }));
    cells = chosen.map((source) => trees.map((tree, n) => {
      const root = shares[n].get(source);
      const look = root ? stepClass(tree.largest ? root.score / tree.largest : 0) : "noiser-c0";
      const title = `${view.sources.list[source].name}, sentence ${n + 1}`;
      return h("td", { class: look, tabindex: -1, title, "data-token": source, "data-target": n, text: root ? shareText({ ...root, shareError: null }) : "" });
    }));
    const name = (source) => h("th", { scope: "row", title: view.sources.list[source].name, text: clip(view.sources.list[source].name, 28) });
    const lines = chosen.map((source, i) => h("tr", null, name(source), cells[i]));
    table.replaceChildren(h("thead", null, h("tr", null, h("th", { scope: "col", text: "Sentence" }), heads)), h("tbody", null, lines));
    if (cells[0]?.[0]) cells[0][0].tabIndex = 0;
  };
  const press = (cell) => {
    store.set({ target: Number(cell.dataset.target) });
    open(Number(cell.dataset.token));
  };
  table.addEventListener("click", (event) => event.target.closest("td") && press(event.target.closest("td")));
  table.addEventListener("keydown", (event) => {
    if (!event.target.closest("td") || !["Enter", " "].includes(event.key)) return;
    event.preventDefault();
    press(event.target.closest("td"));
  });
  const update = (state, before) => {
    if (!before || changed(state, before, "method")) draw(state);
    cells.flat().forEach((cell) => cell.classList.toggle("noiser-chosen", Number(cell.dataset.target) === state.target));
  };
  return { element: h("div", { class: "noiser-sourcematrix" }, box, note), update };
}
