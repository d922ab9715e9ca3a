"""Draw docs/heatmap.svg, the picture in the README: python docs/picture.py."""

import io
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

import noiser
from noiser.views.terminal.attribution import heatmap

PROMPT = "The Eiffel Tower is located in the city of"
WEB_FONT = "@font-face {"


def main() -> None:
    """Explain one prompt and save what the terminal shows, without the web fonts that rich would link to."""
    console = Console(record=True, width=72, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(f'$ noiser attribute "{PROMPT}"', highlight=False)
    console.print(heatmap(noiser.attribute(noiser.load(), PROMPT)))
    drawn = console.export_svg(title="noiser", theme=MONOKAI)
    head, *fonts = drawn.split(WEB_FONT)
    kept = head + "".join(font[font.index("}") + 1 :] for font in fonts)
    Path(__file__).with_name("heatmap.svg").write_text(kept, encoding="utf-8")


if __name__ == "__main__":
    main()
