// All targets at once: a table of outputs by tokens, or a canvas if the table would be too large.

const MAX_CELLS = 3600;
const PRESS = "Press an output to see its text.";
const LINE = 16; // pixels of a target's line on the canvas

function matrixPart(viewer) {
  const { view, store } = viewer;
  const element = h("div", { class: "noiser-matrix", tabindex: 0, role: "region", "aria-label": "Outputs by tokens" });
  const note = h("p", { class: "noiser-quiet" });
  let drawn = null;
  const update = (state, before) => {
    const cols = columns(view, state.unit);
    const same = before && drawn && !changed(state, before, "unit", "method", "scale", "theme");
    if (same) return drawn.choose(state);
    drawn = (cols.count * view.targets.length <= MAX_CELLS ? matrixTable : matrixCanvas)(viewer, matrixCells(viewer));
    element.replaceChildren(drawn.element);
    const what = state.unit === "token" ? "a token" : `a ${state.unit}`;
    note.textContent = `${rowName(view, state.method)}: each line is an output token, each column ${what} before it. ${PRESS}`;
  };
  const redraw = () => drawn && drawn.redraw && drawn.redraw();
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", redraw);
  return {
    element: h("div", null, note, element),
    update,
    lit: (at) => drawn.lit(at),
    texts: () => [],
    destroy: () => scheme.removeEventListener("change", redraw),
  };
}

// [{scores, share, within} of each target]; shares of each target's largest score, or of the whole matrix's.
function matrixCells({ view, store }) {
  const state = store.get();
  const found = view.targets.map((_, n) => ({ ...scoresOf(view, state, state.method, n), within: inContext(view, state, n) }));
  const most = Math.max(...found.map((each) => each.largest), 0);
  return found.map(({ scores, largest, place, within }) => {
    const scale = state.scale === "all" ? most : largest;
    return { scores, place, within, share: scores.map((score) => (scale > 0 ? score / scale : 0)) };
  });
}

function targetButton(viewer, n) {
  const { view, store } = viewer;
  return h("button", {
    type: "button",
    text: view.targets[n].label,
    "aria-pressed": String(n === store.get().target),
    "data-output": n,
    on: { click: () => openTarget(viewer, n) },
  });
}

function openTarget({ store, root }, n) {
  store.set({ target: n, view: "rows" });
  root.querySelector('.noiser-output[aria-pressed="true"]').focus();
}

function matrixTable(viewer, cells) {
  const { view, store } = viewer;
  const cols = columns(view, store.get().unit);
  const head = h(
    "tr",
    null,
    h("th", { scope: "col", text: "Output" }),
    ...cols.labels.map((text, i) => h("th", { scope: "col", title: text, text: clip(text, 16), "data-column": i })),
  );
  const grid = cells.map(({ scores, share, within }, n) =>
    scores.map((score, i) =>
      within[i]
        ? h("td", { class: stepClass(share[i]), tabindex: -1, "data-token": i, "data-target": n, text: brief(score) })
        : h("td", null),
    ),
  );
  const body = grid.map((line, n) => h("tr", null, h("th", { scope: "row" }, targetButton(viewer, n)), ...line));
  const element = h("table", null, h("thead", null, head), h("tbody", null, ...body));
  const first = grid.flat().find((cell) => cell.hasAttribute("tabindex"));
  if (first) first.tabIndex = 0;
  let last = null;
  return {
    element,
    lit(at) {
      if (last) last.classList.remove("noiser-lit");
      last = at.target === null ? null : grid[at.target]?.[at.column] || null;
      if (last) last.classList.add("noiser-lit");
    },
    choose: (state) =>
      element.querySelectorAll("[data-output]").forEach((button, n) => button.setAttribute("aria-pressed", String(n === state.target))),
  };
}

// Arrow keys move between a table's cells. Returns whether the key was an arrow.
function moveInTable(event) {
  const cell = event.target.closest("td[data-token]");
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  if (!cell || !(event.key in steps)) return false;
  const [down, right] = steps[event.key];
  const line = cell.parentNode.parentNode.rows[cell.parentNode.sectionRowIndex + down];
  const next = line && line.cells[cell.cellIndex + right];
  if (next && next.dataset.token !== undefined) {
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
  return true;
}

function matrixCanvas(viewer, cells) {
  const { view, store, hover } = viewer;
  const { count, labels } = columns(view, store.get().unit);
  const width = Math.max(2, Math.min(LINE, Math.floor(12000 / count)));
  const canvas = h("canvas", {
    class: "noiser-canvas",
    width: width * count,
    height: LINE * cells.length,
    role: "img",
    "aria-label": matrixText(view, cells, labels),
  });
  const place = (event) => {
    const column = Math.min(count - 1, Math.max(0, Math.floor(event.offsetX / width)));
    const target = Math.min(cells.length - 1, Math.max(0, Math.floor(event.offsetY / LINE)));
    return { column: cells[target].within[column] ? column : null, row: store.get().method, target, anchor: null };
  };
  canvas.addEventListener("mousemove", (event) => hover.set(place(event)));
  canvas.addEventListener("click", (event) => openTarget(viewer, place(event).target));
  const redraw = () => drawCells(canvas, cells, width, isDark(store.get()));
  redraw();
  const names = h("div", { class: "noiser-lines" }, ...cells.map((_, n) => h("div", null, targetButton(viewer, n))));
  return {
    element: h("div", { class: "noiser-drawn" }, names, canvas),
    lit() {},
    redraw,
    choose: (state) =>
      names.querySelectorAll("button").forEach((button, n) => button.setAttribute("aria-pressed", String(n === state.target))),
  };
}

function drawCells(canvas, cells, width, dark) {
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const inks = Array.from({ length: 2 * STEPS + 1 }, (_, i) => colour((i - STEPS) / STEPS, dark).background);
  cells.forEach(({ share, within }, n) =>
    share.forEach((value, i) => {
      pen.fillStyle = within[i] ? inks[step(value) + STEPS] : "#8882";
      pen.fillRect(i * width, n * LINE, width > 4 ? width - 1 : width, LINE - 1);
    }),
  );
}

// The matrix in words: the strongest token of each of the first outputs.
function matrixText(view, cells, labels) {
  const said = cells.slice(0, 20).map(({ scores, place }, n) => {
    const best = place.indexOf(1);
    return best < 0 ? `${view.targets[n].label}: none` : `${view.targets[n].label}: ${labels[best]} ${reading(scores[best])}`;
  });
  return `Heat map of ${cells.length} outputs by ${labels.length} columns. Strongest for each output: ${said.join("; ")}`;
}
