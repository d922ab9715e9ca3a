"""A figure shows what was computed: every token once a method, in boxes of its colour, within the page, and safe to open.

The oracle for most tests reads the SVG with xml.etree: where letters begin, and which rectangle lies behind them.
"""

import io
import re
import warnings
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from noiser.errors import OptionError
from noiser.results.attribution import Attribution, Comparison, Cost, Target
from noiser.text.prompt import Prompt, Turn
from noiser.views.figure import canvas as figure_fonts
from noiser.views.figure.canvas import MAX_PIXELS, Rectangle, Typeface, render
from noiser.views.figure.figure import BOX_HEIGHT, GREY, MIN_WIDTH, colour, figure, rule
from noiser.views.figure.layout import EDGE, INK, Piece, TextStyle, boxes, lay_out

TARGET = Target((5,), (" Paris",), 0.5, 0)
SVG = "{http://www.w3.org/2000/svg}"


def attribution(tokens, scores, method="noiser", targets=(TARGET,), special=None, turns=(), offsets=(), text=None):
    prompt = Prompt(text or "".join(tokens), tuple(range(len(tokens))), tuple(tokens), special or (False,) * len(tokens), offsets, turns)
    return Attribution(np.atleast_2d(scores), prompt, targets, method, {}, "m", "r", 0, Cost(1.0, 1, 1, 1))


def random_scores(tokens, seed):
    return np.random.default_rng(seed).standard_normal(len(tokens))


def compared(tokens, count, **kinds):
    each = [attribution(tokens, random_scores(tokens, seed), f"method_{seed}", **kinds) for seed in range(count)]
    return Comparison(tuple(each), {"lime": "it was refused"})


def drawn(svg):
    """The figure's texts as (x, y, text), and its rectangles as (left, top, right, bottom, fill), in the order of the file."""
    root = ElementTree.fromstring(svg)
    texts = []
    for each in root.iter(f"{SVG}text"):
        x, y = map(float, re.findall(r"[\d.]+", each.get("transform"))[:2])
        texts.append((x, y, each.text.replace("\u00a0", " ")))
    rectangles = []
    for path in root.iter(f"{SVG}path"):
        points = np.array(re.findall(r"-?[\d.]+", path.get("d")), dtype=float).reshape(-1, 2)
        rectangles.append((*points.min(0), *points.max(0), re.search("#.{6}", path.get("style"))[0]))
    return texts, rectangles


def behind(texts, rectangles):
    """The colour of the box in which each text begins; None where there is none."""
    high = [box for box in rectangles if abs(box[3] - box[1] - BOX_HEIGHT) < 1e-3]
    return [next((fill for left, top, right, bottom, fill in high if left <= x <= right and top < y < bottom), None) for x, y, _ in texts]


def expected(share):
    end = (255, 120, 0) if share >= 0 else (70, 150, 255)
    return "#" + "".join(f"{round(255 - abs(share) * 0.85 * (255 - channel)):02x}" for channel in end)


def near(one, other):
    return all(abs(int(one[n : n + 2], 16) - int(other[n : n + 2], 16)) <= 1 for n in (1, 3, 5))


WORDS = [" The", " tall", "est", " tower", " of", " Fr", "ance", " is", " in", " the", " city", " of"]


def test_every_token_is_there_once_a_method_in_order_on_a_box_of_its_colour():
    """Mutants: scores of the first method for all; the share of the sum instead of the largest; a sign lost."""
    result = compared(WORDS, 3)
    texts, rectangles = drawn(figure(result, "svg", width=3.5))
    fills = behind(texts, rectangles)
    boxed = [(text, fill) for (_, _, text), fill in zip(texts, fills, strict=True) if fill]
    assert [text for text, _ in boxed] == [word.strip() for word in WORDS] * 3
    shares = [each.scores[0] / np.abs(each.scores[0]).max() for each in result.attributions]
    for (_, fill), share in zip(boxed, np.concatenate(shares), strict=True):
        assert near(fill, expected(share))
    plain = [text for (_, _, text), fill in zip(texts, fills, strict=True) if not fill]
    for seed, each in enumerate(result.attributions):
        assert f"method_{seed}" in plain
        assert f"\u00b1{np.abs(each.scores).max():.3g}" in plain, "what the shares are shares of"
    assert plain.count("\u2192") == plain.count("Paris") == 3
    assert "no scores from lime" in " ".join(plain)


