"""Documents in front of a question: through the tokenizer's own template if it reads documents, else in plain text, each a named span."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from noiser.errors import PromptError
from noiser.lm.token_text import check_unicode
from noiser.text.spans import NamedSpan

DOCUMENTS = "documents"
"""The variable of a chat template that takes documents, as transformers passes them: a list of mappings with `title` and `text`."""
QUESTION = "question"
EXAMPLE = '[{"title": "Bridges", "text": "The longest bridge ..."}]'


def read_documents(given: Any) -> list[dict[str, str]]:
    """Documents with a title of their own and a text; one without a title is `document N`. Raises PromptError for anything else."""
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise PromptError(f"documents are a list, {EXAMPLE}; got {given!r:.100}")
    documents = [_read_document(number, each) for number, each in enumerate(given, 1)]
    if not documents:
        raise PromptError("documents: the list is empty")
    titles = [document["title"] for document in documents]
    twice = sorted({title for title in titles if titles.count(title) > 1})
    if twice:
        raise PromptError(f"each document needs a title of its own; {', '.join(map(repr, twice))} came twice")
    return documents


def _read_document(number: int, given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping) or not set(given) <= {"title", "text"} or not isinstance(given.get("text"), str):
        raise PromptError(f"document {number} needs a 'text' and may have a 'title', {EXAMPLE}; got {given!r:.100}")
    title = given.get("title", f"document {number}")
    if not isinstance(title, str) or not title.strip():
        raise PromptError(f"document {number}: the title is a text that is not empty; got {title!r:.100}")
    if not given["text"].strip():
        raise PromptError(f"document {number}, {title!r}, has no text")
    check_unicode(title)
    check_unicode(given["text"])
    return {"title": title, "text": given["text"]}


def plain(documents: Sequence[Mapping[str, str]], question: str) -> tuple[str, tuple[NamedSpan, ...]]:
    """The documents as `Document 1: TITLE`, a line break and the text, an empty line between them, then the question."""
    text, spans = "", []
    for number, document in enumerate(documents, 1):
        start = len(text)
        text += f"Document {number}: {document['title']}\n{document['text'].strip()}"
        spans.append(NamedSpan(document["title"], start, len(text)))
        text += "\n\n"
    return text + question, (*spans, *([NamedSpan(QUESTION, len(text), len(text) + len(question))] if question else []))


def find_documents(documents: Sequence[Mapping[str, str]], text: str) -> tuple[tuple[NamedSpan, ...], list[str]]:
    """Where each document is in a rendered text, from its title if that stands before it, and a warning for each that is not there."""
    spans, warnings, place = [], [], 0
    for document in documents:
        body = document["text"].strip()
        start = text.find(body, place)
        if start < 0:
            warnings.append(f"the chat template leaves out document {document['title']!r}, or writes it in another way")
            continue
        title = text.rfind(document["title"], place, start)
        spans.append(NamedSpan(document["title"], start if title < 0 else title, start + len(body)))
        place = start + len(body)
    return tuple(spans), warnings
