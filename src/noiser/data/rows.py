"""Rows and data sets: prompts, the words that should follow them, and their sources."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["known", "longra", "wikibio", "jsonl"]
Match = Literal["token", "word", "none"]
"""The rule that decides whether a model answers a row. `token`: the model's next token is the target. `word`: its next tokens, as
many as the target has, are the target. `none`: every row counts as answered."""
MATCHES: tuple[Match, ...] = ("token", "word", "none")


@dataclass(frozen=True)
class Row:
    """A prompt with its target, its group and its other fields."""

    id: str
    """The row's name, unique in its data set."""
    prompt: str | list[Any]
    """Text. In a jsonl file it may also be token ids or the messages of a chat. Empty if the row has an error."""
    target: str | None = None
    """The word that should follow, usually without a leading space."""
    group: str | None = None
    """The relation (known) or the template (longra) of the row. Rows of one group are not independent. None: the row is a group by
    itself."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """All other fields of the row, such as subject, template, relative and type."""
    error: str = ""
    """The reason why a line of a jsonl file is not a valid row. Such a row stays in the data set, so that no line is lost."""


@dataclass(frozen=True)
class Dataset:
    """Rows with their source and the rules of their evaluation."""

    name: str
    """The name that the user asks for. For a jsonl file: its name without the ending."""
    kind: Kind
    rows: tuple[Row, ...]
    sha256: str
    """The SHA-256 of the file's bytes, in hexadecimal."""
    source: str
    """The file's name without its folder, for display."""
    match: Match
    """The default rule that decides whether a row is answered."""
    generate: int | None
    """Explain this many tokens that the model generates. None: explain only the next token."""
    complete: bool
    """Whether the set has all published rows."""
