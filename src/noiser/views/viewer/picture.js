// Drawings: the chart of removal curves, and the heat map as a picture that stands alone.

const CHART = { width: 410, height: 216, left: 40, top: 10, bottom: 36, letters: 20 };
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 2 1 2 1 2"];
const MARKS = [
  "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z", "M-2.7-2.7h5.4v5.4h-5.4z", "M0-3.6L3.4 2.6h-6.8z", "M0-3.9L3.9 0 0 3.9-3.9 0z",
  "M0 3.6L3.4-2.6h-6.8z", "M-3-1h2v-2h2v2h2v2h-2v2h-2v-2h-2z", "M-1.5-3.4h3v6.8h-3z",
];

// The colour, dash and mark of a row's line: no two of the first 35 share both dash and mark.
function lineClass(row) {
  return `noiser-line-${row % 8}`;
}

function lineParts(row, d) {
  return svgEl("path", { class: "noiser-curve", d, "stroke-dasharray": DASHES[row % DASHES.length] || null });
}

function markerAt(row, x, y) {
  return svgEl("path", { class: "noiser-point", d: MARKS[row % MARKS.length], transform: `translate(${x} ${y})` });
}

// A short piece of a row's line, for labels and tables.
function lineSample(row) {
  const frame = { class: `noiser-sample ${lineClass(row)}`, viewBox: "0 0 24 10", width: 24, height: 10, "aria-hidden": "true" };
  return svgEl("svg", frame, lineParts(row, "M1 5H23"), markerAt(row, 12, 5));
}

// Three to six round numbers in a range.
function roundTicks(low, high) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const width = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((each) => each >= rough * 0.999);
  const first = Math.ceil(low / width - 1e-9);
  const ticks = [];
  for (let n = first; n * width <= high + width * 1e-9; n++) ticks.push(Number((n * width).toPrecision(12)));
  return ticks;
}

// One chart: the quantity against the number of tokens removed, or kept. {element, move(count, place)}
function removalChart(kind, lines, steps, domain) {
  const { width, height, left, top, bottom, letters } = CHART;
  const end = width - 39 - 7 * Math.min(letters, Math.max(...lines.map(({ name }) => name.length)));
  const x = (place) => left + ((end - left) * place) / Math.max(1, steps.length - 1);
  const y = (value) => top + ((height - top - bottom) * (domain[1] - value)) / (domain[1] - domain[0]);
  const at = { x, y, steps, end, place: new Map(steps.map((count, place) => [count, place])) };
  const rule = svgEl("path", { class: "noiser-rule", d: `M0 ${top}V${height - bottom}` });
  const points = lines.map(({ row }) => svgEl("g", { class: lineClass(row) }, markerAt(row, 0, 0)));
  const drawn = svgEl("svg", { class: "noiser-chart", viewBox: `0 0 ${width} ${height}`, role: "img" },
    chartAxes(at, domain, kind), rule, lines.map((line) => curvePath(line, line.curve[kind], at)), points, lineLabels(lines, kind, at));
  const move = (count, place) => {
    rule.setAttribute("transform", `translate(${x(place)} 0)`);
    lines.forEach(({ curve }, n) => {
      const value = curve[kind][curve.counts.indexOf(count)];
      points[n].setAttribute("transform", Number.isFinite(value) ? `translate(${x(place)} ${y(value)}) scale(1.35)` : "translate(-99 -99)");
    });
    drawn.setAttribute("aria-label", chartText(kind, lines, count));
  };
  const title = kind === "removed" ? "Highest tokens removed" : "Only the highest tokens kept";
  return { element: h("figure", {}, h("figcaption", { text: title }), drawn), move };
}

