// Copies and files: Markdown, LaTeX, the command line's JSON, a link, SVG and PNG.

const MARKDOWN = /[\\`*_{}[\]<>#|~!&$@]/g;
const LATEX = {
  "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "_": "\\_", "%": "\\%", "~": "\\textasciitilde{}",
  "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}",
  '"': "\\textquotedbl{}", "`": "\\textasciigrave{}",
  "\u23ce": "\\ensuremath{\\hookleftarrow}", "\u240d": "\\ensuremath{\\hookleftarrow}", "\u21e5": "\\ensuremath{\\mapsto}",
  "\u2192": "\\ensuremath{\\rightarrow}", "\u00b7": "\\textperiodcentered{}", "\u2026": "\\ldots{}", "\u2212": "\\textminus{}",
};

// Text that a Markdown cell shows literally: no markup, no HTML, no link, no border, and all spaces.
function markdownText(text) {
  const plain = visible(text).replace(MARKDOWN, "\\$&").replace(/:(?=\/\/)|(?<=www)\./gi, "\\$&");
  return plain.replace(/^ +| +$| {2,}/g, (spaces) => "&nbsp;".repeat(spaces.length));
}

// The scores of the current target and unit as a table with a column for each visible method; then agreement and costs.
function toMarkdown(view, state) {
  const rows = visibleRows(view, state);
  const { labels, count } = columns(view, state.unit);
  const within = inContext(view, state);
  const each = rows.map((row) => scoresOf(view, state, row));
  const line = (cells) => `| ${cells.join(" | ")} |`;
  const unit = state.unit.replace(/^./, (letter) => letter.toUpperCase());
  const table = [line([unit, ...rows.map((row) => markdownText(rowName(view, row)))]), line([":---", ...rows.map(() => "---:")])];
  for (let i = 0; i < count; i++) {
    if (within[i]) table.push(line([markdownText(labels[i]), ...each.map(({ scores, halves }) => numberWithin(scores[i], halves?.[i]))]));
  }
  if (each.some(({ rest }) => rest)) table.push(line([`*in no ${state.unit}*`, ...each.map(({ rest }) => number(rest))]));
  const closing = [agreementText(view, state), ...costLines(view, rows)].filter(Boolean).map(markdownText);
  return [markdownText(questionText(view, state.target, String)).replace(/(&nbsp;)+/g, " "), "", ...table, "", closing.join("  \n"), ""].join("\n");
}

// The agreement of the visible methods with the reference; empty for one method.
function agreementText(view, state) {
  const reference = referenceRow(view, state);
  const others = visibleRows(view, state).filter((row) => row !== reference);
  const said = others.map((row) => `${rowName(view, row)} ${agreementOf(view, state, reference, row)?.toFixed(2) ?? "n/a"}`);
  const scope = agreementScope(view, { ...state, unit: "token" });
  return others.length ? `Rank agreement with ${rowName(view, reference)} over tokens${scope} (Spearman): ${said.join(", ")}.` : "";
}

function costLines(view, rows) {
  const said = rows.filter((row) => view.rows[row].cost).map((row) => `${rowName(view, row)} ${costText(view.rows[row].cost)}`);
  return said.length ? [`Cost: ${said.join("; ")}.`] : [];
}

// Text that LaTeX prints literally: no command, no comment, no mathematics.
function latexText(text) {
  return Array.from(visible(text), (character) => LATEX[character] || character).join("");
}

