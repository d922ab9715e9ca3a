// The app: asks, shows how far it is, and mounts the viewer.

const app = (() => {
  const part = (name) => document.getElementById(`app-${name}`);
  let about = null;
  let failed = null;
  let running = null;
  let waiting = null;
  let shown = null;
  let mounted = null;
  let theme = "auto";

  function start() {
    takeToken();
    targetForm.start();
    promptBox.start(() => targetForm.follow(promptBox.spaceNext()));
    visit.start(reopen);
    part("form").addEventListener("submit", submitted);
    part("form").addEventListener("invalid", (event) => {
      part("error").textContent = ""; // the browser says what is wrong now
      reveal(event.target);
    }, true);
    part("form").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      part("form").requestSubmit();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && running && !part("view").contains(event.target)) cancel();
    });
    part("cancel").addEventListener("click", cancel);
    part("token").addEventListener("submit", tokenGiven);
    part("skip").addEventListener("click", skip);
    part("save").addEventListener("click", save);
    part("link").addEventListener("click", copyLink);
    addEventListener("hashchange", () => (takeToken() ? meet() : about && openLink()));
    promptBox.focus();
    meet();
  }

  // A token in the address is kept, and taken out of the address at once.
  function takeToken() {
    const found = /[#&]token=([^&]*)/.exec(location.hash);
    if (!found) return false;
    try {
      server.keepToken(decodeURIComponent(found[1]));
    } catch (error) {
      if (!(error instanceof URIError)) throw error;
    }
    const rest = location.hash.slice(1).split("&").filter((piece) => !piece.startsWith("token="));
    address(rest.length ? `#${rest.join("&")}` : "");
    return true;
  }

  function address(fragment) {
    history.replaceState(null, "", location.pathname + fragment);
  }

  // Asks the server what it offers until its model is there.
  async function meet() {
    try {
      const now = await server.about();
      failed = now.status === "failed" ? now.message || "The model could not be loaded." : null;
      part("token").hidden = true;
      part("form").hidden = false;
      if (!about) ready(now);
      about = now;
      showModel(now);
      offer(now);
      if (now.status === "loading") setTimeout(meet, 1000);
      if (waiting) ask(waiting, "");
      waiting = null;
    } catch (error) {
      if (error.status === 401) return wantToken();
      if (!(error instanceof ServerError)) throw error;
      model("failed", error.message);
      setTimeout(meet, 3000);
    }
  }

  function showModel(now) {
    const words = { loading: "The model is being loaded\u2026", failed: `No model: ${visible(failed)}` };
    model(now.status, words[now.status] || visible(now.model));
  }

  function model(status, words) {
    part("dot").dataset.status = status;
    if (part("model").textContent !== words) part("model").textContent = words;
  }

  // The parts of the form that depend on the server, once.
  function ready(now) {
    methodsForm.start(now);
    targetForm.limit(now.limits.max_generate);
    openLink();
  }

  // Chats and examples of chats, once the model is there and is known to take them.
  function offer(now) {
    const chats = now.chat || now.status !== "ready";
    promptBox.offerChat(now.chat, chats);
    const examples = now.examples.filter((example) => chats || !example.messages);
    if (part("examples").childElementCount === examples.length) return;
    part("examples").hidden = !examples.length;
    const button = (example) => h("button", { type: "button", text: example.title, on: { click: () => tryExample(example) } });
    part("examples").replaceChildren(...examples.map(button));
  }

  function tryExample(example) {
    fill(example);
    part("form").requestSubmit();
  }

  function fill(request) {
    promptBox.fill(request);
    targetForm.fill(request);
    methodsForm.fill(request);
  }

  // A link asks its question as soon as the page is open.
  function openLink() {
    try {
      const request = links.read(location.hash);
      if (!request) return;
      fill(request);
      ask(request, location.hash);
    } catch (error) {
      complain(error);
    }
  }

  function wantToken() {
    model("failed", "waiting for the token");
    part("form").hidden = true;
    part("token").hidden = false;
    part("token-text").focus();
  }

  function tokenGiven(event) {
    event.preventDefault();
    server.keepToken(part("token-text").value.trim());
    part("token-text").value = "";
    meet();
  }

  function submitted(event) {
    event.preventDefault();
    try {
      if (!about) throw new FormProblem("The server has not answered yet.", null);
      ask({ ...promptBox.read(), ...methodsForm.read(), ...targetForm.read() }, "");
    } catch (error) {
      complain(error);
    }
  }

  // Opens what hides a field.
  function reveal(field) {
    for (let box = field.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
  }

  function complain(error) {
    if (!(error instanceof FormProblem || error instanceof ServerError)) throw error;
    const hint = error.retry && error.status === 429 ? ` Ask again in about ${error.retry} s.` : "";
    part("error").textContent = error.message + hint;
    if (!error.field) return;
    reveal(error.field);
    error.field.focus();
  }

  // Puts one question; a question that is still under way is given up. `fragment` holds a viewer's state, from a link.
  async function ask(request, fragment) {
    stop();
    const control = new AbortController();
    running = control;
    part("error").textContent = "";
    busy(true);
    progressLine.show(null, "Asking\u2026", true);
    try {
      const { view } = await answered(request, control.signal);
      if (running !== control) return;
      stop();
      show({ request, view, state: fragment ? fromFragment(fragment, view) : {}, linked: Boolean(fragment) });
      visit.add(shown);
      bringUp();
    } catch (error) {
      if (running !== control || error.name === "AbortError") return;
      stop();
      if (error.status === 401) {
        waiting = request;
        wantToken();
      }
      complain(error);
    }
  }

  // The result; while the model is being loaded the question waits for it.
  async function answered(request, signal) {
    for (;;) {
      if (failed) throw new ServerError(`No model: ${failed}`, 503);
      try {
        return await server.explain(request, signal, progressLine.heard);
      } catch (error) {
        if (error.status !== 503 || error.retry === null) throw error;
        progressLine.show(null, "The model is still being loaded; the question is asked as soon as it is there.", true);
        await pause(Math.min(error.retry, 5) * 1000, signal);
      }
    }
  }

  function pause(milliseconds, signal) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, milliseconds);
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        reject(signal.reason);
      });
    });
  }

  function stop() {
    if (!running) return;
    const control = running;
    running = null;
    control.abort();
    busy(false);
    progressLine.show(undefined, "", false);
  }

  function cancel() {
    stop();
    part("words").textContent = "Cancelled.";
    progressLine.say("Cancelled.", true);
    part("ask").focus();
  }

  function busy(now) {
    part("cancel").hidden = !now;
    part("result").setAttribute("aria-busy", String(now));
    document.body.classList.toggle("app-busy", now);
  }

  function show(entry) {
    if (mounted) mounted.destroy();
    shown = entry;
    part("view").replaceChildren();
    mounted = mount(part("view"), entry.view, { fragment: false, level: 3, state: { ...entry.state, theme }, onState: changed });
    entry.state = mounted.store.get();
    if (entry.linked || location.hash) address(entry.linked ? links.write(entry.request, toFragment(entry.state, entry.view)) : "");
    part("share").hidden = false;
    part("shared").textContent = "";
    document.title = `${entry.view.title} \u00b7 noiser`;
  }

  // The viewer's state belongs to the entry, its theme to the page; where a link opened the page, the state stands in the address as well.
  function changed(state, fragment) {
    shown.state = state;
    theme = document.body.dataset.theme = state.theme;
    if (shown.linked) address(links.write(shown.request, fragment));
  }

  function reopen(entry) {
    stop();
    part("error").textContent = "";
    fill(entry.request);
    show(entry);
    visit.show(entry);
    progressLine.say(`Shown again: ${entry.view.title}`, true);
  }

  // A new result is brought into sight, and said.
  function bringUp() {
    progressLine.say(`Result: ${shown.view.title}`, true);
    const quiet = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (part("result").getBoundingClientRect().top < innerHeight * 0.6) return;
    part("result").scrollIntoView({ behavior: quiet ? "auto" : "smooth", block: "start" });
  }

  function skip(event) {
    event.preventDefault();
    part("result").focus();
    part("result").scrollIntoView();
  }

  async function save() {
    try {
      const seen = { ...shown.view, state: toFragment(shown.state, shown.view) }; // the file opens as it was left
      const page = sharing.page(await server.template(), seen);
      download(new Blob([page], { type: "text/html" }), fileName(shown.view, "html"));
      part("shared").textContent = "Saved.";
    } catch (error) {
      complain(error);
    }
  }

  async function copyLink() {
    const link = location.origin + location.pathname + links.write(shown.request, toFragment(shown.state, shown.view));
    part("shared").textContent = (await copyText(link, mounted.root)) ? "Copied." : "";
  }

  return { start };
})();

app.start();