def test_colours_are_white_at_zero_and_text_is_read_on_all_of_them():
    """WCAG 2's contrast, computed here. Mutant: an ink of middle grey."""

    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one, other):
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    assert colour(0.0) == (1.0, 1.0, 1.0)
    assert min(contrast(INK, colour(share)) for share in np.linspace(-1, 1, 401).tolist()) >= 4.5
    assert contrast(GREY, (1.0, 1.0, 1.0)) >= 4.5
    assert contrast(rule(-1.0), colour(-1.0)) >= 3, "what tells the signs apart in grey"
    assert colour(1.0)[0] > colour(1.0)[2], "orange"
    assert colour(-1.0)[0] < colour(-1.0)[2], "blue"


def test_what_opposes_has_a_line_under_it_and_what_supports_has_none():
    """Mutant: the line under every box."""
    texts, rectangles = drawn(figure(attribution([" a", " b", " c"], [1.0, -0.5, 0.0]), "svg"))
    where = {text: (x, y) for x, y, text in texts}
    legend = where["opposes"][1] - 8
    lines = [(left, right) for left, top, right, bottom, _ in rectangles if bottom - top < 1 and bottom < legend]
    assert len(lines) == 1
    assert lines[0][0] <= where["b"][0] < lines[0][1] < where["c"][0]


def test_an_interval_that_holds_zero_has_dots_under_its_box_and_the_widest_stands_at_the_row():
    """Mutants: dots under every box; dots of a token that is 0 for certain; the narrowest interval."""
    plain = attribution([" a", " b", " c", " d"], [1.0, -0.05, 0.0, 0.3])
    result = replace(plain, stderr=np.array([[0.1, 0.1, 0.0, 0.01]]), dof=(9,))
    texts, rectangles = drawn(figure(result, "svg"))
    where = {text: (x, y) for x, y, text in texts}
    grey = [each for each in rectangles if each[4] == "#595959" and each[3] - each[1] < 1]
    assert len(grey) > 3
    assert all(where["b"][0] - EDGE - 0.1 <= left and right < where["c"][0] for left, _, right, _, _ in grey)
    assert "95 %: \u00b10.23" in where
    assert "dotted: an interval that holds 0" in " ".join(text for _, _, text in texts)
    others = drawn(figure(plain, "svg"))
    assert not any("95 %" in text for _, _, text in others[0])
    assert not any("95 %" in text for _, _, text in drawn(figure(result, "svg", normalization="abs_l1"))[0])


def overlap(rectangles):
    rectangles = sorted(rectangles)
    return max((one[2] - other[0] for one, other in pairwise(rectangles) if one[1] == other[1]), default=-1.0)


@pytest.mark.parametrize("width", [MIN_WIDTH, 3.4, 7.2])
def test_boxes_lie_side_by_side_within_the_page(width):
    """Mutant: boxes that reach into their neighbours."""
    tokens = WORDS * 4 + [" an" + "tidis" * 60, "establish", " ", "\n", "    if", " x"]
    svg = figure(attribution(tokens, random_scores(tokens, 0)), "svg", width=width)
    _, rectangles = drawn(svg)
    high = [box for box in rectangles if abs(box[3] - box[1] - BOX_HEIGHT) < 1e-3]
    assert len(high) > len(tokens), "one is cut, because no line holds it"
    assert max(box[2] for box in high) <= width * 72
    lines = {top: [box for box in high if box[1] == top] for _, top, *_ in high}
    assert len(lines) >= 5
    assert max(overlap(line) for line in lines.values()) <= 0


@pytest.mark.parametrize("width", range(50, 200, 7))
def test_a_line_ends_between_words_if_a_line_holds_the_word(width):
    """Mutants: a line that ends only when it is full; a token cut where it could have gone to the next line."""
    tokens = [Piece(word, TextStyle(10.0), (number,)) for number, word in enumerate(WORDS * 3)]
    placed = lay_out(tokens, float(width), lambda text, look: 0.5 * look.size * len(text))
    assert [put.lead + put.piece.text for put in placed] == WORDS * 3
    assert all(other.lead for one, other in pairwise(placed) if other.line > one.line)
    longer = [Piece(part, TextStyle(10.0), (0,)) for part in (" Donau", "dampf", "schiff")]
    placed = lay_out(longer, 50.0, lambda text, look: 0.5 * look.size * len(text))
    assert [(put.piece.text, put.line) for put in placed] == [("Donau", 0), ("dampf", 1), ("schiff", 2)]


