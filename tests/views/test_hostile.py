"""Whatever a prompt, model, target or option says stays text, in every medium.

In each medium the hostile result is shown beside a harmless one of the same shape, and what a parser makes of both has to be the
same tree; that such a string does break the tree where it is not escaped is shown first.
"""

import io
import json
import re
import unicodedata
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from noiser.views.figure.figure import figure
from noiser.views.terminal.attribution import heatmap
from noiser.views.terminal.comparison import render_comparison
from noiser.views.viewer.data import view
from noiser.views.viewer.page import in_script, page
from tests.browser import browser, needs_chromium, tab  # noqa: F401  (a fixture)
from tests.hostile import HOSTILE
from tests.shown_results import made

INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def everywhere(text):
    """The text as a token, target, foil, model, revision, option, note, warning and failure."""
    return made(("The", text, " sat", " on", text), text, text, text)


def harmless(text):
    """The same with a word in its place; a line break stays, it is meant to break the line."""
    return everywhere("word\n" if "\n" in text else "word")


class Tree(HTMLParser):
    """Tags and the names of their attributes, in order."""

    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, [name for name, _ in attrs]))

    def handle_endtag(self, tag):
        self.seen.append(tag)

    def handle_comment(self, data):
        self.seen.append("comment")


def test_unescaped_they_do_break_a_page():
    broken = [text for text in HOSTILE if Tree(f"<p title='{text}'>{text}</p>").seen != Tree("<p title='word'>word</p>").seen]
    assert len(broken) >= 20


@pytest.mark.parametrize("text", HOSTILE)
def test_a_page_is_the_same_tree_and_its_data_come_back(text):
    """Mutants: json.dumps without in_script's replacements; the template filled by one replace after the other ({script})."""
    hostile = page([view(everywhere(text))], text)
    assert Tree(hostile).seen == Tree(page([view(harmless(text))], "word")).seen
    data = hostile.split('class="noiser-data">', 1)[1].split("</script>", 1)[0]
    (back,) = json.loads(data)
    assert back["model"] == text
    assert back["prompt"]["tokens"][1] == text
    assert not any(unicodedata.category(character) in INVISIBLE for character in back["title"] + "".join(back["labels"]))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_frame_in_a_notebook_is_one_element(text):
    assert Tree(everywhere(text)._repr_html_()).seen == Tree(harmless(text)._repr_html_()).seen
    assert len(Tree(everywhere(text)._repr_html_()).seen) == 2


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_gets_nothing_but_colours(text):
    """Mutant: labels without visible()."""
    for shown in (render_comparison(everywhere(text)), heatmap(everywhere(text).attributions[0])):
        console = Console(file=io.StringIO(), width=200, color_system=None, legacy_windows=False)
        console.print(shown)
        printed = console.file.getvalue()
        assert {c for c in printed if unicodedata.category(c) in INVISIBLE} <= {"\n"}
        plain = "".join(printed.split())
        if text.isprintable():
            assert "".join(text.split()) in plain, "rich took it for markup"


def test_a_terminal_shows_markup_as_often_as_other_text():
    """Mutant: a label in a table as a str instead of a Text: rich reads its [markup]."""
    counts = []
    for text in ("[bold red]rich[/bold red]", "(bold red)rich(/bold red)"):
        console = Console(file=io.StringIO(), width=200, color_system=None, legacy_windows=False)
        console.print(render_comparison(everywhere(text)))
        counts.append(console.file.getvalue().count(text))
    assert counts[0] == counts[1] > 4


@pytest.mark.parametrize("text", HOSTILE[::4])
def test_a_figure_is_the_same_tree(text):
    def shape(svg):
        return [element.tag for element in ElementTree.fromstring(svg).iter()]

    hostile, plain = (figure(each, "svg") for each in (everywhere(text), everywhere("w" * len(text.strip()))))
    assert set(shape(hostile)) <= set(shape(plain)), "an element of a kind that a figure does not have"
    assert "script" not in "".join(shape(hostile))


def test_a_script_element_cannot_be_ended_from_inside():
    for text in HOSTILE:
        inside = in_script([text])
        assert not set(inside) & set("<>&\u2028\u2029")
        assert json.loads(inside) == [text]


@needs_chromium
def test_in_a_browser_nothing_runs_and_trees_and_copies_are_those_of_harmless_text(browser, tmp_path):  # noqa: F811
    """All sixty in one page, chosen one after the other: the same elements, a Markdown table of the same cells, no LaTeX command
    that the harmless text lacks. Mutant: innerHTML instead of textContent for a token's label."""
    file = tmp_path / "page.html"
    file.write_text(page([view(harmless("word")), *(view(everywhere(text)) for text in HOSTILE)], "hostile"), encoding="utf-8")
    with tab(browser, file) as opened:
        opened.evaluate("navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }")
        seen = []
        for number in range(1 + len(HOSTILE)):
            opened.locator("select").first.select_option(index=number)
            seen.append((opened.evaluate(SHAPE), *(copied(opened, name) for name in ("Markdown", "LaTeX"))))
    tree, markdown, latex = seen[0]
    assert len(tree) > 50
    for text, (own_tree, own_markdown, own_latex) in zip(HOSTILE, seen[1:], strict=True):
        assert own_tree == tree, text
        assert markdown_shape(own_markdown) == markdown_shape(markdown), text
        assert commands(own_latex) - commands(latex) <= {"allowbreak", "ldots", "par"}, text


SHAPE = "() => [...document.querySelectorAll('.noiser *')].map((e) => e.tagName + ' ' + e.getAttributeNames().sort())"


def copied(opened, name):
    """What the copy button of that name gives."""
    opened.get_by_role("button", name=name).first.click()
    return opened.evaluate("window.copied")


def markdown_shape(text):
    """What a Markdown reader makes of it, apart from the words."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    return [(token.type, [child.type for child in token.children or ()]) for token in tokens]


LETTERS = {"textbackslash", "textasciitilde", "textasciicircum", "textbar", "textless", "textgreater", "textquotedbl", "textasciigrave"}


def commands(text):
    """The commands in a LaTeX text but those that stand for a character; its braces are balanced, and nothing special is bare."""
    bare = re.sub(r"\\[^a-zA-Z]", "", text)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"[&#_^~$]", re.sub(r"%.*", "", re.sub(r"\[HTML\]\{\w+\}", "", bare)))
    return set(re.findall(r"\\([a-zA-Z]+)", text)) - LETTERS