// A paragraph of coloured text for each visible method.
function toLatex(view, state) {
  const rows = visibleRows(view, state);
  const shares = state.scale === "all" ? "of the largest score shown" : "of each method's largest score";
  const by = state.unit === "token" ? "" : `, summed over each ${state.unit}`;
  return [
    "% Needs \\usepackage[T1]{fontenc} and \\usepackage{xcolor}; characters beyond Latin need XeLaTeX or LuaLaTeX.",
    "{\\setlength{\\fboxsep}{0.5pt}\\setlength{\\parindent}{0pt}",
    `${latexText(questionText(view, state.target, String))}\\par\\smallskip`,
    ...rows.map((row) => `\\textbf{${latexText(rowName(view, row))}}\\quad\n${latexTokens(view, state, row)}\\par\\smallskip`),
    `{\\footnotesize Orange supports, blue opposes; colours are shares ${shares}${by}. ${latexText(agreementText(view, state))}\\par}}`,
    "",
  ].join("\n");
}

// The tokens before the target, each on the colour of its score or its unit's, and the target.
function latexTokens(view, state, row) {
  const pieces = tokenPieces(view, state, row, state.target).map((piece) => {
    const [, spaces, rest] = /^( *)([^]*)$/.exec(piece.text);
    if (!piece.text) return "";
    const gap = spaces ? `\n${"\\ ".repeat(spaces.length - 1)}` : /^\p{Script=Latin}/u.test(rest) ? "" : "\\allowbreak{}";
    return `${gap}${latexPiece(piece, rest || (piece.share ? "\u00b7" : ""))}${piece.ends ? "\\newline{}" : ""}`;
  });
  return pieces.join("").trimStart();
}

function latexPiece({ share, role, special, bold }, text) {
  const styled = special ? `\\textit{${latexText(text)}}` : latexText(text);
  if (role) return `\\textsc{${styled}:} `;
  if (bold) return `\\textbf{${styled}}`;
  if (!share || !text) return styled;
  const { background, text: ink } = colour(share, false);
  const inked = luminance(ink) > 0.5 ? `\\textcolor[HTML]{${ink.slice(1).toUpperCase()}}{${styled}}` : styled;
  return `\\colorbox[HTML]{${background.slice(1).toUpperCase()}}{\\strut{}${inked}}`;
}

// What the command line prints for the same result with --format json, in one line.
function toJson(view) {
  const attributions = view.rows.map((row) => attributionJson(view, row));
  if (!view.comparison) return JSON.stringify(attributions[0]);
  const { spearman, top3_overlap } = view.agreement;
  const methods = view.rows.map((row) => row.label ?? row.method);
  return JSON.stringify({ schema: 1, methods, attributions, agreement: { spearman, top3_overlap }, failures: view.failures });
}

function attributionJson(view, row) {
  const { method, label, options, seed, unit, scores, stderr, dof, notes, cost, card, health, curves } = row;
  const targets = view.targets.map(targetJson);
  return {
    schema: 1, model: view.model, revision: view.revision, method, ...(label ? { label } : {}), options, seed, prompt: view.prompt,
    target: targets[0], targets, unit, scores, ...(stderr ? { stderr } : {}), ...(dof ? { dof } : {}), notes, cost,
    ...(card ? { card } : {}), ...(health ? { health } : {}), ...(curves && curves.length ? { curves } : {}),
  };
}

function targetJson({ token_ids, tokens, prob, rank, quantity, value, foil, context }) {
  return { token_ids, tokens, prob, rank, quantity, value, foil: foil ? targetJson(foil) : null, context };
}

