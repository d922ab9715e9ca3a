// The colours of scores: orange supports, blue opposes, zero is the colour of the page. Text on them has a contrast of at least 4.5.

const STEPS = 16;
const RAMPS = {
  light: { zero: "#ffffff", supports: ["#ffd0a3", "#f58a1f"], opposes: ["#bcd8fb", "#5b9ff0"], texts: ["#1c1e22", "#000000", "#ffffff"] },
  dark: { zero: "#16181d", supports: ["#74400f", "#f0912f"], opposes: ["#1f4c85", "#62a6f7"], texts: ["#e8eaee", "#000000", "#ffffff"] },
};

// {background, text} as "#rrggbb" for a share in [-1, 1]; shares outside are clipped.
function colour(share, dark) {
  const ramp = dark ? RAMPS.dark : RAMPS.light;
  const size = Number.isFinite(share) ? Math.min(1, Math.abs(share)) : 0;
  const [middle, end] = share < 0 ? ramp.opposes : ramp.supports;
  const background = size <= 0.5 ? blend(ramp.zero, middle, size * 2) : blend(middle, end, size * 2 - 1);
  // Black or white has a contrast of at least 4.58 on any colour, so one is always found.
  return { background, text: ramp.texts.find((text) => contrast(text, background) >= 4.5) };
}

// The share's step, from -STEPS to STEPS. Tokens are coloured by class, so a theme changes without touching them.
function step(share) {
  const found = Number.isFinite(share) ? Math.round(Math.max(-1, Math.min(1, share)) * STEPS) : 0;
  return found === 0 ? 0 : found;
}

function stepClass(share) {
  const at = step(share);
  return at === 0 ? "noiser-c0" : at > 0 ? `noiser-p${at}` : `noiser-n${-at}`;
}

// One style sheet with the steps of both themes, shared by all viewers of a page. The page's policy allows only a constructed one.
function colourSheet() {
  if (document.noiserColours) return;
  const rules = [];
  for (const dark of [false, true]) {
    for (let at = -STEPS; at <= STEPS; at++) {
      const { background, text } = colour(at / STEPS, dark);
      const rule = `.${stepClass(at / STEPS)}{background-color:${at === 0 ? "transparent" : background};color:${text}}`;
      if (!dark) rules.push(`.noiser ${rule}`);
      else
        rules.push(
          `@media screen{.noiser[data-theme="dark"] ${rule}}`,
          `@media screen and (prefers-color-scheme:dark){.noiser:not([data-theme="light"]) ${rule}}`,
        );
    }
  }
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(rules.join("\n"));
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  document.noiserColours = sheet;
}

function blend(from, to, share) {
  const [a, b] = [channels(from), channels(to)];
  return (
    "#" +
    a
      .map((value, i) =>
        Math.round(value + (b[i] - value) * share)
          .toString(16)
          .padStart(2, "0"),
      )
      .join("")
  );
}

function channels(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// WCAG 2's contrast ratio of two colours, from 1 to 21.
function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

function luminance(hex) {
  const [r, g, b] = channels(hex).map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
