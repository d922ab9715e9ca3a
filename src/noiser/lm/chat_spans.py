"""The names of a chat's messages, of the parts of their contents, and of tool calls and results, and where each is in the text."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from noiser.text.spans import NamedSpan, crosses, free_name

Message = Mapping[str, Any]
Span = tuple[int, int]


def name_spans(messages: Sequence[Message], found: Sequence[Sequence[Span]], text: str) -> tuple[NamedSpan, ...]:
    """The spans of a chat, outer ones first. `found` has the characters of each message's content and of its tool calls.

    A message is `user 1`, or `user` if no other has its role; a tool's result is `result of NAME`. In a message lie the parts of a
    content that is a list, `user 1, part 2`, and its calls, `assistant 2, call of NAME`. What the template left out has no span.
    """
    spans: list[NamedSpan] = []
    for message, name, (content, calls) in zip(messages, _names(messages), found, strict=True):
        taken = [span for span in (content, calls) if span[0] < span[1]]
        if taken:
            whole = NamedSpan(name, min(start for start, _ in taken), max(stop for _, stop in taken))
            inner = sorted([*_parts(message, content, text, name), *_calls(message, calls, text, name)], key=lambda span: span.start)
            spans += [whole, *inner]
    return tuple(_unique(sorted(_without_crossing(spans), key=lambda span: (span.start, -span.stop))))


def _names(messages: Sequence[Message]) -> Iterator[str]:
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    called = {call["id"]: _called(call) for call in calls if isinstance(call.get("id"), str)}
    counts, seen = Counter(message["role"] for message in messages), Counter[str]()
    for message in messages:
        role = message["role"]
        seen[role] += 1
        of = message.get("name") or called.get(message.get("tool_call_id"))
        if role == "tool" and isinstance(of, str):
            yield f"result of {of}"
        else:
            yield role if counts[role] == 1 else f"{role} {seen[role]}"


def _called(call: Message) -> str:
    function = call.get("function", call)
    return str(function.get("name", "")) if isinstance(function, Mapping) else ""


def _parts(message: Message, content: Span, text: str, name: str) -> Iterator[NamedSpan]:
    """The parts of a content that is a list of several, found one after the other."""
    parts = message["content"]
    if isinstance(parts, list | tuple) and len(parts) > 1:
        place = content[0]
        for number, part in enumerate(parts, 1):
            wanted = part["text"].strip()
            start = text.find(wanted, place, content[1]) if wanted else -1
            if start >= 0:
                place = start + len(wanted)
                yield NamedSpan(f"{name}, part {number}", start, place)


def _calls(message: Message, calls: Span, text: str, name: str) -> Iterator[NamedSpan]:
    """Each call from the name of its tool to the name of the next call's, or to the end of the last call's arguments."""
    starts, place = [], calls[0]
    for call in message.get("tool_calls") or ():
        tool = _called(call)
        start = text.find(tool, place, calls[1]) if tool else -1
        if start >= 0:
            starts.append((tool, start))
            place = start + len(tool)
    ends = [*(start for _, start in starts[1:]), calls[1]]
    for (tool, start), stop in zip(starts, ends, strict=False):
        yield NamedSpan(f"{name}, call of {tool}", start, start + len(text[start:stop].rstrip()))


def _without_crossing(spans: Sequence[NamedSpan]) -> list[NamedSpan]:
    """The spans but for those that cross an earlier one, as a template may write parts of a message twice or in another order."""
    kept: list[NamedSpan] = []
    for span in spans:
        kept += [] if any(crosses(span, other) for other in kept) else [span]
    return kept


def _unique(spans: Iterable[NamedSpan]) -> Iterator[NamedSpan]:
    """A second span of a name gets a number: two results of one tool, for example."""
    taken: set[str] = set()
    for span in spans:
        name = free_name(span.name, taken)
        taken.add(name)
        yield NamedSpan(name, span.start, span.stop)
