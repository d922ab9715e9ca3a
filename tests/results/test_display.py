"""Where a result is looked at: files, notebooks, the command line, a run's report."""

import json
from html.parser import HTMLParser

import nbformat
import pytest
from nbclient import NotebookClient

import noiser
from noiser import cli
from noiser.errors import OptionError
from noiser.views.viewer.data import view
from noiser.views.viewer.page import in_script, page
from tests.browser import browser, needs_chromium, tab  # noqa: F401  (a fixture)
from tests.conftest import byte_tokenizer, tiny
from tests.shown_results import made

TWO = [
    "import noiser\nfrom tests.conftest import byte_tokenizer, tiny",
    "lm = noiser.LanguageModel(tiny('llama'), byte_tokenizer(), name='tiny')",
    "noiser.attribute(lm, 'grass is green', 'occlusion')",
    "noiser.compare(lm, 'snow is white', ['occlusion', 'random'])",
]
HARSH = "* { color: red !important; background: black !important; font-size: 40px !important; display: inline !important }"


class Data(HTMLParser):
    """What the page's data script holds."""

    def __init__(self, text):
        super().__init__()
        self.inside, self.data = False, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.inside = tag == "script" and ("class", "noiser-data") in attrs

    def handle_data(self, data):
        self.data += data if self.inside else ""


