"""`noiser load` gives the same bytes as the command that computed the results, and loads no model.

Mutants caught, each run: the normalization not passed on to the figure; the line's number left out of a record; one format for tables
and scores; a failed prompt left out without a word.
"""

import json

import pytest

from tests.results.test_saved import chat, evaluation
from tests.shown_results import made, made_interactions


@pytest.fixture
def run(monkeypatch, command_line):
    """`noiser load` in this process; a model that is loaded fails the test."""
    monkeypatch.setattr("noiser.lm.load.load", lambda *_, **__: pytest.fail("a model was loaded"))
    return lambda *arguments: command_line("load", *arguments)


@pytest.fixture
def saved(tmp_path):
    (tmp_path / "one.json").write_text(chat().to_json())
    (tmp_path / "several.json").write_text(made().to_json())
    (tmp_path / "pairs.json").write_text(made_interactions().to_json())
    (tmp_path / "tables.json").write_text(evaluation().to_json())
    failed = {"schema": 1, "line": 4, "prompt": {"text": "x"}, "error": {"class": "PromptError", "message": "too long"}}
    lines = [{**chat().to_dict(), "line": 2, "id": "q7"}, failed]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.mark.parametrize("form", ["html", "svg"])
def test_a_page_and_a_figure_are_those_of_the_live_result(run, saved, form):
    out, live = saved / f"a.{form}", saved / f"b.{form}"
    scaled = {} if form == "html" else {"normalization": "abs_l1", "by": "word"}
    for name, result in (("one", chat()), ("several", made())):
        code, shown, err = run(saved / f"{name}.json", "--out", out, "--normalize", "abs_l1", "--granularity", "word")
        assert (code, shown, err) == (0, "", "")
        result.save_html(live) if form == "html" else result.save_figure(live, **scaled)
        assert out.read_bytes() == live.read_bytes()


def test_the_terminal_shows_what_each_command_shows(run, saved):
    assert "Why ' mat' and not" in run(saved / "one.json")[1]
    assert "lime" in run(saved / "several.json")[1]
    _, shown, _ = run(saved / "tables.json")
    assert "aopc" in shown
    assert "too long" in shown
    assert run(saved / "pairs.json")[1].rstrip("\n").split() == str(made_interactions()).split()
    code, shown, _ = run(saved / "many.jsonl")
    assert code == 0
    assert "line 2, q7" in shown
    assert "Error: too long" in shown


def test_interactions_come_back_as_json_and_as_a_page(run, saved):
    assert json.loads(run(saved / "pairs.json", "--format", "json")[1]) == made_interactions().to_dict()
    assert run(saved / "pairs.json", "--out", saved / "pairs.html")[0] == 0
    made_interactions().save_html(saved / "live.html")
    assert (saved / "pairs.html").read_bytes() == (saved / "live.html").read_bytes()


def test_json_is_what_was_saved_with_the_scale_that_is_asked_for(run, saved):
    assert json.loads(run(saved / "one.json", "--format", "json")[1]) == chat().to_dict()
    _, shown, _ = run(saved / "many.jsonl", "--format", "jsonl", "--normalize", "abs_l1")
    first, second = map(json.loads, shown.splitlines())
    assert (first["line"], first["id"], first["normalized"]["how"]) == (2, "q7", "abs_l1")
    assert (second["line"], second["error"]["message"]) == (4, "too long")


def test_a_page_of_many_names_the_failed_on_standard_error(run, saved):
    code, _, err = run(saved / "many.jsonl", "--out", saved / "page.html")
    assert (code, err) == (0, "line 4: too long\n")
    assert "line 2, q7: " in (saved / "page.html").read_text()


def test_plots_of_an_evaluation(run, saved):
    assert run(saved / "tables.json", "--plots", saved / "plots")[0] == 0
    assert sorted(path.name for path in (saved / "plots").iterdir()) == ["aopc.png", "aopc.svg"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tables.json", "--format", "svg"), "tables.json holds an evaluation or a checkup, for which --format is one of table, json"),
        (("one.json", "--format", "table"), "one.json holds scores, for which --format is one of heatmap, json"),
        (("many.jsonl", "--format", "svg"), "many.jsonl holds 2 results, and --format svg is for one"),
        (("pairs.json", "--format", "svg"), "pairs.json holds interactions, for which --format is one of table, json, jsonl, html"),
        (("one.json", "--plots", "x"), "--plots is for one evaluation; the file holds none"),
        (("nowhere.json",), "cannot read"),
    ],
)
def test_what_does_not_fit_is_refused(run, saved, words, said):
    code, out, err = run(saved / words[0], *words[1:])
    assert (code, out) == (2, "")
    assert said in err
