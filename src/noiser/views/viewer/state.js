// The reader's choices in one viewer: a plain object in a small store, and the same as text for an address's fragment.

const VIEWS = ["rows", "one", "matrix", "sources"];
const ORDERS = ["score", "place"];
const SORTS = ["given", "agreement", "cost"];
const SCALES = ["row", "all"];
const THEMES = ["auto", "light", "dark"];

const DEFAULTS = Object.freeze({
  unit: "token", // token, or a kind of view.units
  target: 0, // which of view.targets
  view: "rows", // rows: all methods; one: a method with its strongest tokens; matrix: all targets; sources: see sources.js
  method: 0, // which of view.rows is shown alone, and in the matrix
  reference: 0, // which of view.rows the others are compared with
  hidden: Object.freeze([]), // names of methods, see rowName
  sort: "given",
  order: "score", // of sources: the largest score first, or their places in the prompt
  scale: "row", // colours as shares of each row's largest score, or of the largest of all rows
  numbers: false, // small scores under the tokens
  curve: null, // how many tokens the slider of the evidence panel removes
  theme: "auto",
});

const READERS = {
  unit: (text, view) => (text === "token" || Object.hasOwn(view.units, text) ? text : undefined),
  target: (text, view) => whole(text, view.targets.length),
  view: (text, view) => (canShow(text, view) ? oneOf(VIEWS)(text) : undefined),
  method: (text, view) => whole(text, view.rows.length),
  reference: (text, view) => whole(text, view.rows.length),
  hidden: (text, view) => text.split(",").filter((name) => view.rows.some((_, row) => rowName(view, row) === name)),
  sort: (text) => oneOf(SORTS)(text),
  order: (text) => oneOf(ORDERS)(text),
  scale: (text) => oneOf(SCALES)(text),
  numbers: (text) => (text === "1" ? true : text === "0" ? false : undefined),
  curve: (text) => whole(text, 1e7),
  theme: (text) => oneOf(THEMES)(text),
};

// Whether a view has what a layout draws. One of a long prompt has sources and no single tokens.
function canShow(layout, view) {
  if (layout === "sources") return Boolean(view.sources);
  return (!view.sources || view.sources.tokens) && (layout !== "matrix" || view.targets.length > 1);
}

// The state that a view opens with: the one it was saved with (`view.state`, a fragment), else the units that were perturbed. A page's
// address holds the differences from this state.
function initialState(view) {
  return typeof view.state === "string" ? applyFragment(defaultState(view), view.state, view) : defaultState(view);
}

function defaultState(view) {
  const perturbed = view.rows.length ? view.rows[0].unit : "token";
  const unit = Object.hasOwn(view.units, perturbed) && view.rows.every((row) => row.unit === perturbed) ? perturbed : "token";
  return { ...DEFAULTS, hidden: [], unit, view: view.sources && view.sources.opens ? "sources" : "rows" };
}

// `unit=word&target=2`: only what differs from the state the view opens with.
function toFragment(state, view) {
  const first = view ? initialState(view) : DEFAULTS;
  const text = (value) =>
    Array.isArray(value) ? value.join(",") : value === true ? "1" : value === false ? "0" : value === null ? "" : String(value);
  const parts = Object.keys(DEFAULTS).filter((key) => key in state && text(state[key]) !== text(first[key]));
  return parts.map((key) => `${key}=${encodeURIComponent(text(state[key])).replace(/%2C/g, ",")}`).join("&");
}

// The state that a fragment names. Unknown or malformed parts, and parts that the view lacks, are ignored.
function fromFragment(text, view) {
  return applyFragment(initialState(view), text, view);
}

function applyFragment(state, text, view) {
  for (const part of String(text || "")
    .replace(/^#/, "")
    .split("&")) {
    const at = part.indexOf("=");
    const key = part.slice(0, at);
    if (at < 1 || !Object.hasOwn(READERS, key)) continue;
    try {
      const value = READERS[key](decodeURIComponent(part.slice(at + 1)), view);
      if (value !== undefined) state[key] = value;
    } catch (problem) {
      if (!(problem instanceof URIError)) throw problem;
    }
  }
  return state;
}

// A store: get() the state, set() a part of it, subscribe(listener(state, before)). subscribe returns a function that ends it.
function createStore(initial) {
  let state = { ...initial };
  const listeners = new Set();
  return {
    get: () => state,
    set(part) {
      if (!changed({ ...state, ...part }, state, ...Object.keys(part))) return;
      const before = state;
      state = { ...state, ...part };
      [...listeners].forEach((listener) => listener(state, before));
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

// Whether any of these keys differs.
function changed(state, before, ...keys) {
  return keys.some((key) => state[key] !== before[key]);
}

// Whether the viewer is dark now.
function isDark(state) {
  return state.theme === "dark" || (state.theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
}

function whole(text, limit) {
  const found = /^\d{1,7}$/.test(text) ? Number(text) : limit;
  return found < limit ? found : undefined;
}

function oneOf(allowed) {
  return (text) => (allowed.includes(text) ? text : undefined);
}
