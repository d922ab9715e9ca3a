// Links to questions, the questions of this visit (in memory only), and results as files.

// A question as the fragment of a link, and back.
const links = (() => {
  const TEXTS = ["prompt", "target", "foil", "continuation", "explain", "quantity"];

  // `ask=` with the request as base64url of its JSON, then the viewer's state.
  function write(request, state) {
    const bytes = new TextEncoder().encode(JSON.stringify(request));
    const letters = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
    return `#ask=${btoa(letters).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "")}${state ? `&${state}` : ""}`;
  }

  // The request in a fragment, or null. Raises FormProblem for a damaged one.
  function read(fragment) {
    const match = /[#&]ask=([^&]*)/.exec(fragment);
    if (!match) return null;
    try {
      const letters = atob(match[1].replace(/-/g, "+").replace(/_/g, "/"));
      const text = new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(letters, (letter) => letter.charCodeAt(0)));
      return checked(JSON.parse(text));
    } catch (error) {
      throw error instanceof FormProblem ? error : problem();
    }
  }

  const problem = () => new FormProblem("The question in this link is damaged; perhaps a part of the link was lost.", null);

  // The request, if a form can hold it. The server checks the rest.
  function checked(value) {
    const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
    const isMessage = (value) => isObject(value) && typeof value.role === "string" && typeof value.content === "string";
    const isDocument = (value) => isObject(value) && typeof value.title === "string" && typeof value.text === "string";
    const isWhole = (value) => Number.isSafeInteger(value) && value >= 0;
    const fits = {
      messages: (value) => Array.isArray(value) && value.every(isMessage),
      documents: (value) => Array.isArray(value) && value.every(isDocument),
      methods: (value) => isObject(value) && Object.values(value).every(isObject),
      generate: isWhole,
      span: (value) => Array.isArray(value) && value.length === 2 && value.every(isWhole),
      curves: (value) => typeof value === "boolean",
    };
    TEXTS.forEach((name) => (fits[name] = (value) => typeof value === "string"));
    if (!isObject(value) || (value.prompt === undefined) === (value.messages === undefined)) throw problem();
    const request = {};
    for (const [name, content] of Object.entries(value)) {
      if (!Object.hasOwn(fits, name) || !fits[name](content)) throw problem();
      request[name] = content;
    }
    return request;
  }

  return { write, read };
})();

// The questions of this visit, the newest first.
const visit = (() => {
  const MAX_ENTRIES = 30;
  const part = (name) => document.getElementById(`app-${name}`);
  let entries = [];
  let current = null;
  let open = () => {};

  // `onOpen` is called with the entry that a reader opens again.
  function start(onOpen) {
    open = onOpen;
  }

  // Keeps a result, {request, view, state}. An equal request replaces the older one.
  function add(entry) {
    const same = JSON.stringify(entry.request);
    entries = [entry, ...entries.filter((other) => JSON.stringify(other.request) !== same)].slice(0, MAX_ENTRIES);
    show(entry);
  }

  // Marks the entry that is shown.
  function show(entry) {
    current = entry;
    part("visit").hidden = !entries.length;
    part("history").replaceChildren(...entries.map(item));
  }

  function item(entry) {
    const methods = entry.view.rows.map((row) => visible(row.label || row.method).replaceAll("_", " ")).join(", ");
    const here = entry === current ? "true" : null;
    const again = h(
      "button",
      { type: "button", class: "app-again", "aria-current": here, title: entry.view.title, on: { click: () => open(entry) } },
      h("span", { class: "app-asked" }, titleParts(entry.view.title)),
      h("span", { class: "app-hint", text: methods }),
    );
    const label = `Forget ${entry.view.title}`;
    const removeButton = { type: "button", class: "app-remove", "aria-label": label, text: "\u00d7", on: { click: () => remove(entry) } };
    return h("li", {}, again, h("button", removeButton));
  }

  // The prompt and the answer of a title. CSS cuts a long prompt, so that the answer stays visible.
  function titleParts(title) {
    const at = title.lastIndexOf(" \u2192 ");
    return at < 0 ? h("span", { text: title }) : [h("span", { text: title.slice(0, at) }), h("b", { text: title.slice(at) })];
  }

  function remove(entry) {
    const at = entries.indexOf(entry);
    entries = entries.filter((other) => other !== entry);
    show(current);
    const left = part("history").querySelectorAll(".app-again");
    (left[Math.min(at, left.length - 1)] || document.getElementById("app-prompt")).focus();
  }

  return { start, add, show };
})();

// A view as a file: the viewer's page with the view in it.
const sharing = (() => {
  const EMPTY = '<script type="application/json" class="noiser-data">[]<\/script>';

  // JSON inside a script element. Nothing in it can end the element or start a comment.
  function inScript(value) {
    return JSON.stringify(value).replace(/[<>&\u2028\u2029]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  }

  // The page of one view.
  function page(template, view) {
    if (!template.includes(EMPTY)) throw new ServerError("The server\u2019s page has no place for a result.", 0);
    const title = view.title.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
    const filled = EMPTY.replace("[]", () => inScript([view]));
    return template.replace(EMPTY, () => filled).replace(/<title>[^<]*<\/title>/, () => `<title>${title}</title>`);
  }

  return { page };
})();
