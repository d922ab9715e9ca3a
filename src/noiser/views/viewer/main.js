// A view mounted in an element, and the page that holds views as data.

let mounted = 0;
const NOWHERE = Object.freeze({ column: null, row: null, target: null, anchor: null });

// Draws a view at the end of `element` and returns {root, store, destroy}; it begins with the state that the view itself may hold,
// a fragment in `view.state`. Options: `fragment` (the state lives in the address),
// `state` (a part of the state to begin with), `onState(state, fragment)` (told of every change), `level` (of the question's
// heading, 2), `page` (the page takes on the theme).
function mount(element, given, options = {}) {
  colourSheet();
  const view = prepared(given);
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

// All parts in their places, and how they follow the state and the pointer.
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
    hover.set(NOWHERE); // first: to take away what has the focus would be heard by parts not yet filled
    root.dataset.theme = state.theme;
    if (options.page) document.body.dataset.theme = state.theme;
    root.classList.toggle("noiser-numbered", state.numbers);
    header.update(state);
    legend.update(state);
    const kind = state.view !== "matrix" && view.rows.length === 1 ? "one" : state.view;
    const fresh = kind !== layout.kind;
    if (fresh) {
      layout.destroy();
      layout = { kind, ...{ rows: rowsPart, one: onePart, matrix: matrixPart }[kind](viewer) };
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
  if (some) root.append(toolsOf(viewer, options), evidencePanel(view, store, viewer.level + 1));
  return { update };
}

// Buttons to copy and save; the address only where it holds the state.
function toolsOf({ view, store }, options) {
  return h("div", { class: "noiser-tools" }, copyMenu(view, store, options.fragment ? () => location.href : null));
}

function tipText(view, state, at) {
  const found = detailsOf(view, state, at.column, at.row, at.target ?? state.target);
  return found.exact ? `${clipped(found.label, 24)} ${found.score.split(",")[0]}` : clipped(found.label, 24);
}

// The pointer and the keyboard, heard once for the whole body.
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
    if (part) hover.set(placeOf(part));
  };
  body.addEventListener("mouseover", point);
  body.addEventListener("focusin", point);
  body.addEventListener("mouseleave", () => hover.set(focused() ? placeOf(focused()) : NOWHERE));
  body.addEventListener("focusout", () => hover.set(NOWHERE));
  body.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape" && hover.get().column !== null) return leave(event, hover);
    if (moveInTable(event) || moveInText(event, layout().texts())) event.preventDefault();
  });
}

function leave(event, hover) {
  const part = event.target.closest("[data-token]");
  const name = part && part.closest("[data-row]")?.querySelector(".noiser-name");
  if (name) name.focus();
  else if (part) part.blur();
  hover.set(NOWHERE);
}

// Left and right along a text, up and down between the methods' texts, Home and End; true where the key was one and there was a way.
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
  rove(text, next);
  text.parts[next][0].focus();
  return true;
}

// The address without a new entry in the history; frames without an address of their own refuse that.
function writeFragment(fragment) {
  try {
    history.replaceState(history.state, "", fragment ? `#${fragment}` : location.pathname + location.search);
  } catch (problem) {
    if (!(problem instanceof DOMException)) throw problem;
  }
}

// Every list of views in the page is drawn right behind its script; with several views in it, one at a time.
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
