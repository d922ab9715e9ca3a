"""Interactions in a terminal and on a page: pairs in order, signs told apart, arcs that follow the words.

Mutants caught, each run: the pairs in the order of the units; the label of another unit; the sign of an arc lost (`pair[2] > 0`);
arcs that are not drawn again in a narrower window; a unit's text that is not made visible.
"""

import json

import pytest

from noiser.views.terminal.interactions import to_text
from noiser.views.viewer.data import view
from tests.browser import browser, needs_chromium, tab  # noqa: F401  (a fixture)
from tests.shown_results import made_interactions

ARCS = """() => [...document.querySelectorAll(".noiser-arc")].map((arc) => ({
  sign: arc.classList.contains("noiser-arc-more") ? 1 : -1, dim: arc.classList.contains("noiser-arc-dim"), path: arc.getAttribute("d"),
  dashed: getComputedStyle(arc).strokeDasharray !== "none"}))"""
OVER = """([first, second]) => {
  const box = (n) => document.querySelectorAll(".noiser-token")[n].getBoundingClientRect();
  const svg = document.querySelector(".noiser-arcs").getBoundingClientRect();
  return [first, second].map((n) => box(n).left + box(n).width / 2 - svg.left);
}"""


def test_the_terminal_shows_the_strongest_pairs_first_and_every_shapley_value():
    shown = to_text(made_interactions())
    assert "Pairs of words, all 6" in shown
    lines = [line.split() for line in shown.splitlines() if "+  " in line]
    assert [line[0] for line in lines[:2]] == ["+0.7500", "-0.5000"]
    assert lines[0][-3:] == ["cat", "+", "sat"]
    assert lines[1][-3:] == ["on", "+", "the"]
    assert "exact, 16 sets of words" in shown
    assert "! plain" in shown
    assert str(made_interactions()) == shown


@pytest.mark.parametrize("unit", ["word", "token"])
def test_what_the_page_holds_is_strict_json_with_visible_texts(unit):
    result = made_interactions(("a\u202eb", " c", " e\x1bm", " d"), value="\x1b]0;x\x07", unit=unit)
    found = view(result)
    json.dumps(found, allow_nan=False)
    assert found["interactions"]["unit"] == unit
    assert found["interactions"]["pairs"][0] == [0, 1, 0.75]
    drawn = json.dumps([found["interactions"], found["units"], found["labels"], found["texts"]], ensure_ascii=False)
    assert "\u202e" not in drawn
    assert "\\u001b" not in drawn, "JSON writes a control character as its escape"
    assert "\\u0007" not in drawn
    assert not set(to_text(result)) & {"\x1b", "\u202e", "\x07"}


@needs_chromium
def test_arcs_join_the_words_of_their_pairs_and_follow_them(browser, tmp_path):  # noqa: F811
    path = made_interactions().save_html(tmp_path / "pairs.html")
    with tab(browser, path, viewport={"width": 900, "height": 700}) as page:
        arcs = page.evaluate(ARCS)
        assert len(arcs) == 6
        strongest = arcs[-1]
        assert (strongest["sign"], strongest["dashed"]) == (1, False), "the strongest lies on top"
        assert (arcs[-2]["sign"], arcs[-2]["dashed"]) == (-1, True)
        ends = page.evaluate(OVER, [0, 1])
        numbers = strongest["path"].replace("M", " ").replace("C", " ").split()
        assert [float(numbers[0]), float(numbers[-2])] == pytest.approx(ends, abs=0.2)
        rows = page.locator(".noiser-pairs tbody tr")
        assert rows.count() == 6
        shown = [rows.nth(place).locator("th, td").all_inner_texts() for place in (0, 1)]
        assert shown == [["1", "cat  +  sat", "", "+0.7500"], ["2", "on  +  the", "", "\u22120.5000"]]
        fills = page.evaluate("() => [...document.querySelectorAll('.noiser-pairs i')].slice(0, 2).map((fill) => fill.style.width)")
        assert [float(fill.rstrip("%")) for fill in fills] == pytest.approx([50, 100 / 3], abs=0.01)
        page.set_viewport_size({"width": 130, "height": 700})
        page.wait_for_function(
            "(before) => [...document.querySelectorAll('.noiser-arc')].at(-1).getAttribute('d') !== before", arg=strongest["path"]
        )


@needs_chromium
def test_the_pointer_and_the_keyboard_pick_out_pairs(browser, tmp_path):  # noqa: F811
    path = made_interactions().save_html(tmp_path / "pairs.html")
    with tab(browser, path) as page:
        page.locator(".noiser-token").nth(0).hover()
        assert sum(not arc["dim"] for arc in page.evaluate(ARCS)) == 3, "all pairs of one of four words"
        assert page.locator(".noiser-pairs tr.noiser-lit").count() == 3
        page.locator(".noiser-pairs tbody tr").nth(1).focus()
        assert [arc["sign"] for arc in page.evaluate(ARCS) if not arc["dim"]] == [-1]
        assert page.locator(".noiser-token.noiser-lit").all_inner_texts() == ["on", "the"]
        page.locator(".noiser-token").nth(0).focus()
        page.keyboard.press("ArrowRight")
        assert page.locator(".noiser-token.noiser-lit").all_inner_texts() == ["sat"]
        page.locator(".noiser-controls select").select_option("5")
        assert len(page.evaluate(ARCS)) == page.locator(".noiser-pairs tbody tr").count() == 5
