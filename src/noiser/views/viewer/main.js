// Mounts a view in an element, and draws the views of a page.

let mounted = 0;
const NOWHERE = Object.freeze({ column: null, row: null, target: null, anchor: null });

// Draws a view at the end of `element` and returns {root, store, destroy}. The first state is the view's own (`view.state`, a fragment).
// Options: `fragment` (the address holds the state), `state` (a part of the first state), `onState(state, fragment)` (called at every
// change), `level` (of the question's heading, 2), `page` (the page takes on the theme).
function mount(element, given, options = {}) {
  if (given.interactions) return mountInteractions(element, given, options);
  colourSheet();
  const view = completeView(given);
  const start = { ...fromFragment(options.fragment ? location.hash : "", view), ...(options.state || {}) };
  const viewer = {
    id: `noiser-${++mounted}`,
    view,
    store: createStore(fromFragment(toFragment(start, view), view)),
    hover: createStore(NOWHERE),
    level: options.level || 2,
    undo: [],
  };
  const root = h("section", { class: "noiser", id: viewer.id, "aria-label": view.title || "Attribution" });
  viewer.root = root;
  const parts = drawn(viewer, root, options);
  element.append(root);
  const tell = (state, before) => {
    if (changed(state, before, ...Object.keys(DEFAULTS).filter((key) => key !== "curve"))) parts.update(state, before);
    if (options.fragment) writeFragment(toFragment(state, view));
    if (options.onState) options.onState(state, toFragment(state, view));
  };
  viewer.undo.push(viewer.store.subscribe(tell));
  if (options.fragment) listen(viewer, window, "hashchange", () => viewer.store.set(fromFragment(location.hash, view)));
  const destroy = () => {
    viewer.undo.forEach((undo) => undo());
    root.remove();
  };
  return { root, store: viewer.store, destroy };
}

function listen(viewer, on, event, handler) {
  on.addEventListener(event, handler);
  viewer.undo.push(() => on.removeEventListener(event, handler));
}

// Draws all parts, which then follow the state and the pointer.
function drawn(viewer, root, options) {
  const { view, store, hover } = viewer;
  const some = view.rows.length > 0 && view.targets.length > 0;
  const header = headerPart(viewer);
  const legend = legendPart(viewer);
  const body = h("div", { class: "noiser-body" });
  const details = detailsPart(viewer);
  const tip = tipPart(body);
  let layout = { kind: null, destroy() {} };
  const update = (state, before) => {
    hover.set(NOWHERE); // first: removing the focused element would notify parts that are not filled yet
    root.dataset.theme = state.theme;
    if (options.page) document.body.dataset.theme = state.theme;
    root.classList.toggle("noiser-numbered", state.numbers);
    header.update(state);
    legend.update(state);
    const kind = state.view === "rows" && view.rows.length === 1 ? "one" : state.view;
    legend.element.hidden = details.element.hidden = kind === "sources"; // it has its own
    const fresh = kind !== layout.kind;
    if (fresh) {
      layout.destroy();
      layout = { kind, ...{ rows: rowsPart, one: onePart, matrix: matrixPart, sources: view.sources && sourcesPart }[kind](viewer) };
      body.replaceChildren(layout.element, tip.element);
    }
    if (some) layout.update(state, fresh ? null : before);
    details.show(NOWHERE);
  };
  hover.subscribe((at, old) => {
    const { anchor } = at;
    tip.show(anchor, anchor ? tipText(view, store.get(), at) : "");
    layout.lit(at, old);
    details.show(at);
  });
  follow(viewer, body, () => layout);
  viewer.undo.push(() => layout.destroy());
  update(store.get(), null);
  root.append(header.element, legend.element, body, details.element);
  if (some) root.append(toolButtons(viewer, options), evidencePanel(view, store, viewer.level + 1));
  return { update };
}

// Buttons to copy and save. The link button exists only if the address holds the state.
function toolButtons({ view, store }, options) {
  return h("div", { class: "noiser-tools" }, copyMenu(view, store, options.fragment ? () => location.href : null));
}

