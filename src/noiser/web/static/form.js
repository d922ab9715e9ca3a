// The form below the prompt: what to explain, in which quantity, and by which methods with which options.

// A field that has to be filled in differently: a sentence, and the field (or null).
class FormProblem extends Error {
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

const targetForm = (() => {
  const QUANTITY_NAMES = { prob: "probability", log_prob: "log-probability", mean_prob: "mean probability of its tokens", log_odds: "log-odds",
    hellinger: "whole distribution (Hellinger distance)", jsd: "whole distribution (Jensen\u2013Shannon divergence)" };
  const part = (name) => document.getElementById(`app-${name}`);
  const kind = () => document.querySelector('input[name="what"]:checked').value;
  let spaceChosen = false;

  function start() {
    part("what").addEventListener("input", show);
    part("advanced").addEventListener("input", show);
    part("space").addEventListener("change", () => (spaceChosen = true));
    show();
  }

  function limit(maxGenerate) {
    part("generate").max = maxGenerate;
  }

  // Shows the fields of the chosen kind. The others keep their text and are not sent.
  function show() {
    for (const field of part("what").querySelectorAll("[data-for]")) {
      field.hidden = !field.dataset.for.split(" ").includes(kind());
      field.querySelector("input").disabled = field.hidden;
    }
    const whole = kind() === "generate" || kind() === "continuation";
    part("span").disabled = !whole;
    part("span-hint").textContent = whole ? "" : "A part as a whole: only with the model\u2019s answer or a text of yours.";
    offerQuantities();
    part("what-hint").textContent = hint();
  }

  // A word after a text begins with a space, a word in a chat does not. The reader's own choice stays.
  function setSpace(spaceNext) {
    if (!spaceChosen) part("space").checked = spaceNext;
    show();
  }

  function hint() {
    const quoted = (text) => `\u201c${visible(spaced(text)).replace(/^ /, "\u00b7")}\u201d`;
    const foil = part("foil").value;
    if (kind() === "generate") return "The model writes this many tokens; each is explained by all tokens before it.";
    if (kind() === "continuation") return "Each token of the text is explained by all tokens before it.";
    if (kind() === "target" && !part("target").value) return "Any word, whether the model would say it or not.";
    const answer = kind() === "target" ? quoted(part("target").value) : "the model\u2019s own choice";
    return `Explains ${answer}${foil ? ` rather than ${quoted(foil)}` : ""}.`;
  }

  function spaced(text) {
    return text && part("space").checked && !/^\s/.test(text) ? ` ${text}` : text;
  }

  function quantities() {
    if ((kind() === "next" || kind() === "target") && part("foil").value) return ["prob", "log_odds"];
    if (kind() === "next" || kind() === "target") return ["prob", "log_prob", "mean_prob", "hellinger", "jsd"];
    return spanned() ? ["log_prob", "mean_prob", "prob"] : ["prob", "log_prob", "hellinger", "jsd"];
  }

  const spanned = () => !part("span").disabled && ["explain", "from", "to"].some((name) => part(name).value !== "");

  function offerQuantities() {
    const select = part("quantity");
    const names = quantities();
    if (names.join() === select.dataset.names) return;
    const before = select.value;
    select.dataset.names = names.join();
    select.replaceChildren(...names.map((name, n) => h("option", { value: n ? name : "", text: QUANTITY_NAMES[name] })));
    select.value = names.indexOf(before) > 0 ? before : "";
  }

  // The target's part of a request. Raises FormProblem if a field is missing.
  function read() {
    const request = {};
    const required = (name, sentence) => {
      if (!part(name).value) throw new FormProblem(sentence, part(name));
      return spaced(part(name).value);
    };
    if (kind() === "target") request.target = required("target", "Write the word to explain.");
    if (!part("foil").disabled && part("foil").value) request.foil = spaced(part("foil").value);
    if (kind() === "generate") request.generate = Number(part("generate").value);
    if (kind() === "continuation") request.continuation = required("continuation", "Write the text that follows the prompt.");
    if (spanned()) Object.assign(request, readPart());
    if (part("quantity").value) request.quantity = part("quantity").value;
    request.curves = part("curves").checked;
    return request;
  }

  // The part of the continuation that is explained as a whole: its words, or its tokens.
  function readPart() {
    const [words, from, to] = [part("explain"), part("from"), part("to")];
    if (words.value && (from.value !== "" || to.value !== "")) throw new FormProblem("Give the words of the part or its tokens, not both.", words);
    if (words.value) return { explain: words.value };
    if (to.value === "") throw new FormProblem("A part has two ends: from which token, and up to which.", to);
    if (Number(to.value) <= Number(from.value)) throw new FormProblem("A part ends behind where it begins.", to);
    return { span: [Number(from.value), Number(to.value)] };
  }

  // Shows the target of a request, its words exactly as they are request.
  function fill(request) {
    const chosen = ["target", "generate", "continuation"].find((name) => request[name] !== undefined && request[name] !== null) || "next";
    document.querySelector(`input[name="what"][value="${chosen}"]`).checked = true;
    const given = ["target", "foil", "continuation"].filter((name) => typeof request[name] === "string");
    const all = given.every((name) => /^ \S/.test(request[name]));
    for (const name of ["target", "foil", "continuation"]) {
      part(name).value = given.includes(name) ? request[name].slice(all ? 1 : 0) : "";
    }
    spaceChosen = given.length > 0;
    if (spaceChosen) part("space").checked = all;
    if (chosen === "generate") part("generate").value = request.generate;
    [part("from").value, part("to").value] = request.span || ["", ""];
    part("explain").value = request.explain || "";
    part("curves").checked = request.curves !== false;
    show();
    part("quantity").value = request.quantity && quantities().indexOf(request.quantity) > 0 ? request.quantity : "";
  }

  return { start, limit, setSpace, read, fill };
})();

const methodsForm = (() => {
  const FAMILIES = ["perturbation", "gradient", "attention", "control"];
  const part = (name) => document.getElementById(`app-${name}`);
  const known = new Map(); // by name: {method, box, rows: [{element, fields}]}; a method has several rows to be compared with itself
  let maxMethods = 1;
  let copies = 0;

  // Builds the form from what the server offers: every method by family, the default ones chosen.
  function start(about) {
    maxMethods = about.limits.max_methods;
    const families = [...new Set([...FAMILIES, ...about.methods.map((method) => method.family)])];
    part("families").replaceChildren(...families.map((family) => familyGroup(family, about.methods)).filter(Boolean));
    part("families").addEventListener("change", show);
    fill({ methods: about.default_methods });
  }

  function familyGroup(family, methods) {
    const members = methods.filter((method) => method.family === family);
    if (!members.length) return null;
    return h("fieldset", { class: "app-family" }, h("legend", { text: family[0].toUpperCase() + family.slice(1) }), members.map(chip));
  }

  function chip(method) {
    const box = h("input", { type: "checkbox", value: method.name });
    known.set(method.name, { method, box, rows: [] });
    return h("label", { class: "app-chip", title: method.summary }, box, h("span", { text: readable(method.name) }));
  }

  const readable = (name) => name.replaceAll("_", " ");
  const chosen = () => [...known.values()].filter((entry) => entry.box.checked);
  const changedFields = (row) => row.fields.filter((field) => field.changed());

  function choose(names) {
    known.forEach((entry, name) => (entry.box.checked = names.includes(name)));
    show();
  }

  // The options of the chosen methods. They stay when a method is deselected and chosen again.
  function show() {
    const entries = chosen();
    entries.forEach((entry) => entry.rows.length || addRow(entry));
    part("options").replaceChildren(...entries.flatMap((entry) => entry.rows.map((row) => row.element)));
    showNames();
  }

  function showNames() {
    const names = chosen().flatMap((entry) => entry.rows.map((row) => {
      const count = changedFields(row).length;
      return readable(entry.method.name) + (count ? ` (${count} ${count === 1 ? "option" : "options"} changed)` : "");
    }));
    part("chosen").textContent = names.join(", ") || "none chosen";
  }

  function addRow(entry) {
    const { method } = entry;
    const first = !entry.rows.length;
    const prefix = first ? method.name : `${method.name}-${++copies}`;
    const row = { fields: method.options.map((option) => optionField(prefix, option)) };
    const button = (text, click) => h("button", { type: "button", text, on: { click } });
    const again = () => {
      addRow(entry);
      show();
      entry.rows.at(-1).fields[0].input.focus();
    };
    const buttons = [
      button("Reset to defaults", () => resetFields(row.fields)),
      first ? button("Compare with other options", again) : button("Remove this row", () => removeRow(entry, row)),
    ];
    const fields = h("div", { class: "app-fields", on: { input: showNames, change: showNames } }, row.fields.map((field) => field.element), buttons);
    row.element = h(
      "li",
      {},
      h("h3", { text: readable(method.name) }),
      first && h("p", { text: method.summary }),
      first && h("p", { class: "app-hint", text: `Cost: ${method.cost}. ${method.source}.` }),
      row.fields.length ? h("details", { open: !first }, h("summary", { text: "Options" }), fields) : null,
    );
    entry.rows.push(row);
  }

  function removeRow(entry, row) {
    entry.rows = entry.rows.filter((other) => other !== row);
    show();
    entry.rows[0].element.querySelector("summary").focus();
  }

  function resetFields(fields) {
    fields.forEach((field) => field.write(field.option.default));
    showNames();
  }

  // One option: its element, and how to read and write its value.
  function optionField(prefix, option) {
    const id = `app-${prefix}-${option.name}`.replace(/[^\w-]/g, "-");
    const kind = option.choices && option.choices.length ? choiceField : option.type === "bool" ? boolField : plainField;
    const field = kind(option, id);
    const help = h("span", { class: "app-hint", id: `${id}-help`, text: helpText(option) });
    field.input.setAttribute("aria-describedby", help.id);
    const element = h("div", { class: "app-field" }, h("label", { for: id, text: readable(option.name) }), field.input, field.extra, help);
    field.write(option.default);
    const changed = () => JSON.stringify(field.read()) !== JSON.stringify(option.default);
    return { ...field, element, option, changed };
  }

  function helpText(option) {
    const range = Number.isFinite(option.low) && Number.isFinite(option.high) ? `${option.low} to ${option.high}` : "";
    const standard = option.default === null ? "default: none" : `default: ${option.default}`;
    return [(option.help || "").replaceAll("`", ""), [range, standard].filter(Boolean).join("; ")].filter(Boolean).join(" ");
  }

  const isNumber = (option) => option.type === "int" || option.type === "float";

  // A choice of named values. If the option also takes a number, a box for it.
  function choiceField(option, id) {
    const values = [...option.choices, ...(option.optional && !option.choices.includes(null) ? [null] : [])];
    const free = isNumber(option);
    const input = h("select", { id }, values.map((value, n) => h("option", { value: n, text: value === null ? "none" : String(value) })));
    if (free) input.append(h("option", { value: "free", text: "a number" }));
    const extra = free ? plainField({ ...option, optional: false }, `${id}-number`).input : null;
    if (extra) extra.setAttribute("aria-label", `${readable(option.name)}, as a number`);
    const update = () => extra && (extra.hidden = extra.disabled = input.value !== "free");
    input.addEventListener("change", update);
    const read = () => (input.value === "free" ? Number(extra.value) : values[Number(input.value)]);
    const write = (value) => {
      const index = values.indexOf(value);
      input.value = index < 0 ? "free" : String(index);
      if (extra) extra.value = index < 0 ? value : (option.low ?? 1);
      update();
    };
    return { input, extra, read, write };
  }

  function boolField(_, id) {
    const input = h("input", { type: "checkbox", id });
    return { input, extra: null, read: () => input.checked, write: (value) => (input.checked = Boolean(value)) };
  }

  // A number or a text. An empty box means none, if the option allows it.
  function plainField(option, id) {
    const step = option.type === "int" ? 1 : "any";
    const kind = isNumber(option) ? { type: "number", min: option.low, max: option.high, step } : { type: "text" };
    const input = h("input", { ...kind, id, required: !option.optional, placeholder: option.optional ? "none" : null });
    const read = () => (input.value === "" && option.optional ? null : isNumber(option) ? Number(input.value) : input.value);
    return { input, extra: null, read, write: (value) => (input.value = value === null || value === undefined ? "" : value) };
  }

  // The methods' part of a request: names, and the changed options of each. If a method has several rows, labels carry the options.
  function read() {
    const rows = chosen().flatMap((entry) => entry.rows.map((row) => ({ name: entry.method.name, several: entry.rows.length > 1, row })));
    const firstBox = known.size ? known.values().next().value.box : null;
    if (!rows.length) throw new FormProblem("Choose at least one method.", firstBox);
    if (rows.length > maxMethods) throw new FormProblem(`At most ${maxMethods} methods at a time; ${rows.length} are chosen.`, firstBox);
    const methods = {};
    for (const { name, several, row } of rows) {
      const options = Object.fromEntries(changedFields(row).map((field) => [field.option.name, field.read()]));
      const pairs = Object.entries(options).map(([option, value]) => `${option}=${value === null ? "none" : value}`);
      const label = several && pairs.length ? `${name}:${pairs.join("+")}` : name;
      if (label in methods) {
        throw new FormProblem(`Two rows of ${readable(name)} have the same options: change an option of one.`, row.fields[0].input);
      }
      methods[label] = label === name ? options : {};
    }
    return { methods };
  }

  // Fills in the methods of a request. If it names none, the chosen ones stay. Raises FormProblem for a method that is not offered.
  function fill(request) {
    if (!request.methods) return;
    const entries = Array.isArray(request.methods) ? request.methods.map((label) => [label, {}]) : Object.entries(request.methods);
    const rows = entries.map(([label, options]) => ({ name: label.split(":")[0], options: { ...optionsIn(label), ...options } }));
    const unknown = rows.map(({ name }) => name).filter((name) => !known.has(name));
    if (unknown.length) throw new FormProblem(`This server has no method ${unknown.map(visible).join(", ")}.`, null);
    known.forEach((entry) => (entry.rows = entry.rows.slice(0, 1)));
    const filled = new Map();
    for (const { name, options } of rows) {
      const entry = known.get(name);
      const index = filled.get(name) || 0;
      filled.set(name, index + 1);
      while (entry.rows.length <= index) addRow(entry);
      entry.rows[index].fields.forEach(({ option, write }) => write(Object.hasOwn(options, option.name) ? fromText(option, options[option.name]) : option.default));
    }
    choose([...filled.keys()]);
  }

  // The options in a label, as text: `noiser:bound=none+samples=20`.
  function optionsIn(label) {
    const pairs = label.includes(":") ? label.slice(label.indexOf(":") + 1).split("+") : [];
    return Object.fromEntries(pairs.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]));
  }

  // A value of an option from its text; other values stay.
  function fromText(option, value) {
    if (typeof value !== "string") return value;
    if (value === "none" && option.optional && !(option.choices || []).includes("none")) return null;
    if (option.type === "bool") return value === "true";
    return isNumber(option) && !(option.choices || []).includes(value) ? Number(value) : value;
  }

  return { start, read, fill };
})();
