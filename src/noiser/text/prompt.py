"""A tokenised prompt, the turns of a chat, and arguments of its template."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noiser.errors import OptionError
from noiser.text.spans import NamedSpan, within


@dataclass(frozen=True)
class Turn:
    """One message of a chat."""

    role: str
    tokens: tuple[int, ...]
    """The positions of the tokens of the content and of tool calls, without header and special tokens. Empty if the template left
    them out."""


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt. Only the ids reach the model: nothing is ever decoded and tokenised again."""

    text: str
    """The text that `offsets` refer to: the given text, the rendered chat, or the concatenated tokens of ids."""
    input_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """Each token's text, with its leading space. A fragment of a character is shown as its bytes: `<0xF0><0x9F>`."""
    special: tuple[bool, ...]
    """Whether each token is one of the tokenizer's special tokens."""
    offsets: tuple[tuple[int, int], ...] = ()
    """The first character of each token in `text`, and one past its last. A token without text has an empty span."""
    turns: tuple[Turn, ...] = ()
    """One turn for each message of a chat, in order. Empty for anything else."""
    spans: tuple[NamedSpan, ...] = ()
    """Named parts of `text`, in its order, outer ones first: sources, documents, the messages of a chat and their parts."""
    warnings: tuple[str, ...] = ()
    """What of a chat the model does not see."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def cropped(self, length: int) -> "Prompt":
        """The first `length` tokens. The text ends with the last of them, and turns keep those of their tokens that are left.

        A character that loses some of its tokens is shown as U+FFFD.
        """
        kept = self.offsets[:length]
        text = self.text[: max((stop for _, stop in kept), default=0)] if self.offsets else "".join(self.tokens[:length])
        if kept and self.tokens[length - 1].startswith("<0x") and any(start < len(text) for start, _ in self.offsets[length : length + 1]):
            text = text[:-1] + "\ufffd"
        turns = tuple(Turn(turn.role, tuple(token for token in turn.tokens if token < length)) for turn in self.turns)
        spans = within(self.spans, len(text))
        return Prompt(text, self.input_ids[:length], self.tokens[:length], self.special[:length], kept, turns, spans, self.warnings)


TOOLS = "tools"
RESERVED = {"messages", "conversation", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize", "self"}
RESERVED |= {"padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"}
"""Names that noiser or transformers sets."""


def parse_template_args(text: str, folder: Path = Path()) -> dict[str, Any]:
    """From `enable_thinking=false,date_string=26 July 2024,tools=FILE`, or from a JSON object.

    A value is read as JSON if it is JSON, else it is text. `tools` names a JSON file, relative to `folder`. Raises OptionError.
    """
    if text.lstrip().startswith("{"):
        try:
            return read_template_args(json.loads(text), folder)
        except ValueError as error:
            raise OptionError(f"template args that begin with {{ must be a JSON object: {error}") from error
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    wrong = [name for name, separator, _ in pairs if not separator or not name.strip()]
    if wrong or not pairs:
        example = "enable_thinking=false,date_string=26 July 2024"
        raise OptionError(f"template args are NAME=VALUE pairs, e.g. {example}, or a JSON object; got {(wrong or [text])[0]!r}")
    names = [name.strip() for name, _, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OptionError(f"template args: give each name once; {', '.join(twice)} came twice")
    return read_template_args({name: _read_value(value) for name, (_, _, value) in zip(names, pairs, strict=True)}, folder)


def read_template_args(args: Mapping[str, Any], folder: Path = Path()) -> dict[str, Any]:
    """The arguments as plain values. `tools` may be a list of tools, or the name of a JSON file with that list.

    Raises OptionError for a name that noiser sets itself, for a value that JSON does not have, and for tools that are not a list of
    objects.
    """
    if not isinstance(args, Mapping) or not all(isinstance(name, str) and name.isidentifier() for name in args):
        raise OptionError(f"template args must map names to values, e.g. {{'enable_thinking': False}}; got {args!r:.100}")
    taken = sorted(RESERVED & set(args))
    if taken:
        raise OptionError(f"template args cannot hold {', '.join(taken)}: noiser sets that itself")
    values = dict(args)
    if TOOLS in values:
        values[TOOLS] = _read_tools(values[TOOLS], folder)
    try:
        return json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise OptionError(f"template args must be plain values, as JSON has them: {error}") from error


def _read_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()


def _read_tools(tools: Any, folder: Path) -> Any:
    if isinstance(tools, str | Path):
        file = folder / Path(tools).expanduser()
        try:
            tools = json.loads(file.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise OptionError(f"template args: tools names a JSON file with a list of tools; {file}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise OptionError(f"template args: {file} is not JSON: {error}") from error
    if not isinstance(tools, list) or not tools or not all(isinstance(tool, Mapping) for tool in tools):
        example = '[{"type": "function", "function": {"name": ..., "parameters": {...}}}]'
        raise OptionError(f"template args: tools must be a list of tools, {example}; got {tools!r:.100}")
    return tools
