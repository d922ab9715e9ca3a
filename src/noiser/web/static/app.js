// The app: asks the server, shows the progress, and mounts the viewer.

const app = (() => {
  const part = (name) => document.getElementById(`app-${name}`);
  let about = null; // the server's last answer to /api/about
  let failure = null; // why there is no model
  let running = null; // the AbortController of the question under way
  let waiting = null; // a question that waits for the token
  let linked = null; // the question of a link, {request, fragment}, until it is asked
  let offeredToken = null; // a token from the address, used only if the server refuses the one that is kept
  let shown = null; // the entry of the visit that is on show
  let mounted = null; // its viewer
  let theme = "auto";
  const LINK_HINT = "The question of this link is in the form. Press Ask to ask it.";

  function start() {
    takeToken();
    targetForm.start();
    documentsBox.start();
    promptBox.start(() => targetForm.setSpace(promptBox.spaceNext()));
    visit.start(reopen);
    part("form").addEventListener("submit", onSubmit);
    part("form").addEventListener("invalid", (event) => {
      part("error").textContent = ""; // the browser shows its own message now
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
    part("token").addEventListener("submit", onToken);
    part("skip").addEventListener("click", skip);
    part("save").addEventListener("click", save);
    part("link").addEventListener("click", copyLink);
    addEventListener("hashchange", () => (takeToken() ? connect() : about && openLink()));
    promptBox.focus();
    connect();
  }

  // Takes a token out of the address at once. A token that works is never replaced: another page may have made this address.
  function takeToken() {
    const match = /[#&]token=([^&]*)/.exec(location.hash);
    if (!match) return false;
    try {
      offeredToken = decodeURIComponent(match[1]);
      if (!server.hasToken()) useOfferedToken();
    } catch (error) {
      if (!(error instanceof URIError)) throw error;
    }
    const rest = location.hash.slice(1).split("&").filter((piece) => !piece.startsWith("token="));
    setAddress(rest.length ? `#${rest.join("&")}` : "");
    return true;
  }

  function useOfferedToken() {
    server.keepToken(offeredToken);
    offeredToken = null;
  }

  function setAddress(fragment) {
    history.replaceState(null, "", location.pathname + fragment);
  }

  // Asks the server what it offers, again and again until its model is loaded.
  async function connect() {
    try {
      const now = await server.about();
      offeredToken = null;
      failure = now.status === "failed" ? now.message || "The model could not be loaded." : null;
      part("token").hidden = true;
      part("form").hidden = false;
      const first = !about;
      about = now;
      if (first) prepareForm();
      showModel(now);
      offerChats(now);
      if (now.status === "loading") setTimeout(connect, 1000);
      if (waiting) ask(waiting, "");
      waiting = null;
    } catch (error) {
      if (error.status === 401 && offeredToken !== null) {
        useOfferedToken();
        return connect();
      }
      if (error.status === 401) return askForToken();
      if (!(error instanceof ServerError)) throw error;
      setModelLine("failed", error.message);
      setTimeout(connect, 3000);
    }
  }

  function showModel(now) {
    const words = { loading: "The model is being loaded\u2026", failed: `No model: ${visible(failure)}` };
    setModelLine(now.status, words[now.status] || visible(now.model));
  }

  function setModelLine(status, words) {
    part("dot").dataset.status = status;
    if (part("model").textContent !== words) part("model").textContent = words;
  }

  // The parts of the form that depend on the server, once.
  function prepareForm() {
    methodsForm.start(about);
    targetForm.limit(about.limits.max_generate);
    openLink();
  }

  // Chats, and examples of chats, once the model is loaded and takes them.
  function offerChats(now) {
    const possible = now.chat || now.status !== "ready";
    promptBox.offerChat(now.chat, possible);
    const examples = now.examples.filter((example) => possible || !example.messages);
    if (part("examples").childElementCount === examples.length) return;
    part("examples").hidden = !examples.length;
    const button = (example) => h("button", { type: "button", text: example.title, on: { click: () => tryExample(example) } });
    part("examples").replaceChildren(...examples.map(button));
  }

  function tryExample(example) {
    fillForm(example);
    part("form").requestSubmit();
  }

  function fillForm(request) {
    linked = null;
    promptBox.fill(request);
    documentsBox.fill(request);
    targetForm.fill(request);
    methodsForm.fill(request);
  }

  function readForm() {
    return { ...promptBox.read(), ...documentsBox.read(), ...methodsForm.read(), ...targetForm.read() };
  }

  // A link fills the form. It asks nothing by itself: any page can open a link, and a question costs the server work.
  function openLink() {
    try {
      const request = links.read(location.hash);
      if (!request) return;
      stop();
      fillForm(request);
      linked = { key: JSON.stringify(readForm()), fragment: location.hash };
      part("words").textContent = LINK_HINT;
      progressLine.say(LINK_HINT, true);
      part("ask").focus();
    } catch (error) {
      showError(error);
    }
  }

  function askForToken() {
    setModelLine("failed", "waiting for the token");
    part("form").hidden = true;
    part("token").hidden = false;
    part("token-text").focus();
  }

  function onToken(event) {
    event.preventDefault();
    server.keepToken(part("token-text").value.trim());
    part("token-text").value = "";
    connect();
  }

  function onSubmit(event) {
    event.preventDefault();
    try {
      if (!about) throw new FormProblem("The server has not answered yet.", null);
      const request = readForm();
      const same = linked && linked.key === JSON.stringify(request);
      ask(request, same ? linked.fragment : "");
      linked = null;
    } catch (error) {
      showError(error);
    }
  }

  // Opens everything that hides a field.
  function reveal(field) {
    for (let box = field.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
  }

  function showError(error) {
    if (!(error instanceof FormProblem || error instanceof ServerError)) throw error;
    const hint = error.retry && error.status === 429 ? ` Ask again in about ${error.retry} s.` : "";
    part("error").textContent = error.message + hint;
    if (!error.field) return;
    reveal(error.field);
    error.field.focus();
  }

  // Asks one question, and gives up the one under way. `fragment` is that of a link, with the viewer's state, or empty.
  async function ask(request, fragment) {
    stop();
    const control = new AbortController();
    running = control;
    part("error").textContent = "";
    setBusy(true);
    progressLine.show(null, "Asking\u2026", true);
    try {
      const { view } = await answer(request, control.signal);
      if (running !== control) return;
      stop();
      show({ request, view, state: fragment ? fromFragment(fragment, view) : firstState(request, view), linked: Boolean(fragment) });
      visit.add(shown);
      scrollToResult();
    } catch (error) {
      if (running !== control || error.name === "AbortError") return;
      stop();
      if (error.status === 401) {
        waiting = request;
        askForToken();
      }
      showError(error);
    }
  }

  // The state in which a new result is shown: one that has documents shows them, and not the tokens.
  function firstState(request, view) {
    return request.documents && Object.hasOwn(view.units, "span") ? { unit: "span" } : {};
  }

  // The result. While the model is being loaded, the question waits for it.
  async function answer(request, signal) {
    for (;;) {
      if (failure) throw new ServerError(`No model: ${failure}`, 503);
      try {
        return await server.explain(request, signal, progressLine.onEvent);
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
    setBusy(false);
    progressLine.show(undefined, "", false);
  }

  function cancel() {
    stop();
    part("words").textContent = "Cancelled.";
    progressLine.say("Cancelled.", true);
    part("ask").focus();
  }

  function setBusy(busy) {
    part("cancel").hidden = !busy;
    part("result").setAttribute("aria-busy", String(busy));
    document.body.classList.toggle("app-busy", busy);
  }

  function show(entry) {
    if (mounted) mounted.destroy();
    shown = entry;
    part("view").replaceChildren();
    mounted = mount(part("view"), entry.view, { fragment: false, level: 3, state: { ...entry.state, theme }, onState });
    entry.state = mounted.store.get();
    if (entry.linked || location.hash) setAddress(entry.linked ? links.write(entry.request, toFragment(entry.state, entry.view)) : "");
    part("share").hidden = false;
    part("shared").textContent = "";
    document.title = `${entry.view.title} \u00b7 noiser`;
  }

  // The viewer's state belongs to the entry, the theme to the page. If a link opened the page, its address holds the state too.
  function onState(state, fragment) {
    shown.state = state;
    theme = document.body.dataset.theme = state.theme;
    if (shown.linked) setAddress(links.write(shown.request, fragment));
  }

  function reopen(entry) {
    stop();
    part("error").textContent = "";
    fillForm(entry.request);
    show(entry);
    visit.show(entry);
    progressLine.say(`Shown again: ${entry.view.title}`, true);
  }

  // Scrolls to a new result, and announces it.
  function scrollToResult() {
    progressLine.say(`Result: ${shown.view.title}`, true);
    const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (part("result").getBoundingClientRect().top < innerHeight * 0.6) return;
    part("result").scrollIntoView({ behavior: reduced ? "auto" : "smooth", block: "start" });
  }

  function skip(event) {
    event.preventDefault();
    part("result").focus();
    part("result").scrollIntoView();
  }

  async function save() {
    try {
      const view = { ...shown.view, state: toFragment(shown.state, shown.view) }; // the file opens as it was left
      const page = sharing.page(await server.template(), view);
      download(new Blob([page], { type: "text/html" }), fileName(shown.view, "html"));
      part("shared").textContent = "Saved.";
    } catch (error) {
      showError(error);
    }
  }

  async function copyLink() {
    const link = location.origin + location.pathname + links.write(shown.request, toFragment(shown.state, shown.view));
    part("shared").textContent = (await copyText(link, mounted.root)) ? "Copied." : "";
  }

  return { start };
})();

app.start();
