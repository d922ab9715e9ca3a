// The server: its addresses, its token, answers that arrive as a stream of lines, and the progress line.

// An error of the server, or no answer. `status` is the HTTP status (0: no answer), `retry` the seconds to wait, or null.
class ServerError extends Error {
  constructor(message, status, retry = null) {
    super(message);
    this.status = status;
    this.retry = retry;
  }
}

const server = (() => {
  const NO_ANSWER = "The server does not answer. Is noiser serve still running?";
  const STORAGE_KEY = "noiser-token";
  let kept = null;

  // Keeps a token for this tab, or until the page is closed if the browser forbids storage.
  function keepToken(token) {
    kept = token;
    try {
      sessionStorage.setItem(STORAGE_KEY, token);
    } catch {
      // The page asks for it again after a reload.
    }
  }

  function token() {
    if (kept !== null) return kept;
    try {
      return sessionStorage.getItem(STORAGE_KEY);
    } catch {
      return null;
    }
  }

  // One request. With a `body` it is a POST. Raises ServerError, or the AbortError of `signal`.
  async function call(path, { body, signal } = {}) {
    const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
    const options = { headers, signal, cache: "no-store", credentials: "omit" };
    if (body !== undefined) {
      headers["Content-Type"] = "application/json";
      Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    }
    const response = await describeFailure(fetch(path, options));
    if (!response.ok) throw await errorOf(response);
    return response;
  }

  // The promise, with a sentence for a lost connection.
  async function describeFailure(promise) {
    try {
      return await promise;
    } catch (error) {
      throw error.name === "AbortError" ? error : new ServerError(NO_ANSWER, 0);
    }
  }

  async function errorOf(response) {
    const seconds = Number.parseInt(response.headers.get("Retry-After") || "", 10);
    const body = await response.json().catch(() => null);
    const message = body && body.error && body.error.message;
    const words = typeof message === "string" && message ? message : `the server answered with status ${response.status}`;
    return new ServerError(sentence(words), response.status, Number.isFinite(seconds) ? seconds : null);
  }

  // The server's message as a sentence. A message that begins with a name keeps its first letter.
  function sentence(words) {
    const text = /^[a-z]+[ ,]/.test(words) ? words[0].toUpperCase() + words.slice(1) : words;
    return /[.!?\u2026]$/.test(text) ? text : `${text}.`;
  }

  // Asks, calls `onEvent` with every event as it arrives, and returns the event of the result.
  async function explain(request, signal, onEvent) {
    const response = await call("/api/explain", { body: request, signal });
    for await (const event of eventsOf(response.body)) {
      if (event.event === "result") return event;
      if (event.event === "error") throw new ServerError(sentence(String(event.message)), 200);
      onEvent(event);
    }
    throw new ServerError("The server stopped before it had an answer. Ask again.", 0);
  }

  // The JSON lines of a body. The pieces of a line are joined once, so a large view is read in linear time.
  async function* eventsOf(body) {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    let pieces = [];
    try {
      for (;;) {
        const { done, value } = await describeFailure(reader.read());
        const lines = done ? ["", ""] : decoder.decode(value, { stream: true }).split("\n");
        pieces.push(lines[0]);
        for (const next of lines.slice(1)) {
          const line = pieces.join("");
          if (line.trim()) yield JSON.parse(line);
          pieces = [next];
        }
        if (done) return;
      }
    } finally {
      reader.cancel().catch(() => {});
    }
  }

  return {
    explain,
    keepToken,
    hasToken: () => token() !== null,
    // What the server offers: model, limits, methods, examples.
    about: async () => (await call("/api/about")).json(),
    // The page that `sharing.page` puts a view into.
    template: async () => (await call("/template.html")).text(),
  };
})();

// The progress of a job: a bar, a line of text, and announcements for screen readers.
const progressLine = (() => {
  const ANNOUNCE_INTERVAL = 3000;
  const part = (name) => document.getElementById(`app-${name}`);
  let lastAnnounced = 0;

  // One event of a running job.
  function onEvent(event) {
    if (event.event === "queued") {
      const ahead = event.ahead === 1 ? "1 question is" : `${event.ahead} questions are`;
      return show(null, event.ahead ? `Waiting: ${ahead} ahead.` : "It is next.", true);
    }
    if (event.event !== "progress") return;
    const left = event.seconds_left;
    const known = Number.isFinite(left);
    const byMethods = event.methods > 1 ? event.methods_done / event.methods : null;
    const share = known ? event.seconds / Math.max(event.seconds + left, 1e-9) : byMethods;
    const place = event.methods > 1 && event.methods_done < event.methods ? `, ${event.methods_done + 1} of ${event.methods} methods` : "";
    const rest = known ? `about ${duration(Math.max(left, 1))} left` : `${duration(event.seconds)} so far`;
    const words = [visible(event.method).replaceAll("_", " ") + place, `${thousands(event.forward_tokens)} token-forwards`, rest];
    show(share, words.join(" \u00b7 "), false);
  }

  function duration(seconds) {
    return seconds < 100 ? `${Math.ceil(seconds)} s` : `${thousands(Math.ceil(seconds / 60))} min`;
  }

  // The bar and the text beside it. `share` is null if no end is known, and undefined if there is no bar. A bar never goes back.
  function show(share, words, atOnce) {
    const bar = part("progress");
    bar.hidden = share === undefined;
    if (share === null || share === undefined) bar.removeAttribute("value");
    else bar.value = Math.max(bar.position < 0 ? 0 : bar.value, Math.min(share, 0.99));
    part("words").textContent = words;
    if (words) say(words, atOnce);
  }

  // Announces text to screen readers, not more often than they can follow.
  function say(words, atOnce) {
    if (!atOnce && performance.now() - lastAnnounced < ANNOUNCE_INTERVAL) return;
    lastAnnounced = performance.now();
    part("said").textContent = words;
  }

  return { onEvent, show, say };
})();
