"""Rows and data sets: prompts, the words that should follow them, and their sources."""

from collections.abc import Mapping, Sequence
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
    prompt: str | list[Any] | Mapping[str, Any]
    """Text. In a file of your own it may also be token ids or the messages of a chat, or a mapping of one of these with its sources:
    `prompt`, and `spans` or `documents`. Empty if the row has an error."""
    target: str | None = None
    """The word that should follow, usually without a leading space."""
    group: str | None = None
    """The relation (known) or the template (longra) of the row. Rows of one group are not independent. None: the row is a group by
    itself."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """All other fields of the row, such as subject, template, relative and type."""
    error: str = ""
    """The reason why a line of a file of your own is not a valid row. Such a row stays in the data set, so that no line is lost."""
    target_ids: tuple[int, ...] = ()
    """The target as token ids, if the file says it as ids. Then `target` is None."""


@dataclass(frozen=True)
class Dataset:
    """Rows with their source and the rules of their evaluation."""

    name: str
    """The name that the user asks for. For a file of your own: its name without the ending."""
    kind: Kind
    """`jsonl` stands for every file of your own, whatever its format."""
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
    remarks: tuple[str, ...] = ()
    """Sentences that say how a file of your own was read, one for each layout that was recognised."""

    @property
    def unreadable(self) -> list[Row]:
        """The rows with an error."""
        return [row for row in self.rows if row.error]


def unreadable_lines(source: str, errors: Sequence[str], rows: int, shown: int = 3) -> list[str]:
    """The first few reasons why rows of `source` cannot be read, with counts: one sentence a line. Empty without errors."""
    if not errors:
        return []
    more = [f"... and {len(errors) - shown:,} more"] if len(errors) > shown else []
    return [
        f"{source}: {len(errors):,} of {rows:,} rows cannot be read",
        *(f"  {error}" for error in errors[:shown]),
        *(f"  {each}" for each in more),
    ]
