// The prompt: a text, or the messages of a chat. Each keeps what was typed while the other is shown.

const promptBox = (() => {
  const ROLES = ["system", "user", "assistant"];
  const part = (name) => document.getElementById(`app-${name}`);
  let changed = () => {};

  const kind = () => document.querySelector('input[name="kind"]:checked').value;

  // `onChange` is called whenever the prompt changes.
  function start(onChange) {
    changed = onChange;
    part("prompt").addEventListener("input", count);
    part("kind").addEventListener("change", show);
    part("add-message").addEventListener("click", () => {
      addMessage(nextRole(), "").querySelector("textarea").focus();
      changed();
    });
    addMessage("user", "");
    count();
  }

  // Chats are offered if the tokenizer has a chat template. A chat may stay open until that is known.
  function offerChat(offered, possible) {
    part("kind").hidden = !offered;
    if (!possible) choose("text");
  }

  function choose(which) {
    document.querySelector(`input[name="kind"][value="${which}"]`).checked = true;
    show();
  }

  function show() {
    part("text").hidden = kind() !== "text";
    part("chat").hidden = kind() !== "chat";
    changed();
  }

  // The length of the text, and a hint if it ends with a space.
  function count() {
    const text = part("prompt").value;
    const letters = text.length > 100000 ? text.length : Array.from(text).length;
    const end = /[ \t]$/.test(text) ? " \u00b7 ends with a space: most models expect the space at the beginning of the next word" : "";
    part("count").textContent = `${thousands(letters)} ${letters === 1 ? "character" : "characters"}${end}`;
    changed();
  }

  // Whether the next word usually begins with a space.
  function spaceNext() {
    return kind() === "text" && !/\s$/.test(part("prompt").value);
  }

  function nextRole() {
    const rows = readMessages();
    return rows.length && rows[rows.length - 1].role === "user" ? "assistant" : "user";
  }

  function addMessage(role, content) {
    const roles = ROLES.includes(role) ? ROLES : [...ROLES, role];
    const label = "Remove this message";
    const removeButton = { type: "button", class: "app-remove", "aria-label": label, text: "\u00d7", on: { click: () => remove(row) } };
    const row = h(
      "li",
      { class: "app-message" },
      h("select", { "aria-label": "Role" }, roles.map((name) => h("option", { value: name, text: visible(name) }))),
      h("textarea", { rows: 2, spellcheck: "false", "aria-label": "Message", on: { input: () => changed() } }),
      h("button", removeButton),
    );
    row.querySelector("select").value = role;
    row.querySelector("textarea").value = content;
    part("messages").append(row);
    return row;
  }

  function remove(row) {
    const neighbour = row.nextElementSibling || row.previousElementSibling;
    row.remove();
    (neighbour ? neighbour.querySelector("textarea") : part("add-message")).focus();
    changed();
  }

  function readMessages() {
    return [...part("messages").children].map((row) => ({
      role: row.querySelector("select").value,
      content: row.querySelector("textarea").value,
    }));
  }

  // The prompt's part of a request. Raises FormProblem if the prompt is empty.
  function read() {
    if (kind() === "text") {
      if (!part("prompt").value) throw new FormProblem("Write a prompt first.", part("prompt"));
      return { prompt: part("prompt").value };
    }
    const messages = readMessages();
    if (!messages.some((message) => message.content)) {
      throw new FormProblem("Write a message first.", part("messages").querySelector("textarea") || part("add-message"));
    }
    return { messages };
  }

  // Fills in the prompt of a request.
  function fill(request) {
    if (request.messages) {
      part("messages").replaceChildren();
      request.messages.forEach((message) => addMessage(message.role, message.content));
      choose("chat");
    } else {
      part("prompt").value = request.prompt;
      choose("text");
      count();
    }
  }

  return { start, offerChat, read, fill, spaceNext, focus: () => part("prompt").focus({ preventScroll: true }) };
})();
