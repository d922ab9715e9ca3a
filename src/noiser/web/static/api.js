// The server: its addresses, the token that some servers want, answers that come piece by piece, and how far one is.

// What went wrong, in words; `status` is the server's (0: none came), `retry` the seconds after which to ask again, or null.
class ServerError extends Error {
  constructor(message, status, retry = null) {
    super(message);
    this.status = status;
    this.retry = retry;
  }
}

const server = (() => {
  const GONE = "The server does not answer. Is noiser serve still running?";
  const PLACE = "noiser-token";
  let held = null;

  // Keeps a token for this tab; where storage is forbidden, for as long as the page stays open.
  function keepToken(token) {
    held = token;
    try {
      sessionStorage.setItem(PLACE, token);
    } catch {
      // The page asks for it again after a reload.
    }
  }

  function token() {
    if (held !== null) return held;
    try {
      return sessionStorage.getItem(PLACE);
    } catch {
      return null;
    }
  }

  // One request; a `body` makes it a POST. Raises ServerError, or the AbortError of `signal`.
  async function call(path, { body, signal } = {}) {
    const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
    const given = { headers, signal, cache: "no-store", credentials: "omit" };
    if (body !== undefined) {
      headers["Content-Type"] = "application/json";
      Object.assign(given, { method: "POST", body: JSON.stringify(body) });
    }
    const answer = await connected(fetch(path, given));
    if (!answer.ok) throw await refusal(answer);
    return answer;
  }

  // The promise, a lost connection said in words.
  async function connected(promise) {
    try {
      return await promise;
    } catch (error) {
      throw error.name === "AbortError" ? error : new ServerError(GONE, 0);
    }
  }

  async function refusal(answer) {
    const seconds = Number.parseInt(answer.headers.get("Retry-After") || "", 10);
    const said = await answer.json().catch(() => null);
    const message = said && said.error && said.error.message;
    const words = typeof message === "string" && message ? message : `the server answered with status ${answer.status}`;
    return new ServerError(sentence(words), answer.status, Number.isFinite(seconds) ? seconds : null);
  }

  // The server's words as a sentence; what begins with a name stays as it is.
  function sentence(words) {
    const text = /^[a-z]+[ ,]/.test(words) ? words[0].toUpperCase() + words.slice(1) : words;
    return /[.!?\u2026]$/.test(text) ? text : `${text}.`;
  }

  // Asks, and hands every event to `heard` as it comes; the result's event in the end.
  async function explain(request, signal, heard) {
    const answer = await call("/api/explain", { body: request, signal });
    for await (const event of eventsOf(answer.body)) {
      if (event.event === "result") return event;
      if (event.event === "error") throw new ServerError(sentence(String(event.message)), 200);
      heard(event);
    }
    throw new ServerError("The server stopped before it had an answer. Ask again.", 0);
  }

  // The JSON lines of a body. The pieces of a line are joined once, so that a large view costs no more than its length.
  async function* eventsOf(body) {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    let pieces = [];
    try {
      for (;;) {
        const { done, value } = await connected(reader.read());
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
    // What the server offers: model, limits, methods, examples.
    about: async () => (await call("/api/about")).json(),
    // The page of one file that a view is put into.
    template: async () => (await call("/template.html")).text(),
  };
})();

// How far a job is: the bar, and words for those who look and for those who listen.
const progressLine = (() => {
  const SAID_EVERY = 3000;
  const part = (name) => document.getElementById(`app-${name}`);
  let lastSaid = 0;

  // One event of a job under way.
  function heard(event) {
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

  // The bar (null: no end is known; undefined: none) and what is said beside it; a bar never goes back.
  function show(share, words, atOnce) {
    const bar = part("progress");
    bar.hidden = share === undefined;
    if (share === null || share === undefined) bar.removeAttribute("value");
    else bar.value = Math.max(bar.position < 0 ? 0 : bar.value, Math.min(share, 0.99));
    part("words").textContent = words;
    if (words) say(words, atOnce);
  }

  // For those who listen: not more often than they can follow.
  function say(words, atOnce) {
    if (!atOnce && performance.now() - lastSaid < SAID_EVERY) return;
    lastSaid = performance.now();
    part("said").textContent = words;
  }

  return { heard, show, say };
})();
