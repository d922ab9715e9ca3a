"""Rows and data sets: prompts with what should follow, and where they come from. Frozen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["known", "longra", "wikibio", "jsonl"]
Match = Literal["token", "word", "none"]
"""When a model answers a row. `token`: its next token is the target. `word`: its next tokens, as many as the target has, are the
target. `none`: always."""
MATCHES: tuple[Match, ...] = ("token", "word", "none")


@dataclass(frozen=True)
class Row:
    """A prompt, and what is known about it."""

    id: str
    """The row's name, unique in its data set."""
    prompt: str | list[Any]
    """Text. In a jsonl file also token ids, or the messages of a chat. Empty if there is an error."""
    target: str | None = None
    """The word that should follow, usually without a leading space."""
    group: str | None = None
    """The relation (known) or template (longra) that the row was made from. Rows of one group are not independent. None: a group of
    its own."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """All other fields of the row, such as subject, template, relative and type."""
    error: str = ""
    """Why a line of a jsonl file is not a row. Such a row is kept, so that nothing is dropped."""


@dataclass(frozen=True)
class Dataset:
    """Rows with their source and their rules."""

    name: str
    """The name that was asked for; for a jsonl file its name without the ending."""
    kind: Kind
    rows: tuple[Row, ...]
    sha256: str
    """Of the file's bytes, in hexadecimal."""
    source: str
    """The file's name without its folder, for display."""
    match: Match
    """The default rule for when a row is answered."""
    generate: int | None
    """How many tokens that the model generates are explained. None: the next token only."""
    complete: bool
    """True if the set has as many rows as were published."""