labels = st.tuples(st.none() | st.integers(0, 5)) | st.just(())
parts = st.lists(st.tuples(st.text("ab \u4f60", max_size=30), labels, st.booleans(), st.booleans()), max_size=30)


@settings(max_examples=200, deadline=None)
@given(parts, st.floats(15, 200))
def test_whatever_is_set_is_set_whole_in_order_and_within_the_line(given_parts, width):
    """Mutants: the rest of a cut word lost; a break after the piece that ends a line forgotten."""
    given_pieces = [Piece(text, TextStyle(10.0), labels, *flags) for text, labels, *flags in given_parts]
    measure = lambda text, look: 0.5 * look.size * len(text)  # noqa: E731
    placed = lay_out(given_pieces, width, measure)
    assert "".join(put.piece.text for put in placed).replace(" ", "") == "".join(piece.text for piece in given_pieces).replace(" ", "")
    assert [put.line for put in placed] == sorted(put.line for put in placed)
    for put in placed:
        assert put.x + put.width <= width - EDGE + 1e-6 or len(put.piece.text) <= 1
    for one, other in pairwise(placed):
        assert other.line > one.line or other.x >= one.x + one.width - 1e-6
        assert other.line > one.line or not one.piece.ends_line
    found = boxes(placed)
    for one, other in pairwise(found):
        assert other.line > one.line or other.left >= one.right - 1e-6
        assert one.left <= one.right


def tree(svg):
    return [(each.tag, sorted(each.attrib)) for each in ElementTree.fromstring(svg).iter()]


HOSTILE = [
    "<script>alert(1)</script>",
    " $\\alpha$",
    " \u202eevil",
    "\n",
    "x\ty",
    ' "&amp;',
    " \U0001f600",
    "]]>",
    " <!--",
    " \x1b[31m\x00",
    " \ufffe",
]


def test_hostile_tokens_are_nothing_but_text():
    """The same tree as of harmless tokens. Mutants: a token drawn unescaped by `visible`; mathematics between dollars parsed."""
    harmless = ["abc", " def", " ghi", "\n", "jkl", " mno", " pqr", "stu", " vwx", " yz", " a"]
    names = "<b>m</b>", "model"
    svgs = []
    for tokens, name in zip((HOSTILE, harmless), names, strict=True):
        target = Target((1,), (tokens[0],), 0.5, 0, foil=Target((2,), (tokens[2],), 0.1, 1))
        svgs.append(figure(attribution(tokens, np.linspace(-1, 1, len(tokens)), name, (target,)), "svg", width=40.0))
    assert tree(svgs[0]) == tree(svgs[1])
    text = svgs[0].decode()
    assert "<script" not in text
    assert not any(c in text for c in "\u202e\x1b\x00\ufffe")
    texts = [each for _, _, each in drawn(svgs[0])[0]]
    assert "$\\alpha$" in texts
    assert "\\u202eevil" in texts
    assert "<script>alert(1)</script>" in texts
    assert "\U0001f600" in texts
    for form in ("png", "pdf"):
        assert figure(attribution(HOSTILE, [0.5] * len(HOSTILE)), form)


