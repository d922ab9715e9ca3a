"""Rows as other programs write them: which fields are the prompt and the target, and how they become text.

OpenAI's fine-tuning and batch files, ShareGPT, Alpaca, SQuAD, question and answer, plain text, prompt and completion, and the sample logs
of lm-evaluation-harness. docs/data.md has the table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noiser.data.content import MAX_DEPTH
from noiser.errors import OptionError
from noiser.storage import printable, strict_json

Row = Mapping[str, Any]
OWN = ("prompt", "target", "id", "group")
"""The fields of noiser's own rows."""


@dataclass(frozen=True)
class Parts:
    """What a layout finds in a row, not yet checked."""

    prompt: Any
    target: Any = None
    id: Any = None
    group: Any = None
    used: tuple[str, ...] = ()
    """The fields that are wholly in these parts."""


@dataclass(frozen=True)
class Layout:
    """A form of rows that other programs write."""

    name: str
    how: str
    """What becomes the prompt and the target."""
    fits: Callable[[Row], bool]
    read: Callable[[Row], Parts]
    """Raises OptionError for a row that has the fields, but not as it should."""


def recognise(row: Row) -> Layout | None:
    """The first layout that fits the row; None if none does."""
    return next((layout for layout in LAYOUTS if layout.fits(row)), None)


def _has(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(row.get(name) is not None for name in names)


# Chats

_ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("tool", "function_response", "observation"), "tool"),
}
"""What ShareGPT files call the speakers, and what chat templates call them."""


def split_answer(messages: Sequence[Any]) -> tuple[list[Any], str | None]:
    """The messages up to the assistant's last answer, and its text; all messages and None if the assistant does not speak last.

    Raises OptionError for an answer that is no text (a tool call, a picture), or that nothing precedes.
    """
    last = messages[-1] if messages else None
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        return list(messages), None
    if len(messages) == 1:
        raise OptionError("its only message is the assistant's: there is no prompt before it")
    content = last.get("content")
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str) or not content.strip():
        raise OptionError("the assistant's last message has no text to explain: leave it out, and the model's own answer is explained")
    return list(messages[:-1]), content


def _chat(value: Any, field: str) -> list[Any]:
    """A list of messages. In a table it may be JSON in a cell."""
    if isinstance(value, str):
        try:
            value = strict_json(value.encode(), MAX_DEPTH)
        except ValueError as error:
            raise OptionError(f"{field!r} must be a list of messages; got {printable(value)[:60]!r}") from error
    if not isinstance(value, list) or not value or not all(isinstance(message, Mapping) for message in value):
        raise OptionError(f"{field!r} must be a list of messages; got {printable(value)[:60]!r}")
    return value


def _messages(row: Row) -> Parts:
    prompt, target = split_answer(_chat(row["messages"], "messages"))
    return Parts(prompt, target, row.get("id"), row.get("group"), ("messages",))


def _is_fine_tuning(row: Row) -> bool:
    """Whether the assistant speaks last."""
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, Mapping) and last.get("role") == "assistant"


def _batch(row: Row) -> Parts:
    body = row["body"]
    if not isinstance(body, Mapping) or not (body.get("messages") or body.get("prompt")):
        raise OptionError("its body has neither messages nor a prompt")
    prompt, target = (body["prompt"], None) if body.get("prompt") else split_answer(_chat(body["messages"], "messages"))
    return Parts(prompt, target, row.get("custom_id"))


def _batch_answer(row: Row) -> Parts:
    raise OptionError(
        f"{printable(row['custom_id'])[:40]}: it is an answer of OpenAI's batches and holds no prompt: give the file of the requests"
    )


def _share_gpt(row: Row) -> Parts:
    turns = _chat(row["conversations"], "conversations")
    messages = [_share_gpt_turn(turn) for turn in turns]
    if isinstance(row.get("system"), str) and row["system"] and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": row["system"]})
    prompt, target = split_answer(messages)
    return Parts(prompt, target, row.get("id"), row.get("group"), ("conversations",))


def _share_gpt_turn(turn: Row) -> dict[str, Any]:
    speaker, content = (turn.get("from"), turn.get("value")) if "from" in turn else (turn.get("role"), turn.get("content"))
    if speaker not in _ROLES:
        raise OptionError(f"a turn is from {printable(speaker)!r}; known are {', '.join(_ROLES)}")
    if not isinstance(content, str):
        raise OptionError(f"a turn's value must be text; got {printable(content)[:60]!r}")
    return {"role": _ROLES[speaker], "content": content}


# Questions and instructions


def _alpaca(row: Row) -> Parts:
    texts = [_text(row, "instruction"), *([_text(row, "input")] if row.get("input") else [])]
    return Parts("\n\n".join(texts), row["output"], row.get("id"), row.get("group"), ("instruction", "input", "output"))


def _squad(row: Row) -> Parts:
    prompt = f"{_text(row, 'context')}\n\nQuestion: {_text(row, 'question')}\nAnswer:"
    return Parts(prompt, _first_answer(row), row.get("id"), row.get("group"), ("context", "question", "answer"))


def _question(row: Row) -> Parts:
    return Parts(
        f"Question: {_text(row, 'question')}\nAnswer:", _first_answer(row), row.get("id"), row.get("group"), ("question", "answer")
    )


def _first_answer(row: Row) -> Any:
    """The answer; the first of several; the right one of choices, by its place or its letter. None if there is none."""
    answer = row.get("answer") if row.get("answer") is not None else row.get("answers")
    choices = row.get("choices")
    labels = choices.get("label") if isinstance(choices, Mapping) else None
    texts = choices.get("text") if isinstance(choices, Mapping) else choices
    key = answer if answer is not None else row.get("answerKey")
    if isinstance(texts, list) and texts:
        return _choice(texts, labels, key)
    if isinstance(answer, Mapping):  # {"text": [...]} of SQuAD, {"value": ...} of TriviaQA
        answer = answer.get("text", answer.get("value"))
    if isinstance(answer, list):
        first = answer[0] if answer else None
        return first.get("text") if isinstance(first, Mapping) else first
    return answer


