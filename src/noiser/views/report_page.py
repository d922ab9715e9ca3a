"""A document as one HTML file that needs no network."""

import base64
from html import escape

from noiser.views.document import Document, Figure, Section, Table
from noiser.views.escape import visible
from noiser.views.viewer import digest, in_script, page_parts

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


def page(document: Document) -> str:
    """The document, its plots inside it. A policy in its head forbids every request, and every script but the viewer's own, which is
    there where a section has samples to show."""
    body = "\n".join(map(_section, document.sections))
    parts = page_parts() if any(section.views for section in document.sections) else None
    css = parts.css if parts else ""
    scripts = f"script-src '{digest(parts.js)}'; " if parts else ""
    end = f"<script>{parts.js}</script>\n" if parts else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY.format(scripts=scripts)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(document.title)}</title>\n<style>{css}{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{text(document.title)}</h1>\n{body}\n{end}</body>\n</html>\n"
    )


def text(given: str) -> str:
    """Escaped for text and attributes."""
    return escape(visible(given), quote=True)


def _section(section: Section) -> str:
    parts = [f"<h2>{text(section.title)}</h2>", *(f"<p>{text(each)}</p>" for each in section.paragraphs)]
    return "\n".join([*parts, *map(_table, section.tables), *map(_figure, section.figures), *_views(section)])


def _views(section: Section) -> list[str]:
    return [f'<script type="application/json" class="noiser-data">{in_script(section.views)}</script>'] if section.views else []


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{text(each)}</th>' for each in table.columns)
    rows = "\n".join(
        f'<tr><th scope="row">{text(row[0])}</th>{"".join(f"<td>{text(each)}</td>" for each in row[1:])}</tr>' for row in table.rows
    )
    notes = "".join(f'<p class="note">{text(each)}</p>' for each in table.notes)
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{text(table.title)}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>\n{notes}"
    )


def _figure(figure: Figure) -> str:
    data = base64.b64encode(figure.draw("svg")).decode()
    said = text(figure.caption)
    return f'<figure><img alt="{said}" src="data:image/svg+xml;base64,{data}"><figcaption>{said}</figcaption></figure>'
