"""A report as plain parts (sections of sentences, tables and figures), and how it becomes Markdown, LaTeX or HTML."""

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from noiser.views.labels import visible
from noiser.views.viewer.page import digest, in_script, page_parts

Form = Literal["svg", "png"]


@dataclass(frozen=True)
class Table:
    """Texts in rows and columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """Sentences that stand below the table."""


@dataclass(frozen=True, eq=False)
class Figure:
    """A plot. It is drawn when it is needed."""

    name: str
    """The file's name without its ending."""
    caption: str
    draw: Callable[[Form], bytes]


@dataclass(frozen=True, eq=False)
class Section:
    """A title and what follows it: paragraphs, tables, figures and samples, in this order."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    views: tuple[Mapping[str, Any], ...] = ()
    """Samples for the viewer (`noiser.views.viewer.data.view`). Only HTML shows them."""


@dataclass(frozen=True, eq=False)
class Document:
    """A whole report."""

    title: str
    sections: tuple[Section, ...]

    @property
    def figures(self) -> list[Figure]:
        """The figures of all sections."""
        return [figure for section in self.sections for figure in section.figures]


def to_markdown(document: Document, figures: str | None) -> str:
    """The document as Markdown. It links to its plots as SVG files in the folder `figures`; None: it has no plots."""
    lines = [f"# {escape_markdown(document.title)}"]
    for section in document.sections:
        lines += ["", f"## {escape_markdown(section.title)}", *_markdown_section(section, figures)]
    return "\n".join(lines) + "\n"


def escape_markdown(text: str) -> str:
    """The text with everything escaped that Markdown or HTML would read as markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~!&])", r"\\\1", visible(text))


def _markdown_section(section: Section, figures: str | None) -> Iterator[str]:
    for paragraph in section.paragraphs:
        yield from ("", escape_markdown(paragraph))
    for table in section.tables:
        yield from ("", f"### {escape_markdown(table.title)}", "", *_markdown_table(table))
    for figure in section.figures if figures is not None else ():
        caption = escape_markdown(figure.caption)
        yield from ("", f"![{caption}]({figures}/{figure.name}.svg)", "", caption)


def _markdown_table(table: Table) -> Iterator[str]:
    yield "| " + " | ".join(map(escape_markdown, table.columns)) + " |"
    yield "|" + "|".join("---" if index == 0 else "---:" for index in range(len(table.columns))) + "|"
    for row in table.rows:
        yield "| " + " | ".join(map(escape_markdown, row)) + " |"
    for note in table.notes:
        yield from ("", escape_markdown(note))


LATEX_ESCAPES = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "\u2191": r"$\uparrow$", "\u2193": r"$\downarrow$", "\u2020": r"\textdagger{}",
}  # fmt: skip


def to_latex(document: Document, figures: str | None) -> str:
    """The document as a LaTeX body, with its plots as PNG files in the folder `figures`; None: it has no plots.

    The body needs the packages booktabs, graphicx, and fontenc with T1 (for \\textquotedbl).
    """
    lines = [f"% {escape_latex(document.title)}", r"% \usepackage[T1]{fontenc} \usepackage{booktabs} \usepackage{graphicx}"]
    for section in document.sections:
        lines += ["", rf"\section{{{escape_latex(section.title)}}}", *_latex_section(section, figures)]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """The text with everything escaped that LaTeX would read as a command, a comment or mathematics."""
    return "".join(LATEX_ESCAPES.get(character, character) for character in visible(text))


def _latex_section(section: Section, figures: str | None) -> Iterator[str]:
    for paragraph in section.paragraphs:
        yield from ("", escape_latex(paragraph))
    for table in section.tables:
        yield from ("", *_latex_table(table))
    for figure in section.figures if figures is not None else ():
        image = rf"\includegraphics[width=\linewidth]{{{figures}/{figure.name}.png}}"
        yield from ("", r"\begin{figure}", r"\centering", image, rf"\caption{{{escape_latex(figure.caption)}}}", r"\end{figure}")


def _latex_table(table: Table) -> Iterator[str]:
    yield from (r"\begin{table}", r"\centering", r"\small", rf"\caption{{{escape_latex(table.title)}}}")
    yield rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}"
    yield from (r"\toprule", " & ".join(map(escape_latex, table.columns)) + r" \\", r"\midrule")
    for row in table.rows:
        yield " & ".join(map(escape_latex, row)) + r" \\"
    yield from (r"\bottomrule", r"\end{tabular}")
    for note in table.notes:
        yield rf"\par\smallskip {{\footnotesize {escape_latex(note)}}}"
    yield r"\end{table}"


HTML_POLICY = "default-src 'none'; {scripts}img-src data: blob:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
HTML_STYLE = """
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
    """The document as one HTML file with its plots inside.

    A policy in its head forbids every request, and every script but the viewer's. The viewer is included only if a section has
    samples for it.
    """
    body = "\n".join(map(_html_section, document.sections))
    parts = page_parts() if any(section.views for section in document.sections) else None
    css = parts.css if parts else ""
    scripts = f"script-src '{digest(parts.js)}'; " if parts else ""
    end = f"<script>{parts.js}</script>\n" if parts else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{HTML_POLICY.format(scripts=scripts)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape_html(document.title)}</title>\n<style>{css}{HTML_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape_html(document.title)}</h1>\n{body}\n{end}</body>\n</html>\n"
    )


def escape_html(text: str) -> str:
    """The text escaped for HTML text and attributes."""
    return escape(visible(text), quote=True)


def _html_section(section: Section) -> str:
    title = f"<h2>{escape_html(section.title)}</h2>"
    paragraphs = [f"<p>{escape_html(paragraph)}</p>" for paragraph in section.paragraphs]
    return "\n".join([title, *paragraphs, *map(_html_table, section.tables), *map(_html_figure, section.figures), *_html_samples(section)])


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape_html(column)}</th>' for column in table.columns)
    rows = "\n".join(map(_html_row, table.rows))
    notes = "".join(f'<p class="note">{escape_html(note)}</p>' for note in table.notes)
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{escape_html(table.title)}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>\n{notes}"
    )


def _html_row(row: tuple[str, ...]) -> str:
    cells = "".join(f"<td>{escape_html(cell)}</td>" for cell in row[1:])
    return f'<tr><th scope="row">{escape_html(row[0])}</th>{cells}</tr>'


def _html_figure(figure: Figure) -> str:
    data = base64.b64encode(figure.draw("svg")).decode()
    caption = escape_html(figure.caption)
    return f'<figure><img alt="{caption}" src="data:image/svg+xml;base64,{data}"><figcaption>{caption}</figcaption></figure>'


def _html_samples(section: Section) -> list[str]:
    return [f'<script type="application/json" class="noiser-data">{in_script(section.views)}</script>'] if section.views else []
