// Numbered citations as text.

// The answer with the numbers of its sources, then the sources. `plain` makes the page's texts safe for the medium.
function citationsText(view, state, plain = (text) => text) {
  const { answer } = view.sources;
  const { marks, citations, statements } = view.sources.rows[state.method];
  const said = answer.map(([text, n]) => [plain(text.trim()), ...(n === null ? [] : [marks[n].map((number) => `[${number}]`).join("")])].filter(Boolean));
  const lead = leadText(view);
  const share = (part, error) => `${(100 * part).toFixed(0)} %${error === null ? "" : `, \u00b1 ${(100 * error).toFixed(1)} %`}`;
  const sure = (confidence) => (confidence === null ? "" : `, confidence ${Math.min(confidence, 0.99).toFixed(2)}`);
  const uses = (list) =>
    list.map(([n, part, error, chance]) => (statements.length > 1 ? `sentence ${n + 1}: ` : "") + share(part, error) + sure(chance)).join("; ");
  const lines = citations.map((each) => `[${each.number}] ${plain(each.name)}: "${plain(each.excerpt)}" (${uses(each.uses)})`);
  return [[lead && plain(lead), ...said.flat()].filter(Boolean).join(" "), "", ...lines, ""].join("\n");
}

// The end of the prompt's last line, which a short answer goes on from; empty if the answer begins a text.
function leadText(view) {
  const { given, answer } = view.sources;
  if (answer.reduce((sum, [text]) => sum + text.length, 0) > 60) return "";
  const line = view.texts.slice(Math.max(0, given - 30), given).join("").split("\u23ce").at(-1);
  return line.length > 120 ? `\u2026${line.slice(-120)}` : line;
}
