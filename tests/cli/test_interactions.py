"""`noiser interactions` in this process, with a small model.

Mutants caught, each run: an option that is not passed on; the options checked after the model is loaded; a page where a table was
asked for.
"""

import json

import pytest

import noiser
from tests.conftest import tiny

pytest.importorskip("shapiq")


@pytest.fixture
def run(monkeypatch, command_line, tokenizer):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer, name="tiny")
    monkeypatch.setattr("noiser.lm.load.load", lambda *_, **__: lm)
    return lambda *arguments: command_line("interactions", *arguments)


def test_json_is_what_python_returns(run, tokenizer):
    code, out, _ = run("ab c de", "--unit", "token", "--samples", "60", "--seed", "4", "--target", "id:17", "--format", "json")
    expected = noiser.interactions(
        noiser.LanguageModel(tiny("llama"), tokenizer, name="tiny"), "ab c de", 17, unit="token", samples=60, seed=4
    )
    found = json.loads(out)
    assert code == 0
    assert {**found, "cost": None} == {**expected.to_dict(), "cost": None}
    assert (found["seed"], found["options"]["samples"]) == (4, 60)


def test_a_table_and_a_page(run, tmp_path):
    code, out, _ = run("ab c de")
    assert code == 0
    assert "Pairs of words, all 3" in out
    assert "ab  +  c" in out
    assert run("ab c de", "--out", tmp_path / "pairs.html")[:2] == (0, "")
    assert "noiser-arcs" in (tmp_path / "pairs.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--unit", "letter"), "unit must be one of token, word, sentence, line, paragraph, turn, span; got 'letter'"),
        (("--samples", "2"), "at least 4; got 2"),
        (("--format", "svg"), "--format must be one of table, json, html; got 'svg'"),
        (("--messages", "x.json"), "not both"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_model_is_loaded(monkeypatch, command_line, words, said):
    monkeypatch.setattr("noiser.lm.load.load", lambda *_, **__: pytest.fail("a model was loaded"))
    code, out, err = command_line("interactions", "ab c", *words)
    assert (code, out) == (2, "")
    assert said in err
