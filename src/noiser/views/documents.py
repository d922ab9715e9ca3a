"""A report as plain parts: sections of sentences, tables and figures. What medium it is shown in is another room's business."""

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from noiser.views.escape import visible
from noiser.views.viewer import digest, in_script, page_parts

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


def to_markdown(document: Document, figures: str | None) -> str:
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


SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "\u2191": r"$\uparrow$", "\u2193": r"$\downarrow$", "\u2020": r"\textdagger{}",
}  # fmt: skip


def to_latex(document: Document, figures: str | None) -> str:
    """The document's body: it needs the packages booktabs, graphicx and, for \\textquotedbl, fontenc with T1. Plots are looked
    for as PNG in the folder `figures`. None: it goes without."""
    lines = [f"% {latex_text(document.title)}", r"% \usepackage[T1]{fontenc} \usepackage{booktabs} \usepackage{graphicx}"]
    for section in document.sections:
        lines += ["", rf"\section{{{latex_text(section.title)}}}", *_latex_section(section, figures)]
    return "\n".join(lines) + "\n"


def latex_text(given: str) -> str:
    """Escaped: no command, no comment, no mathematics, whatever it holds."""
    return "".join(SPECIAL.get(character, character) for character in visible(given))


def _latex_section(section: Section, figures: str | None) -> Iterator[str]:
    for paragraph in section.paragraphs:
        yield from ("", latex_text(paragraph))
    for table in section.tables:
        yield from ("", *_latex_table(table))
    for figure in section.figures if figures is not None else ():
        picture = rf"\includegraphics[width=\linewidth]{{{figures}/{figure.name}.png}}"
        yield from ("", r"\begin{figure}", r"\centering", picture, rf"\caption{{{latex_text(figure.caption)}}}", r"\end{figure}")


def _latex_table(table: Table) -> Iterator[str]:
    yield from (r"\begin{table}", r"\centering", r"\small", rf"\caption{{{latex_text(table.title)}}}")
    yield rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}"
    yield from (r"\toprule", " & ".join(map(latex_text, table.columns)) + r" \\", r"\midrule")
    for row in table.rows:
        yield " & ".join(map(latex_text, row)) + r" \\"
    yield from (r"\bottomrule", r"\end{tabular}")
    for note in table.notes:
        yield rf"\par\smallskip {{\footnotesize {latex_text(note)}}}"
    yield r"\end{table}"


POLICY = "default-src 'none'; {scripts}img-src data: blob:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: #8882; --quiet: GrayText; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding: .75rem 0 .25rem; }
th, td { padding: .2rem .75rem .2rem 0; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 1px solid var(--line); vertical-align: bottom; white-space: normal; }
tbody tr:nth-child(even) { background: var(--faint); }
.note { font-size: .85rem; color: var(--quiet); margin: .25rem 0; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; background: white; } figcaption { font-size: .85rem; color: var(--quiet); }
"""


def to_html(document: Document) -> str:
    """The document, its plots inside it. A policy in its head forbids every request, and every script but the viewer's own, which is
    there where a section has samples to show."""
    body = "\n".join(map(_report_page_section, document.sections))
    parts = page_parts() if any(section.views for section in document.sections) else None
    css = parts.css if parts else ""
    scripts = f"script-src '{digest(parts.js)}'; " if parts else ""
    end = f"<script>{parts.js}</script>\n" if parts else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY.format(scripts=scripts)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{report_page_text(document.title)}</title>\n<style>{css}{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{report_page_text(document.title)}</h1>\n{body}\n{end}</body>\n</html>\n"
    )


def report_page_text(given: str) -> str:
    """Escaped for report_page_text and attributes."""
    return escape(visible(given), quote=True)


def _report_page_section(section: Section) -> str:
    parts = [f"<h2>{report_page_text(section.title)}</h2>", *(f"<p>{report_page_text(each)}</p>" for each in section.paragraphs)]
    return "\n".join([*parts, *map(_report_page_table, section.tables), *map(_figure, section.figures), *_views(section)])


def _views(section: Section) -> list[str]:
    return [f'<script type="application/json" class="noiser-data">{in_script(section.views)}</script>'] if section.views else []


def _report_page_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{report_page_text(each)}</th>' for each in table.columns)
    rows = "\n".join(
        f'<tr><th scope="row">{report_page_text(row[0])}</th>{"".join(f"<td>{report_page_text(each)}</td>" for each in row[1:])}</tr>'
        for row in table.rows
    )
    notes = "".join(f'<p class="note">{report_page_text(each)}</p>' for each in table.notes)
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{report_page_text(table.title)}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>\n{notes}"
    )


def _figure(figure: Figure) -> str:
    data = base64.b64encode(figure.draw("svg")).decode()
    said = report_page_text(figure.caption)
    return f'<figure><img alt="{said}" src="data:image/svg+xml;base64,{data}"><figcaption>{said}</figcaption></figure>'
