"""Chats: messages rendered by the tokenizer's own template, and the characters that each message's content takes."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from noiser.errors import PromptError
from noiser.lm.bounded import BoundedError, run_bounded
from noiser.lm.token_text import check_unicode
from noiser.text.prompt import TOOLS, Prompt, Turn
from noiser.text.spans import NamedSpan

Message = Mapping[str, Any]
Span = tuple[int, int]


def is_chat(source: Any) -> bool:
    """Whether a prompt is given as messages: a mapping, or a sequence that begins with one."""
    return isinstance(source, Mapping) or (isinstance(source, Sequence) and len(source) > 0 and isinstance(source[0], Mapping))


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """The messages as plain dictionaries.

    A message has a role, and a content that is text or a list of parts of text (`{"type": "text", "text": ...}`). The content may be
    null if the message calls tools. All other fields (`name`, `tool_calls`, `tool_call_id`) go to the template as they are. Raises
    PromptError for anything else.
    """
    if isinstance(messages, Mapping):
        raise PromptError("messages come as a list of one or more: [{'role': 'user', 'content': '...'}]")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise PromptError(f"message {number} needs a 'role' that is text; got {message!r:.100}")
        _check_content(number, message)
        _check_calls(number, message)
        for text in (message["role"], *_texts(message.get("content"))):
            check_unicode(text)
        try:
            check_unicode(json.dumps(dict(message), ensure_ascii=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise PromptError(f"message {number} must be plain values, as JSON has them: {error}") from error
    return [{"content": None, **message} for message in messages]


def _check_content(number: int, message: Message) -> None:
    content = message.get("content")
    if isinstance(content, list | tuple):
        for place, part in enumerate(content):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            if kind != "text":
                raise PromptError(
                    f"message {number}, part {place} of the content is {kind!r}: noiser explains text, so parts must be 'text'"
                )
            if not isinstance(part.get("text"), str):
                raise PromptError(f"message {number}, part {place} of the content needs a 'text'; got {part!r:.100}")
    elif not isinstance(content, str) and not (content is None and message.get("tool_calls")):
        raise PromptError(
            f"message {number} needs a 'content' that is text or a list of text parts (null only beside tool_calls); got {message!r:.100}"
        )


def _texts(content: Any) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content or ()]


def _check_calls(number: int, message: Message) -> None:
    calls = message.get("tool_calls")
    if calls and not (isinstance(calls, list | tuple) and all(isinstance(call, Mapping) for call in calls)):
        raise PromptError(f"message {number}: tool_calls must be a list of calls; got {calls!r:.100}")


def _ending(messages: Sequence[Message]) -> dict[str, bool]:
    """A last message of the assistant is an unfinished answer and stays open, unless it calls tools. Otherwise the answer's header is
    added."""
    open_ended = messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")
    return {"continue_final_message": open_ended, "add_generation_prompt": not open_ended}


@dataclass(frozen=True)
class Rendered:
    """A chat as text."""

    text: str
    spans: list[list[Span]]
    """The characters of each message's content, and of its tool calls. An empty span: left out or rewritten."""
    messages: list[dict[str, Any]]
    """The messages in the form that the template takes."""
    warnings: tuple[str, ...]
    """What the template leaves out."""


