"""A document as Markdown."""

import re
from collections.abc import Iterator

from noiser.views.document import Document, Section, Table
from noiser.views.escape import visible


def markdown(document: Document, figures: str | None) -> str:
    """The document; its plots are looked for as SVG in the folder `figures`, relative to it. None: it goes without."""
    lines = [f"# {text(document.title)}"]
    for section in document.sections:
        lines += ["", f"## {text(section.title)}", *_section(section, figures)]
    return "\n".join(lines) + "\n"


def text(given: str) -> str:
    """Escaped: nothing in it is markup, HTML or a table's border."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", visible(given))


def _section(section: Section, figures: str | None) -> Iterator[str]:
    for paragraph in section.paragraphs:
        yield from ("", text(paragraph))
    for table in section.tables:
        yield from ("", f"### {text(table.title)}", "", *_table(table))
    for figure in section.figures if figures is not None else ():
        yield from ("", f"![{text(figure.caption)}]({figures}/{figure.name}.svg)", "", text(figure.caption))


def _table(table: Table) -> Iterator[str]:
    yield "| " + " | ".join(map(text, table.columns)) + " |"
    yield "|" + "|".join("---" if place == 0 else "---:" for place in range(len(table.columns))) + "|"
    for row in table.rows:
        yield "| " + " | ".join(map(text, row)) + " |"
    for note in table.notes:
        yield from ("", text(note))