function chartAxes({ x, y, steps, end }, domain, kind) {
  const { height, left, bottom } = CHART;
  const grid = roundTicks(...domain).map((tick) => [
    svgEl("path", { class: "noiser-grid", d: `M${left} ${y(tick)}H${end}` }),
    svgEl("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end", text: minus(String(tick)) })]);
  const every = Math.ceil((steps.length - 1) / 5) || 1;
  const last = steps.length - 1;
  const marked = steps.map((_, place) => place).filter((place) => place === last || (place % every === 0 && last - place >= every * 0.7));
  const words = (place, down, text) => svgEl("text", { x: place, y: height - down, "text-anchor": "middle", text });
  return [grid, marked.map((place) => words(x(place), bottom - 16, thousands(steps[place]))), words((left + end) / 2, 4, `tokens ${kind}`)];
}

function curvePath({ row, curve }, values, { x, y, place }) {
  const points = curve.counts.map((count, n) => [x(place.get(count)), y(values[n])]).filter((point) => point.every(Number.isFinite));
  const path = lineParts(row, points.map(([a, b], n) => `${n ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join(""));
  return svgEl("g", { class: lineClass(row) }, path, points.map(([a, b]) => markerAt(row, a, b)));
}

// A label for each line where it ends; one that had to make way is led back to its line.
function lineLabels(lines, kind, { x, y, end, place }) {
  const ends = lines.map((line) => {
    const at = line.curve[kind].findLastIndex(Number.isFinite);
    return { line, x: at < 0 ? end : x(place.get(line.curve.counts[at])), y: at < 0 ? CHART.top : y(line.curve[kind][at]) };
  });
  const order = ends.sort((a, b) => a.y - b.y);
  const heights = spreadApart(order.map((each) => each.y), CHART.top, CHART.height - 14);
  return order.map(({ line, x: from, y: own }, n) => {
    const leader = Math.abs(heights[n] - own) > 3 && `M${from - end - 10} ${own - heights[n]}L0 0`;
    return svgEl("g", { class: lineClass(line.row), transform: `translate(${end + 14} ${heights[n]})` },
      leader && svgEl("path", { class: "noiser-leader", d: leader }), lineParts(line.row, "M0 0H18"), markerAt(line.row, 9, 0),
      svgEl("text", { x: 23, y: 4 }, svgEl("title", { text: line.name }), clip(line.name, CHART.letters)));
  });
}

const PICTURE = { width: 880, margin: 28, size: 16, line: 30, font: "system-ui, sans-serif", most: 8192 };
const RIGHT_TO_LEFT = /^\P{L}*[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u;

// The current heat map as a standalone SVG: the question, each row's name and coloured text, and the colour scale.
function toSvg(view, state, dark) {
  const page = new Sheet(dark);
  const all = state.view === "matrix";
  const title = questionText(view, state.target);
  page.write(all ? [{ text: rowName(view, state.method), bold: true }] : questionPieces(view, state.target, true), 18);
  for (const { row, target } of pictureBlocks(view, state)) {
    page.space(all ? 16 : 12);
    page.write(all ? questionPieces(view, target) : namePieces(view, state, row), 13);
    page.write(tokenPieces(view, state, row, target), PICTURE.size);
  }
  page.legend(state.scale === "all" && !all ? "of the largest score shown" : "of each row\u2019s largest score");
  return new XMLSerializer().serializeToString(page.drawing(title));
}

// The blocks to draw: one method, all visible methods, or for a matrix all targets of one method.
function pictureBlocks(view, state) {
  if (state.view === "matrix") return view.targets.map((_, target) => ({ row: state.method, target }));
  const rows = state.view === "one" ? [state.method] : visibleRows(view, state);
  return rows.map((row) => ({ row, target: state.target }));
}

function questionPieces(view, n, small = false) {
  const { facts } = question(view, n);
  const asked = questionText(view, n).slice(0, facts ? -facts.length : undefined).trim();
  return [...wordPieces(asked, { bold: true }), ...wordPieces(`  ${facts}`, { dim: true, small })];
}

function namePieces(view, state, row) {
  const { cost } = view.rows[row];
  const { scores, rest } = scoresOf(view, state, row);
  const strongest = scores.reduce((best, score) => (Math.abs(score) > Math.abs(best) ? score : best), 0);
  const took = cost ? costText(cost).split(", ").slice(0, 2).join(", ") : "";
  const parts = [`strongest ${state.unit} ${reading(strongest)}`, rest ? `in no ${state.unit} ${reading(rest)}` : "", took];
  return [{ text: rowName(view, row), bold: true }, ...wordPieces(`   ${parts.filter(Boolean).join(" \u00b7 ")}`, { dim: true })];
}

function wordPieces(text, how) {
  return (text.match(/\s*\S+/g) || []).map((word) => ({ text: word, ...how }));
}

// The tokens before a target with their colours' shares and columns, the roles of a chat between them, and the target.
function tokenPieces(view, state, row, target) {
  const { of } = columns(view, state.unit);
  const share = shares(view, state, row, target);
  const { text, foil_text: foil } = view.targets[target];
  const pieces = view.texts.slice(0, contextLength(view, target)).flatMap((token, i) => {
    const role = Object.hasOwn(view.roles, i) ? [{ text: view.roles[i], role: true, small: true, starts: true }] : [];
    const seen = of[i] === null ? 0 : step(share[of[i]]) / STEPS;
    return [...role, { text: token, share: seen, column: of[i], special: view.special[i], ends: token.includes("\u23ce") }];
  });
  const against = foil ? wordPieces(` (not ${foil.trim()})`, { dim: true }) : [];
  return [...pieces, { text: " \u2192", dim: true }, { text: text.startsWith(" ") ? text : ` ${text}`, bold: true }, ...against];
}

// A sheet of wrapped text that grows downwards.
class Sheet {
  constructor(dark) {
    const colours = new Map();
    this.colour = (share) => colours.get(share) || colours.set(share, colour(share, dark)).get(share);
    this.dim = dark ? "#a3a9b4" : "#5b616b";
    this.bottom = PICTURE.margin - 8;
    [this.boxes, this.texts] = [[], []];
    this.context = document.createElement("canvas").getContext("2d");
    this.widths = new Map();
  }

  space(height) {
    this.bottom += height;
  }

  // Writes pieces from a new line on. A line breaks before a piece that begins with a space, or where it must.
  write(pieces, size) {
    const { margin, width, line } = PICTURE;
    const height = Math.round((size / PICTURE.size) * line);
    let [x, placed] = [margin, []];
    const end = () => {
      mirrorRightToLeft(placed);
      unitBoxes(placed).forEach((box) => this.box(box, size));
      placed.forEach((each) => this.text(each, size));
      [x, placed] = [margin, []];
    };
    const feed = () => {
      end();
      this.bottom += height;
    };
    this.bottom += height;
    for (const word of unbreakableGroups(pieces)) {
      const sizes = word.map((piece) => this.measured(piece, size, width - 2 * margin));
      const whole = sizes.reduce((sum, each) => sum + each.gap + each.wide, 0);
      if (x > margin && (word[0].starts || x + whole > width - margin)) feed();
      word.forEach((piece, n) => {
        const { gap, wide, shown } = sizes[n];
        if (x > margin && x + gap + wide > width - margin) feed();
        x += x > margin || !shown ? gap : 0;
        placed.push({ piece, shown, x, wide });
        x += wide;
      });
      if (word.at(-1).ends) feed();
    }
    end();
  }

  // {gap: width of the spaces before it, wide: of the rest, shown: what is written}
  measured(piece, size, most) {
    const [, spaces, rest] = /^( *)([^]*)$/.exec(piece.text);
    const shown = rest || (piece.share ? "\u00b7".repeat(spaces.length) : "");
    const font = fontFor(piece, size);
    const gap = rest && spaces ? this.widthOf(spaces, font) : 0;
    return { gap, wide: Math.min(most, this.widthOf(shown || spaces, font) + (piece.role ? 8 : 0)), shown };
  }

  widthOf(text, font) {
    const key = `${font}\n${text}`;
    if (!this.widths.has(key)) {
      this.context.font = font;
      this.widths.set(key, this.context.measureText(text).width);
    }
    return this.widths.get(key);
  }

  text({ piece, shown, x, wide }, size) {
    if (!shown) return;
    const fill = piece.share ? this.colour(piece.share).text : piece.dim || piece.role || piece.special ? this.dim : this.colour(0).text;
    const length = shown.length > 1 ? { textLength: (wide - (piece.role ? 8 : 0)).toFixed(2), lengthAdjust: "spacingAndGlyphs" } : {};
    const weight = { "font-weight": piece.bold ? 600 : null, "font-style": piece.special ? "italic" : null };
    const font = { "font-size": piece.small ? size - 4 : size, ...weight };
    this.texts.push(svgEl("text", { x: x.toFixed(2), y: this.bottom, fill, ...font, ...length, "xml:space": "preserve", text: shown }));
  }

  box({ left, right, share }, size) {
    const place = { x: (left - 1).toFixed(2), y: this.bottom - size, width: (right - left + 2).toFixed(2), height: size * 1.4, rx: 3 };
    this.boxes.push(svgEl("rect", { ...place, fill: this.colour(share).background }));
  }

  legend(words) {
    this.bottom += 44;
    const { margin } = PICTURE;
    const label = (x, text, anchor) => svgEl("text", { x, y: this.bottom, fill: this.dim, "font-size": 12, "text-anchor": anchor, text });
    const strip = Array.from({ length: 2 * STEPS + 1 }, (_, n) => svgEl("rect", {
      x: margin + 60 + n * 6, y: this.bottom - 11, width: 6, height: 14, "shape-rendering": "crispEdges",
      fill: this.colour(n / STEPS - 1).background }));
    const end = margin + 60 + 6 * (2 * STEPS + 1);
    this.boxes.push(...strip);
    this.texts.push(label(margin + 52, "opposes", "end"), label(end + 8, `supports \u00b7 colours are shares ${words}`, "start"));
  }

  drawing(title) {
    const height = Math.ceil(this.bottom + PICTURE.margin);
    const size = { width: PICTURE.width, height, viewBox: `0 0 ${PICTURE.width} ${height}` };
    return svgEl("svg", { ...size, "font-family": PICTURE.font, role: "img" }, svgEl("title", { text: title }),
      svgEl("rect", { width: PICTURE.width, height, fill: this.colour(0).background }), this.boxes, this.texts);
  }
}

function fontFor(piece, size) {
  return `${piece.special ? "italic " : ""}${piece.bold ? "600 " : ""}${piece.small ? size - 4 : size}px ${PICTURE.font}`;
}

// Pieces in groups between which a line may break: before spaces and roles, and after a newline's symbol.
function unbreakableGroups(pieces) {
  const groups = [];
  pieces.forEach((piece, n) => {
    const fresh = n === 0 || piece.text.startsWith(" ") || piece.starts || pieces[n - 1].ends || pieces[n - 1].role;
    if (fresh) groups.push([piece]);
    else groups.at(-1).push(piece);
  });
  return groups;
}

// Mirrors each run of neighbours that are written from right to left.
function mirrorRightToLeft(placed) {
  for (let first = 0, last = 0; first < placed.length; first = last = last + 1) {
    if (!RIGHT_TO_LEFT.test(placed[first].shown)) continue;
    while (last + 1 < placed.length && RIGHT_TO_LEFT.test(placed[last + 1].shown)) last++;
    const ends = placed[first].x + placed[last].x + placed[last].wide;
    for (const each of placed.slice(first, last + 1)) each.x = ends - each.x - each.wide;
  }
}

// The coloured boxes of a line. Neighbours of one unit share a box.
function unitBoxes(placed) {
  const boxes = [];
  for (const { piece, x, wide } of placed.filter(({ piece: { share }, shown }) => share && shown)) {
    const last = boxes.at(-1);
    if (!last || last.column !== piece.column) boxes.push({ left: x, right: x + wide, share: piece.share, column: piece.column });
    else [last.left, last.right] = [Math.min(last.left, x), Math.max(last.right, x + wide)];
  }
  return boxes;
}
