"""What a data set is: rows with a prompt each, and where they came from. Frozen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["known", "longra", "wikibio", "jsonl"]
Match = Literal["token", "word", "none"]
"""When a model counts as having answered a row: its next token is the target; its next tokens, as many as the target has, are;
or always."""
MATCHES: tuple[Match, ...] = ("token", "word", "none")


@dataclass(frozen=True)
class Row:
    """A prompt, and what is known about it."""

    id: str
    """Its name: no two rows of a data set have the same."""
    prompt: str | list[Any]
    """Text; in a jsonl file also token ids or the messages of a chat. Empty where there is an error."""
    target: str | None = None
    """The word that should follow, as a rule without a leading space."""
    group: str | None = None
    """The relation (known) or template (longra) it was made from: rows of one group are not independent of each other. None:
    it is a group of its own."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Everything else of the row: subject and template; relative and type."""
    error: str = ""
    """Why a line of a jsonl file is no row; such a row is kept, so that nothing is dropped."""


@dataclass(frozen=True)
class Dataset:
    """Rows, what they are, and which file they came from."""

    name: str
    """As asked for; a jsonl file's name without its ending."""
    kind: Kind
    rows: tuple[Row, ...]
    sha256: str
    """Of the file's bytes, in hexadecimal."""
    source: str
    """The file's name, without its folder: for display."""
    match: Match
    """When a row counts as answered, unless something else is asked for."""
    generate: int | None
    """How many tokens of the model's own are explained; None: the next one only."""
    complete: bool
    """Whether there are as many rows as were published."""