def _choice(texts: list[Any], labels: Any, key: Any) -> Any:
    if isinstance(key, int) and not isinstance(key, bool) and 0 <= key < len(texts):
        return texts[key]
    if key in texts:
        return key
    letters = labels if isinstance(labels, list) else "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(texts)]
    if isinstance(key, str) and key and key in letters:
        return texts[letters.index(key)]
    raise OptionError(f"its answer {printable(key)[:60]!r} is none of its {len(texts)} choices")


def _text(row: Row, field: str) -> str:
    if not isinstance(row[field], str) or not row[field].strip():
        raise OptionError(f"{field!r} must be text that is not blank; got {printable(row[field])[:60]!r}")
    return row[field]


def _completion(row: Row) -> Parts:
    target = row["completion"]
    if isinstance(target, list) and len(target) == 1 and isinstance(target[0], Mapping):
        target = target[0].get("content")
    return Parts(row["prompt"], target, row.get("id"), row.get("group"), ("prompt", "completion"))


# lm-evaluation-harness


def _sample_log(row: Row) -> Parts:
    """One prompt for each doc: that of the right choice. Its target is the right choice, or the text of the log's target."""
    requests = [_request(request) for request in _in_order(row["arguments"])]
    if not requests or not all(isinstance(request[0], str) for request in requests):
        raise OptionError("its arguments hold no prompt")
    choices = [choice for _, choice in requests if isinstance(choice, str)]
    if len(choices) < len(requests):
        target = row.get("target")
        return Parts(requests[0][0], target[0] if isinstance(target, list) and target else target, row.get("doc_id"))
    prompt, choice = requests[_right_choice(row, choices)]
    return Parts(prompt, choice, row.get("doc_id"))


def _in_order(arguments: Any) -> list[Any]:
    """The requests: a list in older logs, `gen_args_0`, `gen_args_1`, ... in newer ones."""
    if not isinstance(arguments, Mapping):
        return list(arguments) if isinstance(arguments, list) else []
    return [arguments[name] for name in sorted(arguments, key=lambda name: (len(name), name))]


def _request(request: Any) -> tuple[Any, Any]:
    """The context and the continuation, which is None or a mapping if the model was to write it."""
    values = list(request.values()) if isinstance(request, Mapping) else request if isinstance(request, list) else [request]
    return (*values, None, None)[0], (*values, None, None)[1]


def _right_choice(row: Row, choices: Sequence[str]) -> int:
    """The place of the right choice. The log says it as a place or as a text; its own verdict decides if both are possible."""
    if len(choices) == 1:
        return 0
    target = row.get("target")
    said = printable(target).strip()
    bare = [choice.strip() for choice in choices]
    places = {bare.index(said)} if bare.count(said) == 1 else set()
    if said.isdecimal() and int(said) < len(choices):
        places.add(int(said))
    if len(places) > 1:
        best = _best(row, len(choices))
        places = {place for place in places if (place == best) == bool(row.get("acc"))} if best is not None else places
    if len(places) != 1:
        raise OptionError(f"its target {said[:60]!r} names none, or more than one, of its choices {', '.join(bare)[:80]}")
    return places.pop()


def _best(row: Row, count: int) -> int | None:
    """The choice that the model found most probable, by the log; None if the log does not say it."""
    try:
        scores = [float(response[0]) for response in row["filtered_resps"]]
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    return scores.index(max(scores)) if len(scores) == count and "acc" in row else None


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "an lm-evaluation-harness sample log",
        "prompt: the context of the right choice; target: that choice, or the log's target",
        _has("doc", "arguments"),
        _sample_log,
    ),
    Layout(
        "prompt and completion", "target: completion", lambda row: _has("prompt", "completion")(row) and "target" not in row, _completion
    ),
    Layout("noiser's own", "", _has("prompt"), lambda row: Parts(*(row.get(name) for name in OWN), used=OWN)),
    Layout("OpenAI batch requests", "prompt: the body's messages or prompt; id: custom_id", _has("body", "custom_id"), _batch),
    Layout("OpenAI batch answers", "", _has("response", "custom_id"), _batch_answer),
    Layout(
        "OpenAI fine-tuning rows",
        "prompt: the messages before the assistant's last answer; target: that answer",
        _is_fine_tuning,
        _messages,
    ),
    Layout("rows of messages", "prompt: the messages", _has("messages"), _messages),
    Layout(
        "ShareGPT conversations",
        "prompt: the turns before the assistant's last answer; target: that answer",
        _has("conversations"),
        _share_gpt,
    ),
    Layout("Alpaca rows", "prompt: instruction, blank line, input; target: output", _has("instruction", "output"), _alpaca),
    Layout(
        "SQuAD rows",
        "prompt: context, blank line, 'Question: ...', line break, 'Answer:'; target: the first answer",
        _has("context", "question"),
        _squad,
    ),
    Layout(
        "question and answer rows",
        "prompt: 'Question: ...', line break, 'Answer:'; target: the answer, or the right choice",
        _has("question"),
        _question,
    ),
    Layout("rows of text", "prompt: text", _has("text"), lambda row: Parts(row["text"], None, row.get("id"), row.get("group"), ("text",))),
)
"""All layouts; the first that fits counts."""
HEADER = frozenset(
    (*OWN, "completion", "messages", "conversations", "instruction", "input", "output", "context", "question", "answer", "answers")
)
"""Names by which the first line of a text is seen to be the header of a table."""
