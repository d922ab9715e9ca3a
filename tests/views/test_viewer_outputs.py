"""What the viewer gives away is what was computed: JSON, Markdown, LaTeX, pictures, and the evidence's numbers.

Mutants caught are named at each test.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image
from scipy.stats import t

from noiser.results.attribution import Attribution, Comparison, Cost, Curve, Target
from noiser.text.prompt import Prompt, Turn
from noiser.views.viewer.data import view
from noiser.views.viewer.page import page as page_of
from noiser.views.viewer.page import to_frame
from tests.browser import browser, leaves, needs_chromium

__all__ = ["browser"]

pytestmark = needs_chromium

HARMLESS = ("alpha", " beta", " gamma", "delta", " eps", "zeta", " eta", "theta", "iota", " kappa")
HOSTILE = ("<script>", " alert(1)", " &amp;<b>", "|`*_", " ]]>", "$\\alpha$", " \u202eevil", "{%#^~}", "\x1b[31m", " \\\\|x")
KEPT_BY_PAGE = "navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); };"
NO_CLIPBOARD = "Object.defineProperty(navigator, 'clipboard', {value: undefined});"
Shower = Callable[..., Any]


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Shower]:
    """Opens a result's page, with a state in the address; nothing may go wrong on it."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    problems: list[str] = []

    def opened(result: Attribution | Comparison, state: str = "", setup: str = KEPT_BY_PAGE, saved: dict[str, str] | None = None) -> Any:
        file = tmp_path / "page.html"
        file.write_text(page_of([view(result) | (saved or {})], "try"), encoding="utf-8")
        page = context.new_page()
        page.on("pageerror", lambda problem: problems.append(str(problem)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: problems.append(request.url) if leaves(request.url) else None)
        page.add_init_script(setup)
        page.goto(f"{file.as_uri()}#{state}")
        return page

    yield opened
    context.close()
    assert problems == []


def attribution(tokens: Sequence[str] = HARMLESS, method: str = "noiser", targets: int = 1, **changes: Any) -> Attribution:
    """Scores that differ for each target; with several targets the last tokens are a continuation."""
    seq = len(tokens)
    given = seq - targets + 1
    scores = np.random.default_rng(len(method)).normal(size=(targets, seq)) * 0.1
    for row in range(targets):
        scores[row, given + row :] = 0
    prompt = Prompt("".join(tokens), tuple(range(seq)), tuple(tokens), (False,) * seq)
    asked = tuple(Target((row + 5,), (" Paris",), 0.7, 0, "prob", 0.7, context=given + row) for row in range(targets))
    notes = {"k": 0.1, "k_status": "found", "warnings": ["<b>careful</b>"]}
    made: dict[str, Any] = {"options": {"samples": 10, "norm": None}, "seed": 0, "notes": notes, "given": given} | changes
    cost = Cost(2.5, 1215, 10, 2**30)
    return Attribution(scores, prompt, asked, method, model="smol", revision="sha256:1", cost=cost, **made)


def curve(seq: int, seed: int) -> Curve:
    values = np.random.default_rng(seed).random((2, seq + 1))
    order = np.random.default_rng(seed).permutation(seq)
    return Curve(tuple(order.tolist()), tuple(range(seq + 1)), tuple(values[0].tolist()), tuple(values[1].tolist()))


def comparison(tokens: Sequence[str] = HARMLESS, **changes: Any) -> Comparison:
    methods = ("noiser", "occlusion", "integrated_gradients")
    each = [attribution(tokens, method, curves=(curve(len(tokens), seed),), **changes) for seed, method in enumerate(methods)]
    return Comparison(tuple(each), {"lime": "not here"})


def contrast() -> Attribution:
    foil = Target((9, 10), (" Lon", "don"), 0.01, 3, "log_odds", -4.6, context=10)
    return replace(attribution(seed=None), targets=(Target((5,), (" Paris",), 0.7, 0, "log_odds", 4.25, foil, 10),))


def saved(page: Any, name: str) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Save as {name}").click()
    assert download.value.suggested_filename.endswith(f".{name.lower()}")
    return Path(download.value.path())


def copied(page: Any, name: str) -> str:
    page.get_by_role("button", name=f"Copy as {name}").click()
    page.get_by_text("Copied", exact=True).wait_for()
    return page.evaluate("window.copied")


def drawn(**changes: Any) -> Attribution:
    """A result with standard errors: large ones for the first tokens, 0 for the last."""
    result = attribution(**changes)
    rows = len(result.targets)
    return replace(result, stderr=np.linspace(0.012, 0, 10)[None].repeat(rows, 0) * (result.scores != 0), dof=(9,) * rows)


RESULTS: dict[str, Callable[[], Attribution | Comparison]] = {
    "single": attribution,
    "hostile": lambda: attribution(HOSTILE),
    "curves": lambda: attribution(curves=(curve(10, 7),)),
    "comparison": comparison,
    "continuation": lambda: attribution(targets=3),
    "contrast": contrast,
    "drawn": lambda: drawn(targets=2),
}


@pytest.mark.parametrize("name", RESULTS)
def test_the_json_of_a_page_is_that_of_the_command_line(show: Shower, name: str) -> None:
    """Mutants: a foil left out (`foil: null`); curves left out; one method's JSON for a comparison."""
    result = RESULTS[name]()
    page = show(result, "unit=word")
    text = saved(page, "JSON").read_text(encoding="utf-8")
    assert json.loads(text) == result.to_dict()
    assert copied(page, "JSON") + "\n" == text


def test_markdown_holds_the_literal_tokens_and_nothing_else(show: Shower) -> None:
    """Mutants: `<` and `>` not escaped; `|` not escaped; one method's scores in every column."""
    result = comparison(HOSTILE)
    tokens = MarkdownIt("commonmark").enable("table").parse(copied(show(result), "Markdown"))
    inner = [child for token in tokens for child in token.children or ()]
    assert [token.type for token in tokens].count("table_open") == 1
    assert {token.type for token in [*tokens, *inner] if "html" in token.type} == set()
    assert {token.type for token in inner} <= {"text", "text_special", "hardbreak", "softbreak"}
    cells = [token.content for token in _rendered(tokens)]
    assert cells[:4] == ["Token", "noiser", "occlusion", "integrated_gradients"]
    rows = [cells[start : start + 4] for start in range(4, len(cells), 4)]
    assert [row[0] for row in rows] == view(result)["labels"]
    for place, row in enumerate(rows):
        assert [float(cell) for cell in row[1:]] == pytest.approx([each.scores[0, place] for each in result.attributions], abs=6e-5)


def _rendered(tokens: Sequence[Any]) -> list[Any]:
    """A table's cells, their text as a reader sees it."""
    cells = [tokens[place + 1] for place, token in enumerate(tokens) if token.type in ("th_open", "td_open")]
    for cell in cells:
        cell.content = "".join(child.content for child in cell.children or ()).replace("\xa0", " ")
    return cells


def test_markdown_follows_unit_target_and_hidden_methods(show: Shower) -> None:
    """Mutants: every column, context or not; the first target's scores for every target; hidden methods left in."""
    result = attribution((" one", " two", " three", " four"), targets=2)
    for target in (0, 1):
        text = copied(show(result, f"target={target}&unit=word"), "Markdown")
        assert text.count("\n| ") == 1 + 3 + target + 1
        assert f"| three | {result.scores[target, 2]:+.4f} |" in text
    assert "occlusion" not in copied(show(comparison(), "hidden=occlusion"), "Markdown")


def test_each_output_has_its_own_agreement(show: Shower) -> None:
    """Mutants: the mean over all outputs; always the first output's."""
    result = Comparison(tuple(attribution(targets=2, method=name) for name in ("noiser", "occlusion", "lime")))
    own = [[f"{each[0][place]:.2f}" for place in (1, 2)] for each in view(result)["agreement"]["targets"]]
    assert own[0] != own[1]
    page = show(result)
    for target in (0, 1):
        page.locator(".noiser-output").nth(target).click()
        shown = page.locator(".noiser-agreement button").all_text_contents()
        assert [text.replace("\u2212", "-") for text in shown] == ["reference", *own[target]]
        said = f"for this output (Spearman): occlusion {own[target][0]}, lime {own[target][1]}."
        assert said in copied(page, "Markdown").replace("\\", "")


def test_a_page_begins_with_the_state_it_was_saved_with(show: Shower) -> None:
    """Its address says what differs from that. Mutants: `view.state` not read; the way back to the first output not in the address."""
    page = show(attribution(targets=3), saved={"state": "target=2&unit=word"})
    pressed = page.locator(".noiser-output[aria-pressed=true]")
    assert pressed.get_attribute("data-output") == "2"
    assert page.get_by_role("radio", name="Word").is_checked()
    page.locator(".noiser-output").nth(0).click()
    page.reload()
    assert pressed.get_attribute("data-output") == "0"
    assert page.get_by_role("radio", name="Word").is_checked()


def test_only_the_largest_is_the_whole_and_only_nothing_is_nothing(show: Shower) -> None:
    """Mutants: shares in whole per cent; a hyphen for a minus sign."""
    scores = np.array([[1.0, -0.9996, 0.996, 0.5, 0.002, -0.0004, 0.0, 0.0, 0.0, 0.0]])
    page = show(replace(attribution(), scores=scores))
    said = []
    for token in range(7):
        page.locator(f".noiser-token[data-token='{token}']").first.hover()
        said.append(re.search(r"\u00b7 ([^\u00b7]*%) of the largest", page.locator(".noiser-details").text_content() or ""))
    assert [found and found[1] for found in said] == ["100 %", "more than 99.9 %", "99.6 %", "50 %", "0.2 %", "less than 0.1 %", "0 %"]
    page.locator(".noiser-token[data-token='1']").first.hover()
    assert "\u22120.9996, opposes" in (page.locator(".noiser-details").text_content() or "")


def test_intervals_are_drawn_and_read_out_and_uncertain_places_say_so(show: Shower) -> None:
    """Mutants: whiskers of one standard error; ranks by the sign's order; `together` of one token; the whisker on the bar's end only."""
    result = drawn()
    halves = cast(Any, result.interval())[0]
    sizes, joint = np.abs(result.scores[0]), cast(Any, result.stderr)[0] * t.ppf(1 - 0.05 / 20, 9)
    low, high = np.maximum(0, sizes - joint), sizes + joint
    ranges = [(1 + int((low > high[i]).sum()), 10 - int((high < low[i]).sum())) for i in range(10)]
    page = show(result)
    rows = page.locator(".noiser-bars tbody tr")
    assert rows.count() == 10
    reach = float((sizes + halves).max())
    for number in range(10):
        row = rows.nth(number)
        token = int(row.get_attribute("data-token"))
        score, half = result.scores[0, token], halves[token]
        cells = row.locator("td").all_text_contents()
        assert cells[-1] == f"{score:+.4f} \u00b1 {half:.4f}".replace("-", "\u2212")
        first, last = ranges[token]
        place = 1 + int((sizes > sizes[token]).sum())
        assert cells[0] == (f"{place} ({first}\u2013{last})" if last > first else f"{place}")
        bar, whisker = row.locator(".noiser-bar").bounding_box(), row.locator(".noiser-whisker").bounding_box()
        middle, unit = bar["x"] + bar["width"] / 2, bar["width"] / 2 / reach
        assert whisker["x"] == pytest.approx(middle + (score - half) * unit, abs=1.5)
        assert whisker["width"] == pytest.approx(max(2 * half * unit, 1), abs=1.5)
    assert any(last > first for first, last in ranges)
    assert any(last == first for first, last in ranges)
    unsure = next(i for i, (first, last) in enumerate(ranges) if last > first)
    page.locator(f".noiser-token[data-token='{unsure}']").first.hover()
    said = f"\u00b1 {halves[unsure]:.4f}"
    assert said in (page.locator(".noiser-tip").text_content() or "")
    assert said in (page.locator(".noiser-details").text_content() or "")
    assert f"(ranks {ranges[unsure][0]}\u2013{ranges[unsure][1]} at 95 %)" in (page.locator(".noiser-details").text_content() or "")
    assert copied(page, "Markdown").count(" \u00b1 ") == 10


def test_without_errors_nothing_is_said_of_intervals(show: Shower) -> None:
    """Mutant: whiskers of 0."""
    page = show(attribution())
    assert page.locator(".noiser-whisker").count() == 0
    assert "\u00b1" not in (page.locator("body").text_content() or "").split("{")[0]
    assert "95 %" not in (page.locator(".noiser-bars caption").text_content() or "")


def test_errors_that_are_no_numbers_are_not_drawn(show: Shower) -> None:
    """A page made by hand. Mutant: `errorsOf` without its check."""
    row = view(drawn())["rows"][0]
    for broken in ({"stderr": [["x"] * 10]}, {"critical": {"each": [None]}}, {"critical": None}):
        page = show(drawn(), saved={"rows": [row | broken]})  # pyright: ignore[reportArgumentType]
        assert page.locator(".noiser-bars tbody tr").count() == 10
        assert page.locator(".noiser-whisker").count() == 0


def test_labels_stand_where_their_lines_end_and_do_not_overlap(show: Shower) -> None:
    """Mutants: in the order of the methods; all at the end's own height."""
    for same in (False, True):
        each = [attribution(method=name, curves=(curve(10, seed),)) for seed, name in ((2, "noiser"), (0, "occlusion"), (1, "lime"))]
        if same:
            each = [replace(one, curves=each[0].curves) for one in each]
        chart = show(Comparison(tuple(each))).locator(".noiser-chart").first
        found = {
            group.locator("title").text_content(): float(re.findall(r"[\d.]+", group.get_attribute("transform") or "")[1])
            for group in chart.locator("g:has(> text)").all()
        }
        heights = sorted(found.values())
        assert all(after - before >= 14.9 for before, after in pairwise(heights))
        ends = sorted(each, key=lambda one: -one.curves[0].removed[-1])
        assert sorted(found, key=found.__getitem__) == [one.method for one in ends]


def test_latex_reads_as_the_prompt_and_holds_no_command_of_it(show: Shower) -> None:
    """Mutants: `%` not escaped; a backslash doubled instead of named; boxes that leave out their colour's model."""
    text = copied(show(comparison(HOSTILE)), "LaTeX")
    comment, body = text.split("\n", 1)
    assert comment.startswith("%")
    assert "%" not in body.replace("\\%", "")
    allowed = {
        "setlength", "fboxsep", "parindent", "par", "smallskip", "textbf", "quad", "colorbox", "strut", "allowbreak", "footnotesize",
        "ensuremath", "rightarrow", "textbackslash", "textbar", "textless", "textgreater", "textasciigrave", "textasciicircum",
        "textasciitilde",
    }  # fmt: skip
    assert set(re.findall(r"\\([a-zA-Z]+)", body)) == allowed
    plain = re.sub(r"\\[{}$&#_%]", "", body)
    assert set("$&#^~") & set(plain) == set()
    depth = np.cumsum([{"{": 1, "}": -1}.get(character, 0) for character in plain])
    assert depth.min() >= 0
    assert depth[-1] == 0
    paragraph = body.split("\\quad\n")[1].split("\n\\ensuremath{\\rightarrow}")[0]
    assert _read_back(paragraph) == "".join(view(comparison(HOSTILE))["texts"]).strip()


def _read_back(latex: str) -> str:
    """What a paragraph of coloured tokens prints."""
    named = {"textbackslash": "\\", "textless": "<", "textgreater": ">", "textbar": "|", "textasciigrave": "`", "textasciicircum": "^"}
    text = re.sub(r"\\colorbox\[HTML\]\{[0-9A-F]{6}\}\{\\strut\{\}((?:[^{}]|\\[{}]|\{\})*)\}", r"\1", latex).replace("\\allowbreak{}", "")
    text = re.sub(r"\\text(\w+)\{\}", lambda found: {"asciitilde": "~"}.get(found[1]) or named[f"text{found[1]}"], text.replace("\n", " "))
    return re.sub(r"\\([{}$&#_%])", r"\1", text)


def test_the_svg_of_hostile_tokens_has_the_same_elements_as_of_harmless_ones(show: Shower) -> None:
    """Mutants: hidden methods drawn; spaces left at the texts' beginnings."""
    drawn = [_svg(show(comparison(tokens), "hidden=integrated_gradients")) for tokens in (HARMLESS, HOSTILE)]
    shapes = [Counter(element.tag.split("}")[1] for element in svg.iter()) for svg in drawn]
    assert shapes[0] == shapes[1]
    assert set(shapes[0]) == {"svg", "title", "rect", "text"}
    words = [element.text for element in drawn[1].iter("{http://www.w3.org/2000/svg}text")]
    texts = [text.strip() for text in view(comparison(HOSTILE))["texts"]]
    assert [words.count(text) for text in texts] == [2] * len(texts)


def _svg(page: Any) -> ElementTree.Element:
    return ElementTree.fromstring(saved(page, "SVG").read_text(encoding="utf-8"))


def test_boxes_lie_under_their_tokens_inside_the_picture_and_overlap_no_other(show: Shower) -> None:
    """Mutants: a line that never breaks; a box as wide as its space."""
    svg = _svg(show(attribution([" word"] * 300)))
    width, height = float(svg.get("width", 0)), float(svg.get("height", 0))
    boxes = [{name: float(element.get(name, 0)) for name in ("x", "y", "width", "height")} for element in svg.iter() if element.get("rx")]
    assert len(boxes) > 200
    assert max(box["x"] + box["width"] for box in boxes) <= width - 20
    assert max(box["y"] + box["height"] for box in boxes) < height
    for one, other in pairwise(boxes):
        assert one["y"] < other["y"] or one["x"] + one["width"] < other["x"] + 1


def test_a_box_is_orange_where_its_token_supports_and_blue_where_it_opposes(show: Shower) -> None:
    """Mutant: colours of the wrong sign."""
    result = attribution()
    svg = _svg(show(result))
    words = {float(element.get("x", 0)): element.text for element in svg.iter() if element.tag.endswith("text")}
    boxes = [element for element in svg.iter() if element.get("rx")]
    assert len(boxes) > 5
    for box in boxes:
        token = [text.strip() for text in HARMLESS].index(words[round(float(box.get("x", 0)) + 1, 2)] or "")
        red, blue = int(box.get("fill", "")[1:3], 16), int(box.get("fill", "")[5:7], 16)
        assert (red > blue) == (result.scores[0, token] > 0)


def test_roles_and_newlines_are_drawn_and_text_from_right_to_left_runs_that_way(show: Shower) -> None:
    """Mutants: roles left out; runs not mirrored."""
    tokens = ("Hi", " \u05e9\u05dc\u05d5\u05dd", " \u05e2\u05d5\u05dc\u05dd", "\n", "Yes")
    chat = Prompt("".join(tokens), tuple(range(5)), tokens, (False,) * 5, (), (Turn("user", (0, 1, 2)), Turn("assistant", (4,))))
    found = attribution(tokens)
    svg = _svg(show(Attribution(**{**vars(found), "prompt": chat})))
    texts = [element for element in svg.iter() if element.tag.endswith("text")]
    placed = {element.text: (float(element.get("x", 0)), float(element.get("y", 0))) for element in texts}
    assert {"user", "assistant", "\u23ce"} <= set(placed)
    assert placed["\u05e9\u05dc\u05d5\u05dd"][0] > placed["\u05e2\u05d5\u05dc\u05dd"][0] > placed["Hi"][0]
    assert placed["Yes"][1] > placed["\u23ce"][1]


def test_the_png_is_the_picture_at_twice_its_size_in_colour(show: Shower) -> None:
    """Mutants: drawn at its own size; drawn before the image is there (a blank picture)."""
    page = show(comparison())
    svg, picture = _svg(page), np.asarray(Image.open(saved(page, "PNG")).convert("RGB")).astype(int)
    assert picture.shape == (2 * int(svg.get("height", 0)), 2 * int(svg.get("width", 0)), 3)
    red, blue = picture[..., 0] - picture[..., 2] > 60, picture[..., 2] - picture[..., 0] > 60
    assert 0.002 < red.mean() < 0.2
    assert 0.002 < blue.mean() < 0.2
    assert (picture == 255).all(-1).mean() > 0.5


def test_a_picture_too_large_for_a_canvas_is_made_smaller_and_says_so(show: Shower) -> None:
    """Mutant: no limit on the canvas."""
    page = show(attribution([" " + "word" * 15] * 150))
    assert max(Image.open(saved(page, "PNG")).size) <= 8192
    page.get_by_text("made smaller to fit").wait_for()


def test_the_slider_shows_the_stored_values_and_strikes_out_what_is_removed(show: Shower) -> None:
    """Mutants: values of the next count; kept and removed swapped; one token too few struck out; values in four decimals."""
    result = comparison()
    page = show(result)
    slider = page.get_by_role("slider")
    for count in (0, 1, 2, 5, 10, 9):
        slider.fill(str(count))
        assert slider.get_attribute("aria-valuetext") == f"{count} of 10 tokens"
        shown = [float(each.get_attribute("value") or "") for each in page.locator(".noiser-values data").all()]
        assert shown == [value[count] for each in result.attributions for value in (each.curves[0].removed, each.curves[0].kept)]
        struck = page.locator(".noiser-struck span", has=page.locator("del")).all_text_contents()
        assert sorted(struck) == sorted(HARMLESS[token] for token in result.attributions[0].curves[0].order[:count])
        first = result.attributions[0].curves[0].removed
        label = page.locator(".noiser-chart").first.get_attribute("aria-label") or ""
        assert f"to {first[count]:.4f} with {count} of 10 tokens removed" in label or count == 0
    slider.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "8 of 10 tokens"
    page.get_by_label("Removed by").select_option("occlusion")
    struck = page.locator(".noiser-struck span", has=page.locator("del")).all_text_contents()
    assert sorted(struck) == sorted(HARMLESS[token] for token in result.attributions[1].curves[0].order[:8])


def test_the_link_leads_to_what_is_shown(show: Shower) -> None:
    """Mutant: the address the page was opened with, without the state."""
    page = show(comparison())
    page.get_by_role("slider").fill("4")
    page.get_by_role("button", name="Copy a link to this").click()
    page.get_by_text("Copied", exact=True).wait_for()
    again = show(comparison(), page.evaluate("window.copied").split("#")[1])
    assert again.get_by_role("slider").get_attribute("aria-valuetext") == "4 of 10 tokens"


def test_each_visible_method_has_a_line_through_its_values(show: Shower) -> None:
    """Mutants: hidden methods drawn; an axis upside down."""
    page = show(comparison(), "hidden=occlusion")
    chart = page.locator(".noiser-chart").first
    paths = [re.findall(r"[ML]([\d.]+) ([\d.]+)", path or "") for path in _attributes(chart, "> g > path.noiser-curve", "d")]
    paths = [path for path in paths if len(path) == 11]
    wanted = [result.curves[0].removed for result in comparison().attributions[::2]]
    assert len(paths) == 2
    for path, values in zip(paths, wanted, strict=True):
        heights = np.array([float(y) for _, y in path])
        assert np.corrcoef(heights, values)[0, 1] < -0.9999
    names = chart.locator("text title").all_text_contents()
    assert sorted(names) == ["integrated_gradients", "noiser"]


def _attributes(inside: Any, selector: str, name: str) -> list[str | None]:
    found = inside.evaluate("(e, [s, n]) => [...e.querySelectorAll(':scope ' + s)].map(p => p.getAttribute(n))", [selector, name])
    return cast("list[str | None]", found)


def test_the_panel_says_what_the_method_noted_and_how_to_have_curves(show: Shower) -> None:
    """Mutants: warnings left out; the first target's notes for every target."""
    rows = [{"k": 0.25, "k_status": "found", "warnings": []}, {"k": 0.0, "k_status": "at_floor", "warnings": []}]
    page = show(attribution(targets=2, notes={"rows": rows, "warnings": ["<b>careful</b>"], "layout": "packed"}), "target=1")
    evidence = page.get_by_role("region", name="Evidence")
    evidence.get_by_text("noiser.with_curves(lm, result)").wait_for()
    assert evidence.locator(".noiser-cautions li").all_text_contents() == ["!<b>careful</b>"]
    terms = dict(zip(evidence.locator("dt").all_text_contents(), evidence.locator("dd").all_text_contents(), strict=True))
    assert terms["k (scale)"].startswith("0.0000, at the floor")
    assert terms["Cost"] == "2.5 s, 1,215 token-forwards, 10 backward, peak 1.1 GB"
    assert terms["Options"] == "samples 10, norm none"


def test_where_nothing_may_use_the_clipboard_a_dialog_holds_the_text(show: Shower) -> None:
    """Mutants: `Copied` although nothing was; a dialog without the text."""
    page = show(attribution(), setup=f"{NO_CLIPBOARD} document.execCommand = () => false;")
    page.get_by_role("button", name="Copy as JSON").click()
    area = page.get_by_role("dialog").get_by_role("textbox")
    assert json.loads(area.input_value()) == attribution().to_dict()
    assert area.evaluate("(area) => area.selectionEnd - area.selectionStart") == len(area.input_value())
    assert page.get_by_text("Copied", exact=True).count() == 0
    page.get_by_role("button", name="Close").click()
    assert page.get_by_role("dialog").count() == 0


def test_a_page_opened_as_a_file_copies_the_old_way(show: Shower) -> None:
    """Mutant: the text taken off the page before it is copied."""
    listen = "document.addEventListener('copy', () => { window.copied = document.activeElement.value; });"
    page = show(attribution(), setup=f"{NO_CLIPBOARD} {listen}")
    assert json.loads(copied(page, "JSON")) == attribution().to_dict()
    assert page.locator("textarea").count() == 0


def test_saving_works_in_a_notebook_s_frame(show: Shower, tmp_path: Path) -> None:
    """Mutant: a frame without `allow-downloads`."""
    page = show(attribution())
    (tmp_path / "notebook.html").write_text(f"<!doctype html><meta charset=utf-8>{to_frame(comparison())}", encoding="utf-8")
    page.goto((tmp_path / "notebook.html").as_uri())
    frame = page.frame_locator("iframe")
    for name in ("JSON", "PNG"):
        with page.expect_download() as download:
            frame.get_by_role("button", name=f"Save as {name}").click()
        assert Path(download.value.path()).stat().st_size > 1000