def test_a_page_holds_the_result_and_replaces_a_file_only_when_whole(tmp_path, monkeypatch):
    path = made().save_html(tmp_path / "a.html")
    (found,) = json.loads(Data(path.read_text(encoding="utf-8")).data)
    assert found == json.loads(json.dumps(view(made())))
    before = path.read_bytes()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        made(word=" other").save_html(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.html"]


def test_a_page_weighs_less_than_150_kb_without_data():
    size = len(page([], "").encode())
    print(f"page without data: {size:,} bytes")
    assert size < 150_000


def test_a_single_attribution_is_told_from_a_comparison(tmp_path):
    one = made().attributions[0]
    assert not view(one)["comparison"]
    assert len(view(one)["rows"]) == 1
    assert view(one)["rows"][0]["scores"] == one.scores.tolist()
    assert one.save_html(tmp_path / "one.html").stat().st_size > 0


@pytest.mark.parametrize("form", ["svg", "png", "pdf"])
def test_a_figure_has_the_form_that_its_name_ends_with(tmp_path, form):
    content = made().save_figure(tmp_path / f"a.{form}").read_bytes()
    assert content.startswith({"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[form])
    with pytest.raises(OptionError, match="ends with"):
        made().save_figure(tmp_path / "a.gif")


def test_an_evaluations_tables_come_along():
    small = noiser.LanguageModel(tiny("llama"), byte_tokenizer(), name="tiny")
    found = noiser.evaluate(
        small, ["grass is", "snow is", "the sky", "a cat is", "the sea"], ["occlusion"], ["soft_ns"], controls=["random"]
    )
    tables = view(noiser.attribute(small, "grass is", "occlusion"), found)["evaluation"]["tables"]
    assert tables[0]["columns"] == ["method", "log(mean / mean of random)", "mean", "group"]
    summary = found.summaries[0]
    for row, cells in zip(summary.rows, tables[0]["rows"], strict=True):
        assert cells[0].startswith(row.method)
        assert f"{row.mean.value:.3f} [{row.mean.low:.3f}, {row.mean.high:.3f}]" == cells[2]


@pytest.mark.slow
@needs_chromium
def test_a_notebook_shows_two_viewers_that_its_style_does_not_reach(browser, tmp_path):  # noqa: F811
    """Executed headless; the outputs then stand in a page whose style would ruin both. Mutants: _repr_html_ without a frame; a
    frame without allow-scripts."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in TWO])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    html = [out["data"]["text/html"] for cell in notebook.cells for out in cell.outputs if "data" in out]
    assert len(html) == 2
    file = tmp_path / "notebook.html"
    file.write_text(f"<!doctype html><style>{HARSH}</style><body>{''.join(html)}", encoding="utf-8")
    with tab(browser, file) as opened:
        rows = []
        for number in range(2):
            frame = opened.frame_locator("iframe").nth(number)
            frame.locator(".noiser-token").first.wait_for()
            rows.append(frame.locator(".noiser-row").count())
            assert frame.locator(".noiser-token").first.evaluate("e => getComputedStyle(e).fontSize") != "40px"
            frame.locator(".noiser-token").nth(1).hover()
            assert "+" in frame.locator(".noiser-details").inner_text() or "-" in frame.locator(".noiser-details").inner_text()
        assert rows == [1, 2]


@needs_chromium
def test_a_policy_lets_nothing_run_that_is_not_the_viewers(browser, tmp_path):  # noqa: F811
    """A script and a handler put into the file by hand. Mutant: 'unsafe-inline' in the policy."""
    whole = page([view(made())], "x")
    spoilt = whole.replace("</main>", "</main><script>window.ran = 1</script><img src='data:,' onerror='window.ran = 2'>")
    file = tmp_path / "a.html"
    file.write_text(spoilt, encoding="utf-8")
    context = browser.new_context()
    opened = context.new_page()
    said = []
    opened.on("console", lambda message: said.append(message.text))
    opened.goto(file.as_uri())
    opened.locator(".noiser-token").first.wait_for()
    opened.wait_for_timeout(200)
    assert opened.evaluate("window.ran") is None
    assert sum("Content Security Policy" in text for text in said) == 2
    context.close()


def test_what_stands_in_a_script_is_strict_json():
    assert json.loads(in_script({"a": ["\ud800", "</script>", 0.1]})) == {"a": ["\ud800", "</script>", 0.1]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        in_script(float("nan"))


@pytest.fixture
def command(monkeypatch, capfd):
    """The command line with a tiny model: exit status, standard output, standard error."""
    small = noiser.LanguageModel(tiny("llama"), byte_tokenizer(), name="tiny")
    monkeypatch.setattr("noiser.lm.load.load", lambda *_, **__: small)

    def called(*arguments):
        monkeypatch.setattr("sys.argv", ["noiser", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capfd.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    return called


def test_the_command_line_writes_pages_and_figures(command, tmp_path):
    out = tmp_path / "a.html"
    assert command("attribute", "grass is", "--method", "occlusion", "--out", out)[0] == 0
    (found,) = json.loads(Data(out.read_text(encoding="utf-8")).data)
    assert found["rows"][0]["method"] == "occlusion"
    assert len(found["rows"][0]["curves"]) == 1
    code, shown, _ = command("compare", "grass is", "--methods", "occlusion,random", "--format", "svg")
    assert code == 0
    assert shown.startswith("<?xml")
    assert command("compare", "grass is", "--methods", "occlusion,random", "--out", tmp_path / "b.png")[0] == 0
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    code, _, said = command("attribute", "grass is", "--format", "png")
    assert (code, "--out" in said) == (2, True)


@pytest.mark.parametrize(("option", "there"), [("--curves", True), ("--no-curves", False), (None, False)])
def test_curves_in_json_are_there_when_asked_for(command, option, there):
    arguments = ["attribute", "grass is", "--method", "occlusion", "--format", "json", *([option] if option else [])]
    _, shown, _ = command(*arguments)
    assert ("curves" in json.loads(shown)) is there


def test_a_pdf_is_not_written_as_text_and_a_page_of_nothing_not_at_all(command, tmp_path):
    """Mutants: an ending that is not known taken for the default form; a page without views written over the last one."""
    assert command("attribute", "grass is", "--out", tmp_path / "a.pdf")[0] == 2
    assert not (tmp_path / "a.pdf").exists()
    (tmp_path / "bad.txt").write_bytes(b"\xff\n")
    kept = tmp_path / "kept.html"
    kept.write_text("before")
    assert command("attribute", "--file", tmp_path / "bad.txt", "--out", kept)[0] == 1
    assert kept.read_text() == "before"


def test_a_file_of_prompts_becomes_one_page_and_what_failed_is_said(command, tmp_path):
    """Mutant: a line that failed left out of the count."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes(b"grass is\n\xff\nsnow is\n")
    out = tmp_path / "all.html"
    code, _, said = command("attribute", "--file", prompts, "--method", "occlusion", "--format", "html", "--out", out)
    assert code == 1
    assert "line 2: the line is not UTF-8" in said
    assert "3 prompts: 2 explained, 1 failed" in said
    found = json.loads(Data(out.read_text(encoding="utf-8")).data)
    assert [each["title"].split(":")[0] for each in found] == ["line 1", "line 3"]
    assert command("attribute", "--file", prompts, "--format", "svg", "--out", tmp_path / "a.svg")[0] == 2
