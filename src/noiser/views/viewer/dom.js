// Elements, and text made safe to show.

const SVG = "http://www.w3.org/2000/svg";
const NAMED = { "\n": "\u23ce", "\t": "\u21e5", "\r": "\u240d" };
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;

// An element: attributes as a plain object (`class`, `text`, `on` = {event: handler}; false, null and undefined are left out),
// then children.
function h(tag, attributes, ...children) {
  return fillElement(document.createElement(tag), attributes, children);
}

// The same for SVG.
function svgEl(tag, attributes, ...children) {
  return fillElement(document.createElementNS(SVG, tag), attributes, children);
}

function fillElement(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "text") element.textContent = value;
    else if (name === "on") Object.entries(value).forEach(([event, handler]) => element.addEventListener(event, handler));
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Newline, tab and return as symbols; every other control, format or unassigned character as its escape (as in views/escape.py).
function visible(text) {
  return String(text).replace(INVISIBLE, (c) => NAMED[c] || escapeOf(c.codePointAt(0)));
}

function escapeOf(code) {
  const hex = (width) => code.toString(16).padStart(width, "0");
  return code < 0x100 ? `\\x${hex(2)}` : code < 0x10000 ? `\\u${hex(4)}` : `\\U${hex(8)}`;
}

// A score with its sign and four decimals, or with an exponent if four decimals would show zero (as in views/labels.py).
function number(score) {
  if (!Number.isFinite(score)) return "n/a";
  const size = Math.abs(score);
  const sign = score < 0 ? "-" : "+";
  if (size >= 5e-5 || size === 0) return sign + (size < 1e7 ? size.toFixed(4) : exponent(size, 4));
  return sign + exponent(size, 1);
}

// The same for the page, with a true minus sign. Copies keep the hyphen.
function reading(score) {
  return minus(number(score));
}

// A score and how far its 95 % interval reaches to each side; the score alone if it has none (as in views/labels.py).
function numberWithin(score, half) {
  return number(score) + (Number.isFinite(half) ? ` \u00b1 ${number(half).slice(1)}` : "");
}

function readingWithin(score, half) {
  return minus(numberWithin(score, half));
}

function minus(text) {
  return text.replace(/^-/, "\u2212");
}

// Text for quotation marks, without spaces at its ends. Text of nothing but spaces becomes dots.
function trimmedForQuotes(text) {
  return text.replace(/^ +| +$/g, "") || text.replace(/ /g, "\u00b7");
}

// With a two-digit exponent, as Python prints it.
function exponent(size, digits) {
  return size.toExponential(digits).replace(/e([+-])(\d)$/, "e$10$2");
}

// A probability in three decimals, a tiny one with an exponent.
function short(probability) {
  if (!Number.isFinite(probability)) return "n/a";
  return probability >= 0.001 || probability === 0 ? probability.toFixed(3) : exponent(probability, 1);
}

// 12345 as 12,345.
function thousands(count) {
  return String(Math.round(count)).replace(/\B(?=(\d{3})+$)/g, ",");
}

// 1 as 1st, 12 as 12th.
function ordinal(place) {
  const teens = place % 100 > 10 && place % 100 < 14;
  return place + (teens ? "th" : { 1: "st", 2: "nd", 3: "rd" }[place % 10] || "th");
}

function clip(text, most) {
  const letters = Array.from(text);
  return letters.length > most ? letters.slice(0, most - 1).join("") + "\u2026" : text;
}
