// The details of the current token, in a fixed place, and a small tip beside it.

// {element, show(at)}: `at` is {column, row, target}; column null for none.
function detailsPart(viewer) {
  const { view, store } = viewer;
  const name = h("b");
  const score = h("span");
  const exact = h("span", { class: "noiser-exact" });
  const facts = h("p", { class: "noiser-quiet" });
  const values = view.rows.map((_, row) => h("b"));
  const items = view.rows.map((_, row) => h("li", null, h("span", { text: rowName(view, row) }), values[row]));
  const others = h("ul", { "aria-label": "This token by each method" }, ...items);
  const element = h(
    "div",
    { class: "noiser-details", role: "group", "aria-label": "Details" },
    h("p", null, name, score, exact),
    facts,
    view.rows.length > 1 && others,
  );
  const show = (at) => {
    element.classList.toggle("noiser-details-live", at.column !== null);
    const state = store.get();
    const target = at.target ?? state.target;
    const cols = columns(view, state.unit);
    others.hidden = state.view === "rows" && view.labels.length <= 80;
    const row = view.rows[at.row] ? at.row : state.view === "rows" ? (visibleRows(view, state)[0] ?? 0) : state.method;
    const found = at.column !== null && view.rows.length ? detailsOf(view, state, at.column, row, target) : null;
    name.textContent = found ? found.label : "";
    score.textContent = found ? found.score : "Point at a token for its exact score.";
    exact.textContent = found ? found.exact : "";
    facts.textContent = found ? found.facts : "";
    const within = inContext(view, state, target);
    values.forEach((value, each) => {
      items[each].hidden = state.hidden.includes(rowName(view, each));
      const { scores, halves } = scoresOf(view, state, each, target);
      value.textContent = found && within[at.column] ? readingWithin(scores[at.column], halves?.[at.column]) : "\u2013";
    });
  };
  return { element, show };
}

// The details of one column in one row: {label, score, exact, facts}.
function detailsOf(view, state, column, row, target) {
  const cols = columns(view, state.unit);
  const { scores, largest, place, halves, ranges } = scoresOf(view, state, row, target);
  const within = inContext(view, state, target);
  const tokens = cols.members[column] || [];
  const label = clip(cols.labels[column] ?? "", 80);
  const about = positionText(view, tokens);
  if (!within[column]) return { label, score: "comes after this output and has no score", exact: "", facts: about };
  const score = scores[column];
  const count = within.filter(Boolean).length;
  const share = largest > 0 ? `${percent(Math.abs(score), largest)} of the largest` : "no token has any influence";
  const by = view.rows.length > 1 ? ` (${rowName(view, row)})` : "";
  const answer = view.targets.length > 1 ? `${score === 0 ? " on" : ""} ${view.targets[target].label}` : "";
  return {
    label,
    score: `${readingWithin(score, halves?.[column])}, ${direction(score)}${answer}${by}`,
    exact: String(score),
    facts: `${ordinal(place[column])} strongest of ${count}${rangeText(ranges, column)} \u00b7 ${share} \u00b7 ${about}`,
  };
}

// The places that a column may have, if there are several.
function rangeText(ranges, column) {
  return isUncertain(ranges, column) ? ` (ranks ${ranges[column][0]}\u2013${ranges[column][1]} at 95 %)` : "";
}

// A share in per cent, finer near the ends. Only zero is 0 %, and only the whole is 100 %.
function percent(size, whole) {
  const share = (100 * size) / whole;
  if (size === 0 || size === whole) return `${share.toFixed(0)} %`;
  if (share < 0.1) return "less than 0.1 %";
  if (share > 99.9) return "more than 99.9 %";
  return `${share.toFixed(share < 10 || share > 99 ? 1 : 0)} %`;
}

function positionText(view, tokens) {
  const ids = view.prompt.input_ids;
  if (!tokens.length) return "no token";
  if (tokens.length === 1) return `position ${tokens[0]}${ids[tokens[0]] === undefined ? "" : `, token id ${ids[tokens[0]]}`}`;
  const labels = clip(
    tokens
      .slice(0, 12)
      .map((i) => view.labels[i])
      .join(" | "),
    80,
  );
  return `${tokens.length} tokens, positions ${tokens[0]} to ${tokens[tokens.length - 1]}: ${labels}`;
}

// A tip above an element of the body, outside the layout.
function tipPart(body) {
  const tip = h("div", { class: "noiser-tip", hidden: true });
  const element = h("div", { class: "noiser-over", "aria-hidden": "true" }, tip);
  const show = (anchor, text) => {
    tip.hidden = !anchor;
    if (!anchor) return;
    const box = anchor.getClientRects()[0] || anchor.getBoundingClientRect();
    const frame = body.getBoundingClientRect();
    const room = frame.width - 8 - text.length * 7;
    tip.textContent = text;
    const left = Math.max(0, Math.min(box.left - frame.left, room));
    tip.style.transform = `translate(${Math.round(left)}px, calc(${Math.round(box.top - frame.top)}px - 115%))`;
  };
  return { element, show };
}
