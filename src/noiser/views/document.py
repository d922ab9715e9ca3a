"""A report as plain parts: sections of sentences, tables and figures. What medium it is shown in is another room's business."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Form = Literal["svg", "png"]


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """Sentences to stand under it."""


@dataclass(frozen=True, eq=False)
class Figure:
    """A plot, drawn when it is asked for."""

    name: str
    """A file's name without its ending."""
    caption: str
    draw: Callable[[Form], bytes]


@dataclass(frozen=True, eq=False)
class Section:
    """A title and what stands under it, in this order."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    views: tuple[Mapping[str, Any], ...] = ()
    """Samples for the viewer (`noiser.views.viewer.data.view`): only a page can show them."""


@dataclass(frozen=True, eq=False)
class Document:
    """All of it."""

    title: str
    sections: tuple[Section, ...]

    @property
    def figures(self) -> list[Figure]:
        """Of all sections."""
        return [figure for section in self.sections for figure in section.figures]
