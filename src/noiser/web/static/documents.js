// The documents that stand before a prompt, as plain text: a title, its text below, and a line of --- before the next one.

const documentsBox = (() => {
  const part = (name) => document.getElementById(`app-${name}`);
  const BETWEEN = /^[ \t]*-{3,}[ \t]*$/m;

  function start() {
    part("documents").addEventListener("input", count);
    count();
  }

  function blocks() {
    return part("documents").value.split(BETWEEN).map((block) => block.trim()).filter(Boolean);
  }

  function count() {
    const number = blocks().length;
    part("documents-chosen").textContent = number ? `${number} ${number === 1 ? "document" : "documents"}` : "none";
  }

  // The documents' part of a request; nothing if there are none. Raises FormProblem for a document without a text.
  function read() {
    const documents = blocks().map((block) => {
      const end = block.indexOf("\n");
      const [title, text] = end < 0 ? [block, ""] : [block.slice(0, end).trim(), block.slice(end + 1).trim()];
      if (!text) throw new FormProblem(`Write the text of the document \u201c${visible(title)}\u201d below its title.`, part("documents"));
      return { title, text };
    });
    return documents.length ? { documents } : {};
  }

  // Fills in the documents of a request.
  function fill(request) {
    const documents = request.documents || [];
    part("documents").value = documents.map(({ title, text }) => `${title}\n${text}`).join("\n---\n");
    part("sources").open = documents.length > 0;
    count();
  }

  return { start, read, fill };
})();
