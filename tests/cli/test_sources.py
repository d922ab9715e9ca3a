"""Sources and exact words of the answer on the command line, with a small model: what Python returns; a bad row is its own error.

Bugs that these tests are for: the documents left out in compare, in interactions, in a row; a bad row that ends the run.
"""

import json

import numpy as np
import pytest

import noiser
from tests.conftest import byte_tokenizer, tiny

DOCUMENTS = [{"title": "A", "text": "be"}, {"title": "B", "text": "so"}]
SPANS = [{"name": "first", "start": 0, "stop": 2}]


def small():
    return noiser.LanguageModel(tiny("llama", max_position_embeddings=256), byte_tokenizer(), name="tiny")


@pytest.fixture
def run(monkeypatch, command_line, tmp_path):
    lm = small()
    monkeypatch.setattr("noiser.lm.load.load", lambda *_, **__: lm)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "documents.jsonl").write_text("\n".join(map(json.dumps, DOCUMENTS)))
    (tmp_path / "spans.json").write_text(json.dumps(SPANS))
    return command_line


def test_the_rows_of_a_file_carry_their_sources(run, tmp_path):
    rows = [
        {"prompt": "why?", "documents": DOCUMENTS},
        {"prompt": "why?", "documents": [{"title": "A"}]},
        {"prompt": "why?", "documents": "all"},
        {"prompt": "why?", "spans": SPANS},
        {"prompt": "why?", "spans": SPANS, "documents": DOCUMENTS},
        {"prompt": "why?", "spans": [{"name": "first", "start": 0, "stop": 99}]},
        {"prompt": "why?"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, out, err = run("attribute", "--file", "rows.jsonl", "--method", "occlusion:unit=span")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert "2 explained, 5 failed" in err
    alone = noiser.attribute(small(), "why?", "occlusion", unit="span", documents=DOCUMENTS)
    np.testing.assert_allclose(found[0]["scores"], alone.scores, atol=1e-7)
    assert found[3]["prompt"]["spans"] == SPANS
    said = [record.get("error", {}).get("message", "") for record in found]
    expected = ["", "needs a 'text'", "documents are a list", "", "not both", "ends at character 99", "no named spans"]
    assert all(part in message for part, message in zip(expected, said, strict=True))
    code, out, _ = run("attribute", "--file", "rows.jsonl", "--method", "occlusion:unit=span", "--dry-run", "--format", "jsonl")
    assert json.loads(out)["prompts"] >= 2


def test_compare_and_interactions_take_documents_and_words(run):
    asked = {"continuation": "abc", "explain": "bc", "documents": DOCUMENTS}
    words = ("why?", "--documents", "documents.jsonl", "--continuation", "abc", "--explain", "bc", "--format", "json")
    code, out, _ = run("compare", *words, "--methods", "occlusion:unit=span,lime:unit=span")
    compared = noiser.compare(small(), "why?", ["occlusion:unit=span", "lime:unit=span"], **asked)
    assert code == 0
    assert [each["scores"] for each in json.loads(out)["attributions"]] == [each.to_dict()["scores"] for each in compared.attributions]
    pytest.importorskip("shapiq")
    code, out, _ = run("interactions", *words, "--unit", "span")
    pairs = noiser.interactions(small(), "why?", **asked, unit="span")
    assert code == 0
    assert pairs.units.texts == ("A", "B", "question")
    assert json.loads(out)["interactions"] == pairs.to_dict()["interactions"]


@pytest.mark.parametrize("command", ["attribute", "compare"])
def test_what_does_not_fit_is_said(run, command):
    for words, said in [
        (("--explain", "a"), "give continuation or generate"),
        (("--continuation", "aba", "--explain", "a"), "'a' is in 2 places of the continuation, its tokens 0:1, 2:3"),
        (("--continuation", "aba", "--explain", "a", "--span", "0:1"), "give span or explain, not both"),
        (("--continuation", "aba", "--explain", "c"), "not in the continuation, which is 'aba'"),
        (("--documents", "documents.jsonl", "--spans", "spans.json"), "not both"),
    ]:
        code, _, err = run(command, "why?", *words)
        assert code == 2
        assert said in " ".join(err.split())


def test_a_dry_run_marks_what_a_search_takes_at_least(run):
    words = ("attribute", "why so. But no.\n\nYes", "--dry-run", "--method")
    _, search, _ = run(*words, "noiser:samples=2+unit=auto")
    assert "at least" in search
    assert "decides by what it measures" in search
    _, fixed, _ = run(*words, "occlusion:unit=auto")
    assert "at least" not in fixed
