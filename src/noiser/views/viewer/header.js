// The part above the text: the question, the output tokens, the controls and the legend.

// {element, update(state)}
function headerPart(viewer) {
  const { view, store } = viewer;
  const title = h(`h${viewer.level}`, { class: "noiser-question" });
  const facts = h("p", { class: "noiser-facts" });
  const outputs = view.targets.length > 1 ? outputsPart(viewer) : null;
  const controls = controlsPart(viewer);
  const update = (state) => {
    const parts = question(view, state.target);
    const quoted = (text) => h("b", { text: `\u201c${text}\u201d` });
    const foil = parts.foil === null ? [] : [` ${parts.between} `, quoted(parts.foil)];
    const value = parts.foil === null && parts.between ? [` ${parts.between}`] : [];
    title.replaceChildren(...(parts.answer ? [`${parts.lead} `, quoted(parts.answer), ...foil, ...value, "?"] : [`${parts.lead}.`]));
    facts.textContent = parts.facts;
    if (outputs) outputs.element.hidden = state.view === "sources"; // the answer is there
    if (outputs) outputs.update(state);
    controls.update(state);
  };
  return { element: h("header", null, title, facts, outputs && outputs.element, failuresElement(view), controls.element), update };
}

function failuresElement(view) {
  const failed = Object.entries(view.failures);
  if (!failed.length) return null;
  return h(
    "ul",
    { class: "noiser-failures" },
    ...failed.map(([method, why]) => h("li", { text: `${visible(method)} could not explain this: ${why}` })),
  );
}

// The output tokens as buttons: press one to see what led to it. Arrow keys move between them.
function outputsPart({ view, store }) {
  const buttons = view.targets.map((target, n) => {
    const title = `p = ${short(target.prob)}`;
    return h("button", {
      type: "button",
      class: "noiser-output",
      "data-output": n,
      text: target.text.trim() || target.label,
      title,
      "aria-label": `Output ${n + 1}: ${target.label}, ${title}`,
    });
  });
  const element = h(
    "div",
    { class: "noiser-outputs", role: "group", "aria-label": "Output tokens" },
    h("span", { text: "Output, press a token to see what led to it:" }),
    ...buttons,
  );
  element.addEventListener("click", (event) => {
    const button = event.target.closest("[data-output]");
    if (button) store.set({ target: Number(button.dataset.output) });
  });
  element.addEventListener("keydown", (event) => {
    const { target } = store.get();
    const to = { ArrowLeft: target - 1, ArrowRight: target + 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined || !buttons[to]) return;
    event.preventDefault();
    store.set({ target: to });
    buttons[to].focus();
  });
  const update = (state) => {
    buttons.forEach((button, n) => {
      button.setAttribute("aria-pressed", String(n === state.target));
      button.tabIndex = n === state.target ? 0 : -1;
    });
    requestAnimationFrame(() => keepInSight(element, buttons[state.target])); // the first time it is not yet in the page
  };
  return { element, update };
}

// Scrolls only this box, to a button in it.
function keepInSight(box, button) {
  const top = button.offsetTop - box.offsetTop;
  if (top < box.scrollTop || top > box.scrollTop + box.clientHeight - 30) box.scrollTop = top - 40;
}

function controlsPart(viewer) {
  const { view } = viewer;
  const several = view.rows.length > 1;
  const layouts = [
    ["sources", "Sources"],
    ["rows", several ? "All methods" : "Text"],
    several && ["one", "One method"],
    ["matrix", "Matrix"],
  ].filter((layout) => layout && canShow(layout[0], view));
  const units = ["token", ...Object.keys(view.units).filter((kind) => kind !== "token")].map((kind) => [kind, capitalized(kind)]);
  const names = view.rows.map((_, row) => [String(row), rowName(view, row)]);
  const shown = [
    layouts.length > 1 && radios(viewer, "view", "Show", layouts),
    units.length > 1 && radios(viewer, "unit", "By", units, inSources),
    view.sources && radios(viewer, "order", "Sort", Object.entries(ORDER_NAMES), (state) => !inSources(state)),
    several && chooser(viewer, "method", "Method", names, { read: Number, hide: (state) => state.view === "rows" }),
  ].filter(Boolean);
  const hidden = rarerControls(viewer, several);
  const more = h(
    "details",
    { class: "noiser-more" },
    h("summary", { text: several ? "Methods and options" : "Options" }),
    h("div", null, ...hidden.map((part) => part.element)),
  );
  const element = h("div", { class: "noiser-controls" }, ...shown.map((part) => part.element), more);
  return { element, update: (state) => [...shown, ...hidden].forEach((part) => part.update(state)) };
}