def render(tokenizer: Any, messages: Sequence[Message], template_args: Mapping[str, Any]) -> Rendered:
    """The chat as text, by the tokenizer's chat template, and where each message is in it.

    A template that does not go through parts gets them as one text, with a line break between them. One that cannot take a null
    content gets an empty one. `arguments` of a call that are a JSON text are given as an object, as templates expect them; if the
    template refuses that, as text.

    The template runs within limits of time, memory and output. Raises PromptError if there is no template, if it refuses the
    messages, if it has no variable of the name of an argument, or if it goes beyond a limit.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError("this tokenizer has no chat template: give the rendered text instead of messages")
    try:
        found = run_bounded(lambda: _render_with_spans(tokenizer, messages, template_args))
    except BoundedError as error:
        raise PromptError(f"the chat template refuses these messages: {error}") from error
    if found["unknown"]:
        known = ", ".join(found["variables"]) or "none"
        raise PromptError(f"the chat template has no variable {', '.join(found['unknown'])}; it has {known}")
    spans = [[(start, stop) for start, stop in parts] for parts in found["spans"]]
    return Rendered(found["text"], spans, found["messages"], tuple(_left_out(found["messages"], spans)))


def _left_out(messages: Sequence[Message], spans: Sequence[Sequence[Span]]) -> Iterator[str]:
    for number, (message, (content, calls)) in enumerate(zip(messages, spans, strict=True)):
        if any(text.strip() for text in _texts(message["content"])) and content[0] == content[1]:
            yield f"the chat template leaves out the content of message {number}, or writes it in another way"
        if message.get("tool_calls") and calls[0] == calls[1]:
            yield f"the chat template leaves out the tool calls of message {number}: the model does not see them"


def encode_chat(tokenizer: Any, messages: Sequence[Message], template_args: Mapping[str, Any], **options: Any) -> Mapping[str, Any] | None:
    """The ids of a chat from a tokenizer with a way of its own to read chats. None if the rendered text is all there is to read."""
    if getattr(type(tokenizer), "apply_chat_template", None) is PreTrainedTokenizerBase.apply_chat_template:
        return None
    ending = {**_ending(messages), **template_args}
    try:
        return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, tokenizer_kwargs=options, **ending)
    except Exception as error:
        raise PromptError(f"the chat template refuses these messages: {error}") from error


Render = Callable[[Sequence[Message]], str]


def _render_with_spans(tokenizer: Any, messages: Sequence[Message], template_args: Mapping[str, Any]) -> dict[str, Any]:
    """The text and the spans, as plain values.

    Each message in turn is rendered with a marker as its content. The text before and behind the marker belongs to the
    template and the other messages, so the rest of the text is this message's, even if its content imitates the template.
    """

    def apply(changed: Sequence[Message]) -> str:
        return tokenizer.apply_chat_template(changed, tokenize=False, **_ending(changed), **template_args)

    variables = _variables(tokenizer, template_args) if template_args else None
    unknown = [] if variables is None else sorted(set(template_args) - set(variables))
    if unknown:
        return {"unknown": unknown, "variables": variables, "text": "", "spans": [], "messages": []}
    text, taken = _first_that_renders(apply, messages)
    marker = "content"
    while marker in text:
        marker += "0"
    spans = [
        [_content_span(apply, taken, number, text, marker), _calls_span(apply, taken, number, text, marker)]
        for number in range(len(messages))
    ]
    return {"unknown": [], "variables": [], "text": text, "spans": spans, "messages": taken}


def reads(tokenizer: Any, variable: str) -> bool:
    """Whether the tokenizer's chat template reads this variable."""
    if not getattr(tokenizer, "chat_template", None):
        return False
    try:
        found = run_bounded(lambda: {"variables": _variables(tokenizer, {})})
    except BoundedError:
        return False
    return variable in (found["variables"] or ())


def _variables(tokenizer: Any, template_args: Mapping[str, Any]) -> list[str] | None:
    """The variables that the template reads, without those that are always there. None if that cannot be found out."""
    from jinja2 import meta
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        template = tokenizer.get_chat_template(None, template_args.get(TOOLS))
        environment: Any = _compile_jinja_template(template).environment
        read = meta.find_undeclared_variables(environment.parse(template))
    except Exception:  # noqa: BLE001  (a template with tags of its own: then nothing is known, and nothing is refused)
        return None
    always = {"messages", "add_generation_prompt", "raise_exception", "strftime_now", *tokenizer.special_tokens_map}
    return sorted(read - always)


def _first_that_renders(apply: Render, messages: Sequence[Message]) -> tuple[str, list[dict[str, Any]]]:
    """The text, and the messages in the first form that the template takes. Raises the error of the first form if it takes none."""
    errors: list[Exception] = []
    for form in _forms(apply, messages):
        try:
            return apply(form), form
        except Exception as error:  # noqa: BLE001  (the first error is raised below)
            errors.append(error)
    raise errors[0]


def _forms(apply: Render, messages: Sequence[Message]) -> Iterator[list[dict[str, Any]]]:
    given = [dict(message) for message in messages]
    if any(isinstance(message["content"], list | tuple) for message in given) and not _walks_parts(apply, given):
        given = [{**message, "content": _joined(message["content"])} for message in given]
    parsed = [_with_parsed_arguments(message) for message in given]
    for form in [parsed] if parsed == given else [parsed, given]:
        if all(message["content"] is not None for message in form) or not _writes_none(apply, form):
            yield form
        yield [{**message, "content": message["content"] if message["content"] is not None else ""} for message in form]


