"""The view of sources in Chromium: 20,000 tokens in 60 sources, three statements.

Mutants caught: a statement that does not change the list; parts that stay after a source is closed; Enter that does nothing; names as HTML.
"""

import statistics

import pytest

from noiser.results.statements import combined
from tests.browser import browser, needs_chromium, tab  # noqa: F401  (a fixture)
from tests.shown_sources import made_long, made_tree

pytestmark = needs_chromium
ROWS = ".noiser-treerow[aria-level='1']"
TIMES = """async ([selector, kind, count]) => {
  const found = [];
  for (let n = 0; n < count; n++) {
    const all = document.querySelectorAll(selector), part = all[n % all.length];
    const begin = performance.now();
    part.dispatchEvent(new MouseEvent(kind, {bubbles: true}));
    part.getBoundingClientRect();
    await new Promise((next) => requestAnimationFrame(next));
    found.push(performance.now() - begin);
    await new Promise((next) => setTimeout(next, 5));
  }
  return found;
}"""
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


@pytest.fixture(scope="module")
def long_page(tmp_path_factory):
    return combined(made_long()).save_html(tmp_path_factory.mktemp("page") / "long.html")


def test_a_long_prompt_is_smooth(browser, long_page):  # noqa: F811
    with tab(browser, long_page, viewport={"width": 1200, "height": 900}) as page:
        page.locator(".noiser-fold").nth(59).wait_for(state="attached")
        print(f"first paint {page.evaluate(PAINTED)} ms")
        assert page.locator(".noiser-foldtext .noiser-token").count() == 0, "closed folds hold nothing"
        opened = page.evaluate(TIMES, [ROWS, "click", 15])
        page.locator(".noiser-fold summary").nth(3).click()
        page.locator(".noiser-foldtext .noiser-token").first.wait_for()
        hovered = [
            *page.evaluate(TIMES, [ROWS, "mouseover", 15]),
            *page.evaluate(TIMES, [".noiser-foldtext .noiser-token", "mouseover", 15]),
        ]
        print(f"opening {statistics.median(opened):.1f} ms, hover {statistics.median(hovered):.1f} ms")
        assert statistics.median(opened) < 100
        assert statistics.median(hovered) < 100


def test_a_statement_shows_its_own_sources(browser, long_page):  # noqa: F811
    with tab(browser, long_page) as page:
        assert page.locator(ROWS).first.get_attribute("aria-label").startswith("Report 4, 90 % \u00b1 ")
        page.locator(".noiser-statement").nth(1).click()
        assert page.locator(ROWS).first.get_attribute("aria-label").startswith("Report 11,")
        page.keyboard.press("ArrowRight")
        assert page.locator(ROWS).first.get_attribute("aria-label").startswith("Report 18,")
        page.locator(".noiser-sourcematrix td[data-token='3'][data-target='0']").click()
        assert page.locator(".noiser-statement[aria-pressed='true']").get_attribute("data-statement") == "0"
        page.locator("label:has(> input[value=place])").click()
        assert page.locator(ROWS).first.get_attribute("aria-label").startswith("Report 1,")
        assert page.locator(ROWS).count() == 16, "fifteen, and a row that shows more"
        page.locator(".noiser-treemore").last.click()
        assert page.locator(ROWS).count() == 60


def test_the_keyboard_opens_and_closes(browser, tmp_path):  # noqa: F811
    with tab(browser, made_tree().save_html(tmp_path / "tree.html")) as page:
        names = ".noiser-treerow .noiser-sourcename"
        assert [text.rstrip(" \u25e6") for text in page.locator(names).all_inner_texts()] == [
            "mill",
            "Oskar built it.",
            "It is old.",
            "port",
        ]
        page.locator(ROWS).first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        words = page.locator(".noiser-treerow[data-level='word'] .noiser-sourcename")
        assert words.all_inner_texts() == ["Oskar", "built", ".", "it"]
        assert page.locator(".noiser-source-text .noiser-token").all_inner_texts() == ["Oskar", "built", "it", "."]
        page.keyboard.press("ArrowLeft")
        assert words.count() == 0
        page.keyboard.press("ArrowLeft")
        page.keyboard.press(" ")
        assert page.locator(".noiser-treerow").count() == 2
        page.keyboard.press("End")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("port, \u221225 % \u00b1 1.3, opposes")
        page.keyboard.press("Enter")
        assert "Not refined" in page.locator(".noiser-source-text").inner_text()


def test_citations_are_copied(browser, long_page, tmp_path):  # noqa: F811
    for file, expected in (
        (
            made_tree().save_html(tmp_path / "tree.html"),
            ["Salt goes. Who? Oskar [1]", "", '[1] mill: "Oskar built it." (75 %, \u00b1 3.7 %, confidence 0.99)'],
        ),
        (long_page, ["The first mason came from the north . [1] He kept a book . [2] Then he left . [3]"]),
    ):
        with tab(browser, file) as page:
            page.evaluate("navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }")
            page.get_by_role("button", name="Copy citations").click()
            page.wait_for_function("window.copied")
            lines = page.evaluate("window.copied").splitlines()
            assert lines[0].endswith(expected[0])
            assert lines[1 : len(expected)] == expected[1:]


def test_hostile_names_are_text_and_nothing_runs(browser, tmp_path):  # noqa: F811
    name = "<img src=x onerror=alert(1)>\u202e"
    with tab(browser, made_tree((name, "</script><script>alert(2)</script>"), name).save_html(tmp_path / "tree.html")) as page:
        page.locator(".noiser-fold summary").first.click()
        assert page.locator(".noiser-sources :is(img, script)").count() == 0
        assert page.locator(".noiser-sourcename").first.inner_text().strip() == "<img src=x onerror=alert(1)>\\u202e"


@pytest.mark.parametrize("options", [{"viewport": {"width": 360, "height": 700}}, {"color_scheme": "dark"}])
def test_it_fits_a_narrow_window_and_the_text_is_a_switch_away(browser, tmp_path, options):  # noqa: F811
    with tab(browser, made_tree().save_html(tmp_path / "tree.html"), **options) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator("label:has(> input[value=rows])").click()
        assert page.locator(".noiser-one .noiser-token").count() > 0
        assert "view=rows" in page.url