def test_nothing_is_said_on_the_way(capfd):
    """Of glyphs that no font has, or of fonts that are not there. Mutant: characters without a glyph left in a PNG."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in ("svg", "png", "pdf"):
            target = Target((5,), (" \u4f60\U0001f9ff",), 0.5, 0)
            figure(attribution([" \u4f60\u597d", " \U0001f9ff", " \u0e01\u0301"], [1.0, 0.5, -0.2], "\u4f60", (target,)), form)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def fonts(monkeypatch):
    def only(*names):
        monkeypatch.setattr(figure_fonts, "FALLBACKS", names)
        figure_fonts.installed.cache_clear()

    yield only
    monkeypatch.undo()
    figure_fonts.installed.cache_clear()


def test_characters_without_a_glyph_are_escaped_or_left_to_the_readers_fonts(fonts):
    """STIXGeneral comes with matplotlib and has U+23B7, say, that DejaVu Sans may lack. Mutant: fallbacks never asked."""
    fonts()
    look = TextStyle(9.0)
    assert Typeface(keep=False).drawable("a\u4f60\U0001f9ff", look) == "a\\u4f60\\U0001f9ff"
    assert Typeface(keep=True).drawable("a\u4f60", look) == "a\u4f60"
    assert Typeface(keep=True).width("\u4f60", look) == pytest.approx(9.0)
    from matplotlib.font_manager import findfont, get_font

    lacking = set(get_font(findfont("STIXGeneral")).get_charmap()) - set(get_font(findfont("DejaVu Sans")).get_charmap())
    character = chr(min(code for code in lacking if chr(code).isprintable() and code > 0x2000))
    assert Typeface(keep=False).drawable(character, look) != character
    fonts("No such font", "STIXGeneral")
    assert figure_fonts.installed() == ("STIXGeneral",)
    assert Typeface(keep=False).drawable(character, look) == character
    assert figure(attribution([character], [1.0]), "png")


@pytest.mark.parametrize(("form", "begins"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_the_same_result_gives_the_same_bytes(form, begins):
    """Mutant: the date left in a PDF."""
    first = figure(compared(WORDS, 2), form)
    figure(compared(WORDS[::-1], 1), form)
    assert first == figure(compared(WORDS, 2), form)
    assert first.startswith(begins)
    assert not re.search(rb"CreationDate|/Type3|<dc:date>", first), "no date, and no Type 3 fonts, which publishers refuse"


def test_a_png_is_as_wide_as_was_asked_for_and_white_where_nothing_is():
    """Mutants: another resolution; a transparent page; the boxes upside down on the page."""
    for width in (3.4, 7.2):
        picture = Image.open(io.BytesIO(figure(attribution(WORDS, [1.0] + [-0.1] * 11), "png", width=width)))
        assert picture.width == round(width * 300)
        assert np.asarray(picture.convert("RGBA"))[..., 3].min() == 255
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert tuple(pixels[-1]) == (255, 255, 255)
        assert (np.abs(pixels - np.array(colour(1.0)) * 255).max(-1) <= 1).sum() > 300, "the first token's box"
    upper, lower = np.array_split(np.asarray(picture.convert("RGB")).astype(int), 2)
    assert (upper[..., 0] - upper[..., 2] > 150).sum() > 3 * (lower[..., 0] - lower[..., 2] > 150).sum() / 4
    assert (upper.sum(-1) < 100).sum() > (lower.sum(-1) < 100).sum(), "the prompt's ink is above the legend's"


def test_a_png_that_is_long_is_coarser_and_one_that_is_too_long_is_refused():
    """Mutant: the same resolution at any height, which matplotlib refuses with a word about pixels."""
    page = [Rectangle(0.0, 0.0, 10.0, 10.0, (0.0, 0.0, 0.0))]
    long = Image.open(io.BytesIO(render(page, (36.0, 72.0 * 200), "png", Typeface(keep=False), "")))
    assert long.height <= MAX_PIXELS
    with pytest.raises(OptionError, match="take svg or pdf"):
        render(page, (36.0, 72.0 * 700), "png", Typeface(keep=False), "")
    assert render(page, (36.0, 72.0 * 700), "svg", Typeface(keep=True), "")


def test_a_target_is_shown_with_what_comes_before_it_and_nothing_later():
    """Mutants: the whole row for each target; the first row's colours for all."""
    targets = (Target((5,), (" in",), 0.5, 0, context=1), Target((6,), ("\n",), 0.25, 3, context=2))
    each = attribution([" is", " in"], [[1.0, 0.0], [-0.5, 0.25]], targets=targets)
    texts, rectangles = drawn(figure(each, "svg"))
    boxed = [(text, fill) for (_, _, text), fill in zip(texts, behind(texts, rectangles), strict=True) if fill]
    assert [text for text, _ in boxed] == ["is", "is", "in"]
    assert [fill for _, fill in boxed] == [expected(1), expected(-1), expected(0.5)]
    said = " ".join(text for _, _, text in texts)
    assert re.search(
        r"Why ' in' \? p = 0.500.* is \u2192 in Why '\u23ce' \? p = 0.250, choice number 4.* is in \u2192 \u23ce ", re.sub(" +", " ", said)
    )


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (Target((5,), (" Paris",), 0.7, 0, value=0.6, foil=Target((6,), (" London",), 0.1, 1)), "Paris , not London"),
        (Target((), (), 0.0, 0, "function entropy", 2.5), "function entropy"),
        (Target((5,), ("  ",), 0.7, 0), "\u2423\u2423"),
        (Target((5, 6), (" New", " York"), 0.7, 0, "log_prob", -0.3), "New York"),
    ],
)
def test_what_was_predicted_stands_behind_the_arrow(target, shown):
    texts, _ = drawn(figure(attribution([" a"], [1.0], targets=(target,)), "svg"))
    words = [text for _, _, text in texts]
    after = words[words.index("\u2192") + 1 :]
    assert " ".join(after).startswith(shown + " ")