def _joined(content: Any) -> Any:
    return "\n".join(part["text"] for part in content) if isinstance(content, list | tuple) else content


def _walks_parts(apply: Render, messages: list[dict[str, Any]]) -> bool:
    """Whether the template goes through a content's parts, rather than write the list down or refuse it."""
    marker = "partsoftext"
    changed = [
        {**message, "content": [{"type": "text", "text": marker}]} if isinstance(message["content"], list | tuple) else message
        for message in messages
    ]
    try:
        text = apply(changed)
    except Exception:  # noqa: BLE001  (a template that cannot take a list)
        return False
    return marker in text and not re.search(rf"""['"]text['"]: ['"]{marker}""", text)


def _writes_none(apply: Render, messages: list[dict[str, Any]]) -> bool:
    """Whether the template writes `None` for a null content."""
    empty = [{**message, "content": message["content"] if message["content"] is not None else ""} for message in messages]
    try:
        return apply(messages).count("None") > apply(empty).count("None")
    except Exception:  # noqa: BLE001  (whichever form it refuses is found out later)
        return False


def _with_parsed_arguments(message: dict[str, Any]) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return message
    return {**message, "tool_calls": [_parsed_call(dict(call)) for call in message["tool_calls"]]}


def _parsed_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


def _replaced(messages: Sequence[Message], number: int, **fields: Any) -> list[Message]:
    return [{**message, **fields} if index == number else message for index, message in enumerate(messages)]


def _content_span(apply: Render, messages: Sequence[Message], number: int, text: str, marker: str) -> Span:
    content = messages[number]["content"]
    if not content:
        return 0, 0
    is_text = isinstance(content, str)
    part = _marked_part(apply, _replaced(messages, number, content=marker if is_text else [{"type": "text", "text": marker}]), text, marker)
    if part is None:
        return 0, 0
    contents = [content] if is_text else [separator.join(piece["text"] for piece in content) for separator in ("", "\n")]
    return next((span for each in contents if (span := _narrow_to_content(text, *part, each)) != (0, 0)), (0, 0))


def _calls_span(apply: Render, messages: Sequence[Message], number: int, text: str, marker: str) -> Span:
    """From the name of the first called tool to the end of the last call's arguments."""
    calls = messages[number].get("tool_calls")
    if not calls:
        return 0, 0
    marked = [_marked_call(call, marker) for call in calls]
    part = _marked_part(apply, _replaced(messages, number, tool_calls=marked), text, marker, several=True)
    return part if part is not None and part[0] < part[1] else (0, 0)


def _marked_call(call: Mapping[str, Any], marker: str) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = marker if isinstance(function.get("arguments"), str) else {marker: marker}
    marked = {**function, "name": marker, "arguments": arguments}
    return {**call, "function": marked} if "function" in call else marked


def _marked_part(apply: Render, messages: Sequence[Message], text: str, marker: str, *, several: bool = False) -> Span | None:
    """The part of the text that stands where the marker is in these messages. None if the marker is not there, or several times."""
    try:
        marked = apply(messages)
    except Exception:  # noqa: BLE001  (a template may refuse the marker: nothing is known of this place)
        return None
    if marker not in marked or (marked.count(marker) > 1 and not several):
        return None
    before, behind = marked.partition(marker)[0], marked.rpartition(marker)[2]
    return _common_length(text, before), len(text) - _common_length(text[::-1], behind[::-1])


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


def find_turns(messages: Sequence[Message], spans: Sequence[Sequence[Span]], prompt: Prompt) -> tuple[Turn, ...]:
    """The role of each message, and the tokens of its content and tool calls. A token at an edge counts if at least half of it does."""
    taken: set[int] = set()
    turns: list[Turn] = []
    for message, parts in zip(messages, spans, strict=True):
        named = [NamedSpan(message["role"], *part) for part in parts]
        inside = (t for t, token in enumerate(prompt.offsets) if any(span.holds(token, prompt.text) for span in named))
        tokens = tuple(t for t in inside if t not in taken and not prompt.special[t])
        taken.update(tokens)
        turns.append(Turn(message["role"], tokens))
    return tuple(turns)
