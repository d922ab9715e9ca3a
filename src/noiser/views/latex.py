"""A document as LaTeX: sections with booktabs tables, to be put into a paper with \\input."""

from collections.abc import Iterator

from noiser.views.document import Document, Section, Table
from noiser.views.escape import visible

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "\u2191": r"$\uparrow$", "\u2193": r"$\downarrow$", "\u2020": r"\textdagger{}",
}  # fmt: skip


def latex(document: Document, figures: str | None) -> str:
    """The document's body: it needs the packages booktabs, graphicx and, for \\textquotedbl, fontenc with T1. Plots are looked
    for as PNG in the folder `figures`. None: it goes without."""
    lines = [f"% {text(document.title)}", r"% \usepackage[T1]{fontenc} \usepackage{booktabs} \usepackage{graphicx}"]
    for section in document.sections:
        lines += ["", rf"\section{{{text(section.title)}}}", *_section(section, figures)]
    return "\n".join(lines) + "\n"


def text(given: str) -> str:
    """Escaped: no command, no comment, no mathematics, whatever it holds."""
    return "".join(SPECIAL.get(character, character) for character in visible(given))


def _section(section: Section, figures: str | None) -> Iterator[str]:
    for paragraph in section.paragraphs:
        yield from ("", text(paragraph))
    for table in section.tables:
        yield from ("", *_table(table))
    for figure in section.figures if figures is not None else ():
        picture = rf"\includegraphics[width=\linewidth]{{{figures}/{figure.name}.png}}"
        yield from ("", r"\begin{figure}", r"\centering", picture, rf"\caption{{{text(figure.caption)}}}", r"\end{figure}")


def _table(table: Table) -> Iterator[str]:
    yield from (r"\begin{table}", r"\centering", r"\small", rf"\caption{{{text(table.title)}}}")
    yield rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}"
    yield from (r"\toprule", " & ".join(map(text, table.columns)) + r" \\", r"\midrule")
    for row in table.rows:
        yield " & ".join(map(text, row)) + r" \\"
    yield from (r"\bottomrule", r"\end{tabular}")
    for note in table.notes:
        yield rf"\par\smallskip {{\footnotesize {text(note)}}}"
    yield r"\end{table}"
