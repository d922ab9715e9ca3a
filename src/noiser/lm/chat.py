"""Chats: messages rendered by the tokenizer's own template, and the characters that each message's content takes."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from noiser.errors import PromptError
from noiser.lm.bounded import BoundedError, run_bounded
from noiser.text.prompt import Prompt, Turn

Message = Mapping[str, Any]
Span = tuple[int, int]


def is_chat(source: Any) -> bool:
    """Whether a prompt is given as messages: a mapping, or a sequence that begins with one."""
    return isinstance(source, Mapping) or (isinstance(source, Sequence) and len(source) > 0 and isinstance(source[0], Mapping))


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """The messages as plain dictionaries. Raises PromptError if a message lacks a role or a content that is text."""
    if isinstance(messages, Mapping):
        raise PromptError("messages come as a list of one or more: [{'role': 'user', 'content': '...'}]")
    for number, message in enumerate(messages):
        for key in ("role", "content"):
            if not isinstance(message, Mapping) or not isinstance(message.get(key), str):
                raise PromptError(f"message {number} needs a {key!r} that is text; got {message!r:.100}")
    return [dict(message) for message in messages]


def _ending(messages: Sequence[Message]) -> dict[str, bool]:
    """A last message of the assistant is an unfinished answer and stays open. Otherwise the answer's header is added."""
    open_ended = messages[-1]["role"] == "assistant"
    return {"continue_final_message": open_ended, "add_generation_prompt": not open_ended}


def render(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, list[Span]]:
    """The chat as text, by the tokenizer's chat template, and the characters of each message's content in it.

    A span is empty if the template leaves the content out or rewrites it. The template runs within limits of time, memory and
    output. Raises PromptError if there is no template, if it refuses the messages, or if it goes beyond a limit.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError("this tokenizer has no chat template: give the rendered text instead of messages")
    try:
        text, spans = run_bounded(lambda: _render_with_spans(tokenizer, messages))
    except BoundedError as error:
        raise PromptError(f"the chat template refuses these messages: {error}") from error
    return text, [(start, stop) for start, stop in spans]


def encode_chat(tokenizer: Any, messages: Sequence[Message], **options: Any) -> Mapping[str, Any] | None:
    """The ids of a chat from a tokenizer with a way of its own to read chats. None if the rendered text is all there is to read."""
    if getattr(type(tokenizer), "apply_chat_template", None) is PreTrainedTokenizerBase.apply_chat_template:
        return None
    try:
        return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, tokenizer_kwargs=options, **_ending(messages))
    except Exception as error:
        raise PromptError(f"the chat template refuses these messages: {error}") from error


def _apply(tokenizer: Any, messages: Sequence[Message]) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, **_ending(messages))


def _render_with_spans(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, list[Span]]:
    """The text and the content's spans.

    Each message in turn is rendered with a marker as its content. The text before and behind the marker belongs to the
    template and the other messages, so the rest of the text is this message's, even if its content imitates the template.
    """
    text = _apply(tokenizer, messages)
    marker = "content"
    while marker in text:
        marker += "0"
    return text, [_content_span(tokenizer, messages, number, text, marker) for number in range(len(messages))]


def _content_span(tokenizer: Any, messages: Sequence[Message], number: int, text: str, marker: str) -> Span:
    changed = [{**message, "content": marker} if index == number else message for index, message in enumerate(messages)]
    try:
        marked = _apply(tokenizer, changed)
    except Exception:  # noqa: BLE001  (a template may refuse the marker: nothing is known of this content's place)
        return 0, 0
    before, separator, behind = marked.partition(marker)
    if not separator or marker in behind:
        return 0, 0
    return _narrow_to_content(
        text, _common_length(text, before), len(text) - _common_length(text[::-1], behind[::-1]), messages[number]["content"]
    )


def _common_length(one: str, other: str) -> int:
    """The number of characters that two texts begin with in common."""
    return next((index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _narrow_to_content(text: str, start: int, stop: int, content: str) -> Span:
    """The span of the content within the message's part, or of what the template kept of it. Empty if they share nothing."""
    kept, stripped = text[start:stop].strip(), content.strip()
    if stripped and stripped in kept:
        exact = content if content in text[start:stop] else stripped
        first = text.rindex(exact, start, stop)
        return first, first + len(exact)
    if kept and kept in stripped:
        return start, stop
    return 0, 0


def find_turns(messages: Sequence[Message], spans: Sequence[Span], prompt: Prompt) -> tuple[Turn, ...]:
    """The role and the content tokens of each message. A token at an edge counts if at least half of it is content."""
    taken: set[int] = set()
    turns: list[Turn] = []
    for message, span in zip(messages, spans, strict=True):
        inside = (t for t, token in enumerate(prompt.offsets) if _is_inside(token, span, prompt.text))
        tokens = tuple(t for t in inside if t not in taken and not prompt.special[t])
        taken.update(tokens)
        turns.append(Turn(message["role"], tokens))
    return tuple(turns)


def _is_inside(token: Span, span: Span, text: str) -> bool:
    """Spaces count only in a token of spaces: ` Hi` belongs to `Hi`, though its space may be the template's."""
    start, stop = max(token[0], span[0]), min(token[1], span[1])
    if start >= stop:
        return span[0] < token[0] == token[1] < span[1]
    inside, whole = ("".join(text[slice(*part)].split()) for part in ((start, stop), token))
    return 2 * len(inside) >= len(whole) and (bool(inside) or not whole)
