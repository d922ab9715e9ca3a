// What is asked about the prompt: what to explain, in which quantity, by which methods with which options.

// What has to be filled in differently, in words, and where.
class FormProblem extends Error {
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

const targetForm = (() => {
  const WORDS = { prob: "probability", log_prob: "log-probability", mean_prob: "mean probability of its tokens", log_odds: "log-odds" };
  const part = (name) => document.getElementById(`app-${name}`);
  const what = () => document.querySelector('input[name="what"]:checked').value;
  let spaceChosen = false;

  function start() {
    part("what").addEventListener("input", show);
    part("advanced").addEventListener("input", show);
    part("space").addEventListener("change", () => (spaceChosen = true));
    show();
  }

  function limit(most) {
    part("generate").max = most;
  }

  // Only the fields of what is chosen; the others keep their text and are not asked.
  function show() {
    for (const field of part("what").querySelectorAll("[data-for]")) {
      field.hidden = !field.dataset.for.split(" ").includes(what());
      field.querySelector("input").disabled = field.hidden;
    }
    const whole = what() === "generate" || what() === "continuation";
    part("span").disabled = !whole;
    part("span-hint").textContent = whole ? "" : "A part as a whole: only with the model\u2019s answer or a text of yours.";
    offerQuantities();
    part("what-hint").textContent = hint();
  }

  // A leading space is the rule behind a text, and not in a chat; the reader's own choice stays.
  function follow(spaceNext) {
    if (!spaceChosen) part("space").checked = spaceNext;
    show();
  }

  function hint() {
    const named = (text) => `\u201c${visible(spaced(text)).replace(/^ /, "\u00b7")}\u201d`;
    const foil = part("foil").value;
    if (what() === "generate") return "The model writes so many tokens of its own; each is explained by all before it.";
    if (what() === "continuation") return "Each token of the text is explained by all before it.";
    if (what() === "target" && !part("target").value) return "Any word, whether the model would say it or not.";
    const asked = what() === "target" ? named(part("target").value) : "the model\u2019s own choice";
    return `Explains ${asked}${foil ? ` rather than ${named(foil)}` : ""}.`;
  }

  function spaced(text) {
    return text && part("space").checked && !/^\s/.test(text) ? ` ${text}` : text;
  }

  function quantities() {
    if ((what() === "next" || what() === "target") && part("foil").value) return ["prob", "log_odds"];
    if (what() === "next" || what() === "target") return ["prob", "log_prob", "mean_prob"];
    return spanned() ? ["log_prob", "mean_prob", "prob"] : ["prob", "log_prob"];
  }

  const spanned = () => !part("span").disabled && (part("from").value !== "" || part("to").value !== "");

  function offerQuantities() {
    const select = part("quantity");
    const names = quantities();
    if (names.join() === select.dataset.names) return;
    const before = select.value;
    select.dataset.names = names.join();
    select.replaceChildren(...names.map((name, n) => h("option", { value: n ? name : "", text: WORDS[name] })));
    select.value = names.indexOf(before) > 0 ? before : "";
  }

  // The target's part of a request. Raises FormProblem for what is missing.
  function read() {
    const asked = {};
    const wanted = (name, words) => {
      if (!part(name).value) throw new FormProblem(words, part(name));
      return spaced(part(name).value);
    };
    if (what() === "target") asked.target = wanted("target", "Write the word to explain.");
    if (!part("foil").disabled && part("foil").value) asked.foil = spaced(part("foil").value);
    if (what() === "generate") asked.generate = Number(part("generate").value);
    if (what() === "continuation") asked.continuation = wanted("continuation", "Write the text that follows the prompt.");
    if (spanned()) asked.span = readSpan();
    if (part("quantity").value) asked.quantity = part("quantity").value;
    asked.curves = part("curves").checked;
    return asked;
  }

  function readSpan() {
    const [from, to] = [part("from"), part("to")];
    if (to.value === "") throw new FormProblem("A part has two ends: from which token, and up to which.", to);
    if (Number(to.value) <= Number(from.value)) throw new FormProblem("A part ends behind where it begins.", to);
    return [Number(from.value), Number(to.value)];
  }

  // Shows the target of a request, its words exactly as they are asked.
  function fill(request) {
    const kind = ["target", "generate", "continuation"].find((name) => request[name] !== undefined && request[name] !== null) || "next";
    document.querySelector(`input[name="what"][value="${kind}"]`).checked = true;
    const words = ["target", "foil", "continuation"].filter((name) => typeof request[name] === "string");
    const all = words.every((name) => /^ \S/.test(request[name]));
    for (const name of ["target", "foil", "continuation"]) {
      part(name).value = words.includes(name) ? request[name].slice(all ? 1 : 0) : "";
    }
    spaceChosen = words.length > 0;
    if (spaceChosen) part("space").checked = all;
    if (kind === "generate") part("generate").value = request.generate;
    [part("from").value, part("to").value] = request.span || ["", ""];
    part("curves").checked = request.curves !== false;
    show();
    part("quantity").value = request.quantity && quantities().indexOf(request.quantity) > 0 ? request.quantity : "";
  }

  return { start, limit, follow, read, fill };
})();

const methodsForm = (() => {
  const FAMILIES = ["perturbation", "gradient", "attention", "control"];
  const part = (name) => document.getElementById(`app-${name}`);
  const known = new Map();
  let most = 1;

  // Made from what the server offers: every method by family, the usual ones chosen.
  function start(about) {
    most = about.limits.max_methods;
    const families = [...new Set([...FAMILIES, ...about.methods.map((method) => method.family)])];
    part("families").replaceChildren(...families.map((family) => familyGroup(family, about.methods)).filter(Boolean));
    part("families").addEventListener("change", show);
    choose(about.default_methods);
  }

  function familyGroup(family, methods) {
    const own = methods.filter((method) => method.family === family);
    if (!own.length) return null;
    return h("fieldset", { class: "app-family" }, h("legend", { text: family[0].toUpperCase() + family.slice(1) }), own.map(chip));
  }

  function chip(method) {
    const box = h("input", { type: "checkbox", value: method.name });
    known.set(method.name, { method, box, block: null, fields: [] });
    return h("label", { class: "app-chip", title: method.summary }, box, h("span", { text: spoken(method.name) }));
  }

  const spoken = (name) => name.replaceAll("_", " ");
  const chosen = () => [...known.values()].filter((each) => each.box.checked);

  function choose(names) {
    known.forEach((each, name) => (each.box.checked = names.includes(name)));
    show();
  }

  // The chosen methods in words, and a form of options for each; what was set stays when a method is left and chosen again.
  function show() {
    const now = chosen();
    now.forEach((each) => (each.block = each.block || block(each)));
    part("options").replaceChildren(...now.map((each) => each.block));
    name();
  }

  function name() {
    const words = chosen().map(({ method, fields }) => {
      const count = fields.filter((field) => field.changed()).length;
      return spoken(method.name) + (count ? ` (${count} ${count === 1 ? "option" : "options"} changed)` : "");
    });
    part("chosen").textContent = words.join(", ") || "none chosen";
  }

  function block(each) {
    const { method } = each;
    each.fields = method.options.map((option) => optionField(method.name, option));
    const reset = h("button", { type: "button", text: "Reset to defaults", on: { click: () => resetFields(each.fields) } });
    const fields = h("div", { class: "app-fields", on: { input: name, change: name } }, each.fields.map((field) => field.element), reset);
    return h(
      "li",
      {},
      h("h3", { text: spoken(method.name) }),
      h("p", { text: method.summary }),
      h("p", { class: "app-hint", text: `Cost: ${method.cost}. ${method.source}.` }),
      each.fields.length ? h("details", {}, h("summary", { text: "Options" }), fields) : null,
    );
  }

  function resetFields(fields) {
    fields.forEach((field) => field.write(field.option.default));
    name();
  }

  // One option: its element, and how to read and write its value.
  function optionField(method, option) {
    const id = `app-${method}-${option.name}`.replace(/[^\w-]/g, "-");
    const kind = option.choices && option.choices.length ? choiceField : option.type === "bool" ? boolField : plainField;
    const field = kind(option, id);
    const help = h("span", { class: "app-hint", id: `${id}-help`, text: described(option) });
    field.input.setAttribute("aria-describedby", help.id);
    const element = h("div", { class: "app-field" }, h("label", { for: id, text: spoken(option.name) }), field.input, field.beside, help);
    field.write(option.default);
    const changed = () => JSON.stringify(field.read()) !== JSON.stringify(option.default);
    return { ...field, element, option, changed };
  }

  function described(option) {
    const range = Number.isFinite(option.low) && Number.isFinite(option.high) ? `${option.low} to ${option.high}` : "";
    const usual = option.default === null ? "default: none" : `default: ${option.default}`;
    return [(option.help || "").replaceAll("`", ""), [range, usual].filter(Boolean).join("; ")].filter(Boolean).join(" ");
  }

  const isNumber = (option) => option.type === "int" || option.type === "float";

  // A choice of named values; where a number will do as well, a box for it beside.
  function choiceField(option, id) {
    const values = [...option.choices, ...(option.optional && !option.choices.includes(null) ? [null] : [])];
    const free = isNumber(option);
    const input = h("select", { id }, values.map((value, n) => h("option", { value: n, text: value === null ? "none" : String(value) })));
    if (free) input.append(h("option", { value: "free", text: "a number" }));
    const beside = free ? plainField({ ...option, optional: false }, `${id}-number`).input : null;
    if (beside) beside.setAttribute("aria-label", `${spoken(option.name)}, as a number`);
    const show = () => beside && (beside.hidden = beside.disabled = input.value !== "free");
    input.addEventListener("change", show);
    const read = () => (input.value === "free" ? Number(beside.value) : values[Number(input.value)]);
    const write = (value) => {
      const at = values.indexOf(value);
      input.value = at < 0 ? "free" : String(at);
      if (beside) beside.value = at < 0 ? value : (option.low ?? 1);
      show();
    };
    return { input, beside, read, write };
  }

  function boolField(_, id) {
    const input = h("input", { type: "checkbox", id });
    return { input, beside: null, read: () => input.checked, write: (value) => (input.checked = Boolean(value)) };
  }

  // A number or a text; empty is none, where none is allowed.
  function plainField(option, id) {
    const step = option.type === "int" ? 1 : "any";
    const kind = isNumber(option) ? { type: "number", min: option.low, max: option.high, step } : { type: "text" };
    const input = h("input", { ...kind, id, required: !option.optional, placeholder: option.optional ? "none" : null });
    const read = () => (input.value === "" && option.optional ? null : isNumber(option) ? Number(input.value) : input.value);
    return { input, beside: null, read, write: (value) => (input.value = value === null || value === undefined ? "" : value) };
  }

  // The methods' part of a request: names, and of each one's options those that were changed.
  function read() {
    const now = chosen();
    const first = known.size ? known.values().next().value.box : null;
    if (!now.length) throw new FormProblem("Choose at least one method.", first);
    if (now.length > most) throw new FormProblem(`At most ${most} methods at a time; ${now.length} are chosen.`, first);
    const changed = (fields) => fields.filter((field) => field.changed());
    const set = ({ fields }) => Object.fromEntries(changed(fields).map((field) => [field.option.name, field.read()]));
    return { methods: Object.fromEntries(now.map((each) => [each.method.name, set(each)])) };
  }

  // Shows the methods of a request; none named: those that are chosen stay. Raises FormProblem for one that is not offered.
  function fill(request) {
    if (!request.methods) return;
    const given = Array.isArray(request.methods) ? Object.fromEntries(request.methods.map((name) => [name, {}])) : request.methods;
    const unknown = Object.keys(given).filter((name) => !known.has(name));
    if (unknown.length) throw new FormProblem(`This server has no method ${unknown.map(visible).join(", ")}.`, null);
    choose(Object.keys(given));
    for (const { method, fields } of chosen()) {
      const values = given[method.name];
      fields.forEach(({ option, write }) => write(Object.hasOwn(values, option.name) ? values[option.name] : option.default));
    }
    name();
  }

  return { start, read, fill };
})();
