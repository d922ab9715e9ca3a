"""Chats: messages rendered by the tokenizer's own template, and which characters of the result each message wrote."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from noiser.errors import PromptError
from noiser.text.prompt import Prompt, Turn

Message = Mapping[str, Any]
Span = tuple[int, int]


def is_chat(source: Any) -> bool:
    """Whether a prompt is given as messages: something other than text that begins with a mapping, or a mapping itself."""
    return isinstance(source, Mapping) or (isinstance(source, Sequence) and len(source) > 0 and isinstance(source[0], Mapping))


def checked(messages: Any) -> list[dict[str, Any]]:
    """The messages as plain dictionaries. Raises PromptError for one without a role or content, or whose content is no text."""
    if isinstance(messages, Mapping):
        raise PromptError("messages come as a list, one message or many: [{'role': 'user', 'content': '...'}]")
    for number, message in enumerate(messages):
        for key in ("role", "content"):
            if not isinstance(message, Mapping) or not isinstance(message.get(key), str):
                raise PromptError(f"message {number} needs a {key!r} that is text; got {message!r:.100}")
    return [dict(message) for message in messages]


def how_to_end(messages: Sequence[Message]) -> dict[str, bool]:
    """An assistant's last message is an answer under way and is left open; after any other the answer's header is added."""
    open_ended = messages[-1]["role"] == "assistant"
    return {"continue_final_message": open_ended, "add_generation_prompt": not open_ended}


def rendered(tokenizer: Any, messages: Sequence[Message], **options: Any) -> Any:
    """What the tokenizer's chat template makes of the messages. Raises PromptError where it has none, or refuses them."""
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError("this tokenizer has no chat template: give the rendered text instead of messages")
    try:
        return tokenizer.apply_chat_template(messages, **how_to_end(messages), **options)
    except (TemplateError, ValueError, TypeError) as error:
        raise PromptError(f"the chat template refuses these messages: {error}") from error


def contents(tokenizer: Any, messages: Sequence[Message], text: str) -> list[Span]:
    """Where each message's content is in the rendered `text`; an empty span where the template left it out or rewrote it.

    Each message in turn is rendered with a marker for content. What stands before and behind the marker is the
    template's and the other messages', so the rest of `text` is this message's, whatever its content imitates.
    """
    marker = "content"
    while marker in text:
        marker += "0"
    return [_content(tokenizer, messages, number, text, marker) for number in range(len(messages))]


def _content(tokenizer: Any, messages: Sequence[Message], number: int, text: str, marker: str) -> Span:
    changed = [{**message, "content": marker} if place == number else message for place, message in enumerate(messages)]
    try:
        marked = rendered(tokenizer, changed, tokenize=False)
    except PromptError:
        return 0, 0
    before, found, behind = marked.partition(marker)
    if not found or marker in behind:
        return 0, 0
    return _narrowed(text, _common(text, before), len(text) - _common(text[::-1], behind[::-1]), messages[number]["content"])


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _narrowed(text: str, start: int, stop: int, content: str) -> Span:
    """The content within what is this message's, or what the template kept of it; empty where they have nothing in common."""
    kept, wanted = text[start:stop].strip(), content.strip()
    if wanted and wanted in kept:
        first = text.rindex(content if content in text[start:stop] else wanted, start, stop)
        return first, first + len(content if content in text[start:stop] else wanted)
    if kept and kept in wanted:
        return start, stop
    return 0, 0


def turns(messages: Sequence[Message], spans: Sequence[Span], prompt: Prompt) -> tuple[Turn, ...]:
    """The messages' roles and the tokens of their contents. One that reaches beyond counts where more of its characters are."""
    taken: set[int] = set()
    found: list[Turn] = []
    for message, span in zip(messages, spans, strict=True):
        inside = (t for t, token in enumerate(prompt.offsets) if _within(token, span, prompt.text))
        tokens = tuple(t for t in inside if t not in taken and not prompt.special[t])
        taken.update(tokens)
        found.append(Turn(message["role"], tokens))
    return tuple(found)


def _within(token: Span, span: Span, text: str) -> bool:
    """Spaces count only where there is nothing else: a token ` Hi` is Hi's, though its space may be the template's."""
    start, stop = max(token[0], span[0]), min(token[1], span[1])
    if start >= stop:
        return span[0] < token[0] == token[1] < span[1]
    inside, whole = ("".join(text[slice(*each)].split()) for each in ((start, stop), token))
    return 2 * len(inside) >= len(whole) and (bool(inside) or not whole)
