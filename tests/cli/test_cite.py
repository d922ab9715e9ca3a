"""`noiser cite` in this process, with a small model.

Mutants caught, each run: a field of the file that is not read; --generate taken although the file has an answer; options checked after
the model is loaded; hostile names printed as they are.
"""

import json

import pytest

import noiser
from tests.conftest import tiny

DOCUMENTS = [{"title": "mill", "text": "Oskar built it."}, {"title": "port", "text": "Ships come."}]


@pytest.fixture
def run(monkeypatch, command_line, tokenizer, tmp_path):
    lm = noiser.LanguageModel(tiny("llama", max_position_embeddings=256), tokenizer, name="tiny")
    monkeypatch.setattr("noiser.lm.load.load", lambda *_, **__: lm)

    def cite(value, *arguments):
        file = tmp_path / "prompt.json"
        file.write_text(value if isinstance(value, str) else json.dumps(value))
        return command_line("cite", file, *arguments)

    return cite


def test_json_is_what_python_returns(run, tokenizer):
    lm = noiser.LanguageModel(tiny("llama", max_position_embeddings=256), tokenizer, name="tiny")
    method = "occlusion:unit=span"
    code, out, _ = run({"prompt": "Who?", "documents": DOCUMENTS, "answer": " Oskar. Yes."}, "--method", method, "--format", "json")
    expected = noiser.cite(lm, "Who?", method, answer=" Oskar. Yes.", documents=DOCUMENTS).to_dict()
    found = json.loads(out)
    assert code == 0
    assert {**found["attribution"], "cost": None} == {**expected, "cost": None}
    assert [each["text"] for each in found["statements"]] == [" Oskar.", " Yes."]


def test_text_and_a_page(run, tmp_path):
    given = {"prompt": "Who?", "documents": DOCUMENTS}
    code, out, _ = run(given, "--generate", "8", "--budget", "20000")
    assert code == 0
    assert "token-forwards" in out
    assert run(given, "--generate", "8", "--method", "occlusion:unit=span", "--out", tmp_path / "cited.html")[:2] == (0, "")
    assert "<script>" in (tmp_path / "cited.html").read_text()


def test_spans_and_a_hostile_name(run):
    spans = [{"name": "\x1b[31mred", "start": 0, "stop": 3}, {"name": "b", "start": 3, "stop": 6}]
    code, out, _ = run({"prompt": "abcdef", "spans": spans, "answer": "xyz"}, "--method", "occlusion:unit=span")
    assert code == 0
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("value", "arguments", "message"),
    [
        ({"prompt": "a"}, (), 'has no "answer": write it there, or give --generate N'),
        ({"prompt": "a", "answer": "b"}, ("--generate", "3"), 'has an "answer", so --generate has nothing to do'),
        ({"answer": "b"}, (), 'wants "prompt" or "messages"'),
        ({"prompt": "a", "answer": "b", "docs": []}, (), "has the unknown field 'docs'; cite reads prompt"),
        ({"prompt": "a", "answer": "b", "documents": DOCUMENTS, "spans": []}, (), 'has "documents" and "spans"'),
        ({"prompt": "a", "answer": 7}, (), "'answer' wants a text; got int"),
        ([1], (), "wants one JSON object"),
        ("{", (), "prompt.json"),
        ({"prompt": "a", "answer": "b"}, ("--method", "occlusion"), "give the method unit=auto or unit=span"),
        ({"prompt": "a", "answer": "b"}, ("--budget", "soon"), "a budget is a number of token-forwards"),
    ],
)
def test_errors_name_the_file_and_the_way_out(run, value, arguments, message):
    code, out, err = run(value, *arguments)
    assert (code, out) == (2, "")
    assert message in err