def test_tokens_of_one_unit_share_a_box_of_their_sum():
    """Mutants: a box for each token; the token's own score; a box behind what belongs to no unit."""
    tokens = ["<s>", "user", " Tell", " me", "\n", " now", "</s>"]
    turns = (Turn("user", (2, 3, 4, 5)),)
    special = (True, False, False, False, False, False, True)
    each = attribution(tokens, [9.0, 9.0, -0.1, -0.2, 0.1, 0.1, 9.0], special=special, turns=turns)
    svg = figure(each, "svg", by="turn")
    texts, rectangles = drawn(svg)
    fills = {text: fill for (_, _, text), fill in zip(texts, behind(texts, rectangles), strict=True)}
    assert {fills[token] for token in ("Tell", "me", "\u23ce", "now")} == {expected(-1)}
    assert {fills[token] for token in ("<s>", "user", "</s>", "Paris")} == {None}
    assert sum(abs(box[3] - box[1] - BOX_HEIGHT) < 1e-3 for box in rectangles) == 2, "one on each line"
    assert "summed over each turn" in svg.decode()
    styles = {each.text: each.get("style") for each in ElementTree.fromstring(svg).iter(f"{SVG}text")}
    assert "italic" in styles["<s>"]
    assert "italic" not in styles["user"]
    assert "font-weight: 700" in styles["Paris"]
    where = {text: (x, y) for x, y, text in texts}
    assert where["now"][1] > where["\u23ce"][1], "a newline ends the line"


def test_the_bytes_of_one_character_share_its_box():
    """Each keeps its own colour. Mutant: the later bytes' scores dropped."""
    text, tokens = "a \u20ac", ["a", "<0x20><0xE2>", "<0x82>", "<0xAC>"]
    each = attribution(tokens, [0.0, 1.0, -0.5, 0.25], text=text, offsets=((0, 1), (1, 3), (2, 3), (2, 3)))
    texts, rectangles = drawn(figure(each, "svg"))
    assert [text for _, _, text in texts if text in "a\u20ac"] == ["a", "\u20ac"]
    high = sorted(box for box in rectangles if abs(box[3] - box[1] - BOX_HEIGHT) < 1e-3)
    assert [box[4] for box in high] == [expected(share) for share in (0, 1, -0.5, 0.25)]
    left = next(x for x, _, text in texts if text == "\u20ac")
    assert high[1][0] < left < high[1][2]
    assert all(one[2] == pytest.approx(other[0]) for one, other in pairwise(high[1:]))


def test_a_normalization_is_applied_and_named():
    each = attribution([" a", " b"], [0.75, -0.5])
    svg = figure(each, "svg", normalization="clip_l1")
    texts, rectangles = drawn(svg)
    fills = {text: fill for (_, _, text), fill in zip(texts, behind(texts, rectangles), strict=True)}
    assert fills["b"] == expected(0)
    assert "after clip_l1" in svg.decode()
    assert "\u00b11" in fills


def test_what_cannot_be_drawn_is_refused_by_name():
    each = attribution([" a"], [1.0])
    for wrong, message in [
        ({"width": 0.5}, "2 to 48 inches"),
        ({"normalization": "l7"}, "no normalization"),
        ({"by": "verse"}, "units are"),
    ]:
        with pytest.raises(OptionError, match=message):
            figure(each, "svg", **wrong)


def test_spaces_inside_a_token_are_kept_where_a_viewer_would_make_them_one():
    """Mutant: plain spaces, which an SVG's reader collapses."""
    svg = figure(attribution(["\n", "    ", " x =  1"], [1.0, 0.5, 0.2]), "svg").decode()
    assert ">x =\u00a0\u00a01<" in svg


def test_no_mass_is_no_colour_and_a_long_name_is_broken():
    texts, rectangles = drawn(figure(attribution([" a"], [0.0], "sequential_integrated_gradients"), "svg"))
    assert expected(0) in behind(texts, rectangles)
    words = [text for _, _, text in texts]
    assert "sequential_integrated_gradients" not in words
    assert "sequential_integrated_gradients" in "".join(words)
