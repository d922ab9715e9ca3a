"""Sources in a terminal: a list with bars and shares, the best one opened down to its words; or each statement with its best sources."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from noiser.results.attribution import Attribution
from noiser.text.prompt import Prompt
from noiser.views.citations import excerpt
from noiser.views.labels import format_score, visible
from noiser.views.palette import bar, blend
from noiser.views.sources import SourcePart, Statement, has_sources, has_tree, read_sources

SHORT = 400
"""Tokens up to which a prompt is printed in colour as well."""
MAX_SOURCES, MAX_PARTS, MAX_STATEMENTS, MAX_BEST = 10, 5, 12, 3
"""Sources in a list, parts of an opened part, statements of an answer, and sources of each."""
LABEL = 56
"""Characters of a part's name."""
WHOLE = "\u25e6"
NOTE_WHOLE = f"{WHOLE} not refined: measured as a whole"
NOTE_ERROR = "\u00b1: standard error of the share from the method's own random draws"


def lists_sources(attribution: Attribution) -> bool:
    """Whether a terminal shows sources instead of a bar for each token: of `unit=auto`, and of a long prompt that has them."""
    return has_tree(attribution) or (has_sources(attribution) and len(attribution.prompt) > SHORT)


def render_sources(attributions: Sequence[Attribution]) -> RenderableType:
    """What an answer to one prompt rests on: of a single statement all sources, of several each with its best sources.

    Raises OptionError if the attributions are of different prompts.
    """
    found = read_sources(attributions)
    if len(found.statements) == 1:
        return source_list(found.statements[0])
    return Group(*_limited(found.statements, found.prompt))


def source_list(statement: Statement) -> RenderableType:
    """The sources, the largest score first, the best one opened down to its words: about 30 lines. What is left out is counted."""
    largest = max((abs(part.score) for part in statement.sources), default=0.0) or 1.0
    table = _table()
    for part, depth, more in _rows(statement.strongest(), 0, MAX_SOURCES):
        _add(table, part, depth, largest, more)
    notes = [NOTE_WHOLE] if any(map(_has_whole, statement.sources)) else []
    notes += [NOTE_ERROR] if any(part.share_stderr is not None for part in statement.sources) else []
    rest = [f"in no source: {format_score(statement.rest)}"] if statement.rest else []
    return Group(table, *(Text(note, style="dim") for note in [*rest, "; ".join(notes)] if note))


def statement_sources(statement: Statement, number: int, prompt: Prompt) -> RenderableType:
    """A statement with its number, and its best sources, each with the text in it that speaks for it most."""
    table = _table()
    largest = max((abs(part.score) for part in statement.sources), default=0.0) or 1.0
    for part in statement.strongest(MAX_BEST):
        _add(table, part, 1, largest, 0)
        table.add_row("", "", "", Text(f'    "{visible(excerpt(part, prompt, 100))}"', style="dim"))
    left = len(statement.sources) - MAX_BEST
    more = [Text(f"  {left} more sources", style="dim")] if left > 0 else []
    return Group(Text.assemble((f"{number}. ", "dim"), (visible(statement.text.strip()), "bold")), table, *more, Text())


def format_share(part: SourcePart) -> str:
    """The share in per cent with its sign, and its standard error: `45.2 % \u00b1 1.3`."""
    sign = "-" if part.score < 0 else ""
    error = "" if part.share_stderr is None else f" \u00b1 {100 * part.share_stderr:.1f}"
    return f"{sign}{100 * part.share:.1f} %{error}"


def _limited(statements: Sequence[Statement], prompt: Prompt) -> Iterator[RenderableType]:
    for number, statement in enumerate(statements[:MAX_STATEMENTS], 1):
        yield statement_sources(statement, number, prompt)
    if len(statements) > MAX_STATEMENTS:
        yield Text(f"{len(statements) - MAX_STATEMENTS} more statements", style="dim")


def _rows(parts: Sequence[SourcePart], depth: int, most: int) -> Iterator[tuple[SourcePart | None, int, int]]:
    """The first parts, the best of them opened; then how many are left out: (None, depth, number)."""
    for place, part in enumerate(parts[:most]):
        yield part, depth, 0
        if place == 0 and part.parts and part.level != "word":
            yield from _rows(sorted(part.parts, key=lambda each: -abs(each.score)), depth + 1, MAX_PARTS)
    if len(parts) > most:
        yield None, depth, len(parts) - most


def _table() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(width=12)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _add(table: Table, part: SourcePart | None, depth: int, largest: float, more: int) -> None:
    if part is None:
        table.add_row("", "", "", Text(f"{'  ' * depth}{more} more", style="dim"))
        return
    share = part.score / largest
    name = " ".join(visible(" ".join(part.name.split())).split()) or "\u00b7"
    label = name if len(name) <= LABEL else name[: LABEL - 1] + "\u2026"
    shown = Text.assemble("  " * depth, (label, "bold" if depth == 0 else ""), (f" {WHOLE}" if part.whole else "", "dim"))
    length = Text(bar(max(-1.0, min(1.0, share)), 12), style=Style(color=blend(share)))
    table.add_row(length, format_share(part), Text(format_score(part.score), style="dim"), shown)


def _has_whole(part: SourcePart) -> bool:
    return part.whole or any(map(_has_whole, part.parts))