const THEME_NAMES = { auto: "as the system", light: "light", dark: "dark" };
const SORT_NAMES = { given: "as given", agreement: "by agreement", cost: "by cost" };
const inSources = (state) => state.view === "sources";
const ORDER_NAMES = { score: "by score", place: "by place" };
const SCALE_NAMES = { row: "each row on its own scale", all: "one scale for all" };

function rarerControls(viewer, several) {
  const { rows, targets } = viewer.view;
  const tokens = canShow("rows", viewer.view);
  return [
    several && chips(viewer),
    rows.length > 2 && chooser(viewer, "sort", "Sort", Object.entries(SORT_NAMES)),
    tokens && (several || targets.length > 1) && chooser(viewer, "scale", "Colours", Object.entries(SCALE_NAMES), { hide: inSources }),
    tokens && tick(viewer, "numbers", "Scores under the text", inSources),
    chooser(viewer, "theme", "Theme", Object.entries(THEME_NAMES)),
  ].filter(Boolean);
}

// A few choices side by side, as radio buttons.
function radios({ id, store }, key, name, choices, hide = () => false) {
  const inputs = choices.map(([value]) =>
    h("input", { type: "radio", name: `${id}-${key}`, value, on: { change: () => store.set({ [key]: value }) } }),
  );
  const labels = choices.map(([, text], i) => h("label", null, inputs[i], h("span", { text })));
  const element = h(
    "fieldset",
    { class: `noiser-group noiser-${key}` },
    h("legend", { text: name }),
    h("div", { class: "noiser-segments" }, ...labels),
  );
  const update = (state) => {
    inputs.forEach((input) => (input.checked = input.value === state[key]));
    element.hidden = hide(state);
  };
  return { element, update };
}

function chooser({ store }, key, name, choices, { read = String, hide = () => false } = {}) {
  const select = h("select", null, ...choices.map(([value, text]) => h("option", { value, text })));
  select.addEventListener("change", () => store.set({ [key]: read(select.value) }));
  const element = h("label", { class: "noiser-group" }, h("span", { text: name }), select);
  const update = (state) => {
    select.value = String(state[key]);
    element.hidden = hide(state);
  };
  return { element, update };
}

function tick({ store }, key, name, hide = () => false) {
  const input = h("input", { type: "checkbox", on: { change: () => store.set({ [key]: input.checked }) } });
  const element = h("label", { class: "noiser-chip" }, input, name);
  const update = (state) => {
    input.checked = state[key];
    element.hidden = hide(state);
  };
  return { element, update };
}

// Chips that show and hide methods.
function chips({ view, store }) {
  const names = view.rows.map((_, row) => rowName(view, row));
  const inputs = names.map((name) => h("input", { type: "checkbox", value: name }));
  const element = h(
    "fieldset",
    { class: "noiser-group" },
    h("legend", { text: "Methods" }),
    ...names.map((name, i) => h("label", { class: "noiser-chip" }, inputs[i], name)),
  );
  element.addEventListener("change", () => store.set({ hidden: inputs.filter((input) => !input.checked).map((input) => input.value) }));
  return { element, update: (state) => inputs.forEach((input) => (input.checked = !state.hidden.includes(input.value))) };
}

// The colours and what they mean, with numbers at the ends if everything is drawn on one scale.
function legendPart({ view, store }) {
  const strip = h("div", { class: "noiser-strip", "aria-hidden": "true" });
  for (let at = -STEPS; at <= STEPS; at++) strip.append(h("i", { class: stepClass(at / STEPS) }));
  const ends = [h("span"), h("span", { text: "0" }), h("span")];
  const note = h("span");
  const scale = h(
    "div",
    { class: "noiser-scale" },
    h("span", { text: "opposes" }),
    strip,
    h("span", { text: "supports" }),
    h("div", { class: "noiser-ends" }, ...ends),
  );
  const update = (state) => {
    if (state.view === "sources") return;
    const rows = state.view === "rows" ? visibleRows(view, state) : view.rows.length ? [state.method] : [];
    const every = state.view === "matrix" ? view.targets.map((_, n) => n) : [state.target];
    const own = state.scale === "row" && rows.length * every.length > 1;
    const most = Math.max(0, ...rows.flatMap((row) => every.map((n) => scoresOf(view, state, row, n).largest)));
    ends[0].textContent = own ? "\u2212 largest" : `\u2212${brief(most).replace("+", "")}`;
    ends[2].textContent = own ? "+ largest" : brief(most);
    note.textContent = own
      ? "Each row on its own scale, from its largest score."
      : rows.length > 1
        ? "One scale for all; methods may measure in different units."
        : "";
  };
  return { element: h("div", { class: "noiser-legend" }, scale, note), update };
}