function tipText(view, state, at) {
  const found = detailsOf(view, state, at.column, at.row, at.target ?? state.target);
  return found.exact ? `${clip(found.label, 24)} ${found.score.split(",")[0]}` : clip(found.label, 24);
}

// Follows the pointer and the keyboard, with one listener for the whole body.
function follow(viewer, body, layout) {
  const { store, hover } = viewer;
  const placeOf = (part) => {
    const row = part.closest("[data-row]");
    const target = part.dataset.target === undefined ? null : Number(part.dataset.target);
    return { column: Number(part.dataset.token), row: row ? Number(row.dataset.row) : store.get().method, target, anchor: part };
  };
  const focused = () => (body.contains(document.activeElement) ? document.activeElement.closest("[data-token]") : null);
  const point = (event) => {
    const part = event.target.closest("[data-token]");
    if (part && store.get().view !== "sources") hover.set(placeOf(part));
  };
  body.addEventListener("mouseover", point);
  body.addEventListener("focusin", point);
  body.addEventListener("mouseleave", () => hover.set(focused() ? placeOf(focused()) : NOWHERE));
  body.addEventListener("focusout", () => hover.set(NOWHERE));
  body.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape" && hover.get().column !== null) return leaveToken(event, hover);
    if (moveInTable(event) || moveInText(event, layout().texts())) event.preventDefault();
  });
}

function leaveToken(event, hover) {
  const part = event.target.closest("[data-token]");
  const name = part && part.closest("[data-row]")?.querySelector(".noiser-name");
  if (name) name.focus();
  else if (part) part.blur();
  hover.set(NOWHERE);
}

// Arrow keys, Home and End move along a text and between the methods' texts. Returns whether the key was handled.
function moveInText(event, texts) {
  const part = event.target.closest(".noiser-token[data-token]");
  const at = part ? texts.findIndex((text) => text.element.contains(part)) : -1;
  if (at < 0) return false;
  const column = Number(part.dataset.token);
  const there = texts[at].parts.map((parts, i) => (parts.length ? i : -1)).filter((i) => i >= 0);
  const along = {
    ArrowLeft: there[there.indexOf(column) - 1],
    ArrowRight: there[there.indexOf(column) + 1],
    Home: there[0],
    End: there[there.length - 1],
  };
  const across = { ArrowUp: at - 1, ArrowDown: at + 1 };
  const text = event.key in across ? texts[across[event.key]] : texts[at];
  const next = event.key in across ? column : along[event.key];
  if (!text || next === undefined || !text.parts[next]?.length) return event.key in along;
  setTabStop(text, next);
  text.parts[next][0].focus();
  return true;
}

// Changes the address without a new entry in the history. Frames without an address refuse that.
function writeFragment(fragment) {
  try {
    history.replaceState(history.state, "", fragment ? `#${fragment}` : location.pathname + location.search);
  } catch (problem) {
    if (!(problem instanceof DOMException)) throw problem;
  }
}

// Draws every list of views right after its script element; if a list has several views, one at a time.
function boot() {
  const scripts = [...document.querySelectorAll('script[type="application/json"].noiser-data')];
  const lone = scripts.length === 1 && document.body.classList.contains("noiser-page");
  scripts.forEach((script) => {
    const views = JSON.parse(script.textContent);
    if (!views.length) return;
    const place = h("div");
    script.after(place);
    if (lone) place.append(h("h1", { class: "noiser-hidden", text: document.title }));
    const options = { fragment: lone && views.length === 1, page: lone };
    if (views.length === 1) mount(place, views[0], options);
    else several(place, views, options);
  });
}

function several(place, views, options) {
  const select = h(
    "select",
    { class: "noiser-choice" },
    ...views.map((view, i) => h("option", { value: i, text: `${i + 1}. ${view.title}` })),
  );
  const slot = h("div");
  let current = null;
  const show = () => {
    if (current) current.destroy();
    current = mount(slot, views[Number(select.value)], options);
  };
  select.addEventListener("change", show);
  place.append(h("div", { class: "noiser" }, h("label", { class: "noiser-group" }, h("span", { text: "Explanation" }), select)), slot);
  show();
}

window.noiser = { mount };
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", boot);
else boot();