// Buttons that copy and save what is shown. `link` gives the address to copy; without it there is no such button.
function copyMenu(view, store, link = null) {
  const said = h("span", { class: "noiser-said", role: "status" });
  const say = (text) => {
    said.textContent = text;
    setTimeout(() => said.textContent === text && (said.textContent = ""), 6000);
  };
  const button = (text, label, act) => h("button", { type: "button", text, "aria-label": label, on: { click: () => attempt(act, say) } });
  const copy = (text, label, made) => button(text, label, async () => ((await copyText(made(store.get()), menu)) ? "Copied" : ""));
  const cite = view.sources && copy("Citations", "Copy as citations in Markdown", (state) => citationsText(view, state, markdownText));
  const linked = link && copy("Link", "Copy a link to this", link);
  const bare = () => h("div", { class: "noiser-copy", role: "group", "aria-label": "Copy" }, h("span", { class: "noiser-hint", text: "Copy" }), cite, linked, said);
  const menu = canShow("rows", view) ? h("div", { class: "noiser-copy", role: "group", "aria-label": "Copy and save" },
    h("span", {}, h("span", { class: "noiser-hint", text: "Copy" }), cite,
      copy("Markdown", "Copy as Markdown", (state) => toMarkdown(view, state)),
      copy("LaTeX", "Copy as LaTeX", (state) => toLatex(view, state)),
      copy("JSON", "Copy as JSON", () => toJson(view)), linked),
    h("span", {}, h("span", { class: "noiser-hint", text: "Save" }),
      button("SVG", "Save as SVG", () => saveSvg(view, store.get(), isDark(store.get()))),
      button("PNG", "Save as PNG", () => savePng(view, store.get(), isDark(store.get()))),
      button("JSON", "Save as JSON", () => saveJson(view))),
    said) : bare();
  return menu;
}

// Runs an action and reports the outcome.
async function attempt(act, say) {
  try {
    say(await act());
  } catch (problem) {
    say(`That did not work: ${problem.message}`);
  }
}

function saveJson(view) {
  download(new Blob([toJson(view), "\n"], { type: "application/json" }), fileName(view, "json"));
  return "Saved";
}

// Copies to the clipboard. If the page may not, shows a dialog to copy from by hand, and returns false.
async function copyText(text, near) {
  if (await copyWithClipboard(text) || copyWithSelection(text, near)) return true;
  const area = h("textarea", { readonly: true, rows: 12, "aria-label": "Text to copy", text });
  const close = h("button", { type: "button", text: "Close", on: { click: () => dialog.close() } });
  const dialog = h("dialog", { class: "noiser-dialog", "aria-label": "Copy by hand", on: { close: () => dialog.remove() } },
    h("p", { text: "This page may not use the clipboard. The text is selected: copy it with Ctrl+C or \u2318C." }), area, close);
  near.append(dialog);
  dialog.showModal();
  area.select();
  return false;
}

async function copyWithClipboard(text) {
  if (!navigator.clipboard) return false;
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch (problem) {
    if (problem instanceof DOMException) return false;
    throw problem;
  }
}

// The old way, for pages that were opened as files or are in a frame.
function copyWithSelection(text, near) {
  const before = document.activeElement;
  const area = h("textarea", { class: "noiser-offscreen", readonly: true, "aria-hidden": "true", tabindex: -1, text });
  near.append(area);
  area.select();
  const took = document.execCommand("copy");
  area.remove();
  if (before) before.focus({ preventScroll: true });
  return took;
}

// A file name from a title: letters, digits and hyphens.
function fileName(view, ending) {
  const plain = visible(view.title).normalize("NFKC").replace(/[^\p{L}\p{N}]+/gu, "-").match(/^.{0,60}/u)[0].replace(/^-+|-+$/g, "");
  return `${["noiser", plain].filter(Boolean).join("-")}.${ending}`;
}

function download(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = h("a", { href: address, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function saveSvg(view, state, dark) {
  download(new Blob([toSvg(view, state, dark)], { type: "image/svg+xml" }), fileName(view, "svg"));
  return "Saved";
}

// Saves the picture at twice its size, or as large as a canvas can be. Resolves to a message.
async function savePng(view, state, dark) {
  const svg = toSvg(view, state, dark);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const scale = Math.min(2, PICTURE.most / Math.max(image.width, image.height));
  const canvas = h("canvas", { width: Math.floor(image.width * scale), height: Math.floor(image.height * scale) });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error("the picture is too large for this browser; the SVG has no limit");
  download(blob, fileName(view, "png"));
  return scale < 2 ? "Saved, made smaller to fit: the SVG is sharper" : "Saved";
}
