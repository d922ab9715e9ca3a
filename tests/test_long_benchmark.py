"""The benchmark of long prompts in miniature: its generator, its scoring by hand-made numbers, each part on one prompt and a tiny model.

Mutants caught: a needle in two documents; titles that come twice; the order of documents left unshuffled; a rank counted from the lowest
score; recall of all units instead of the top; LIME's fit without the whole prompt; deletions that drop the question; a score's prediction
over what was deleted instead of what is left.
"""

import json
import re

import numpy as np
import pytest
from benchmarks import long, long_ablations, long_prompts, long_recall, long_records

import noiser
from noiser.methods.lime import lasso
from tests.conftest import byte_tokenizer, tiny

LM = noiser.LanguageModel(tiny("llama", max_position_embeddings=8192), byte_tokenizer())
IDS = [65, 66]


def answer_names(needle):
    return needle.answer.strip().split(" and ")


@pytest.mark.parametrize("kind, count", list(long.SERIES))
@pytest.mark.parametrize("number", [0, 1, 7])
def test_the_answer_is_in_the_needed_documents_and_nowhere_else(kind, count, number):
    needle = long_prompts.make(kind, count, number)
    texts = [document["text"] for document in needle.documents]
    assert len(texts) == count == len({document["title"] for document in needle.documents})
    named = [{place for place, text in enumerate(texts) if name in text} for name in answer_names(needle)]
    assert all(len(places) == 1 for places in named)
    assert set().union(*named) <= set(needle.needed) and len(needle.needed) == (1 if kind == "one" else 2)
    assert not set(needle.needed) & set(needle.distractors) and (needle.distractors or count == 2)
    assert all(any(word in texts[place] for word in re.findall(r"[A-Za-z]{4,}", needle.question)) for place in needle.distractors)
    assert needle == long_prompts.make(kind, count, number) != long_prompts.make(kind, count, number + 1)
    assert long.of_id(needle.id) == needle


def test_in_a_hop_the_second_document_names_the_person_of_the_first():
    needle = long_prompts.make("hop", 8, 2)
    first, second = (needle.documents[place]["text"] for place in needle.needed)
    home, deed = (first, second) if needle.answer.strip() in first else (second, first)
    person = home.split(" lives in")[0].removesuffix(" now").rsplit(". ", 1)[-1]
    assert person in deed and person not in needle.question


def test_needed_documents_come_at_every_place():
    places = [long_prompts.make("one", 8, number).needed[0] for number in range(60)]
    assert len(set(places)) == 8 and max(places.count(place) for place in places) < 20


def test_the_records_of_the_screening_are_about_these_prompts():
    """A generator that changes makes the records wrong."""
    for line in long_records.lines("screen"):
        needle = long.of_id(line["id"])
        assert (line["needed"], line["distractors"]) == (list(needle.needed), list(needle.distractors))


def test_groups_of_prompts():
    def line(greedy, *without):
        return {"id": "one-2-0", "greedy": greedy, "log_prob": -1.0, "without": without}

    assert long.group(line(True, [-1.2, False])) == "answered", "another answer is the greedy one without the document"
    assert long.group(line(True, [-1.2, True])) == "other"
    assert long.group(line(False, [-1.8, False])) == "forced"
    assert long.group(line(False, [-1.8, False], [-1.1, False])) == "other", "each needed document counts"


def test_first_places():
    assert long.found_first([0.1, 0.9, 0.5], [1]) == (True, True)
    assert long.found_first([0.1, 0.9, 0.5], [0]) == (False, False)
    assert long.found_first([0.1, 0.9, 0.5, -2.0], [1, 3]) == (False, True)
    assert long.found_first([0.1, 0.9, 0.5], [2, 1]) == (True, True)


def test_recall():
    assert long_recall.recall([5, 4, 3, 2, 1, 0], [5, 4, 0, 0, 0, 9], top=3) == pytest.approx(2 / 3)


def test_lds_is_the_rank_correlation_over_what_is_left():
    present = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)
    assert long_ablations.lds(present, [1.0, 2.0, 0.5], [10, 20, 30, 5]) == pytest.approx(1)
    assert long_ablations.lds(present, [-1.0, -2.0, -0.5], [10, 20, 30, 5]) == pytest.approx(-1)
    assert long_ablations.lds(present, [0.0, 0.0, 0.0], [10, 20, 30, 5]) == 0


def test_the_deletion_lasso_explains_the_logit():
    rng = np.random.default_rng(0)
    present = rng.random((64, 5)) < 0.5
    logit = present @ np.array([4.0, 0, 0, -1, 0]) - 2
    values = (-np.log1p(np.exp(-logit))).tolist()
    np.testing.assert_allclose(long_ablations.deletion_lasso(present, values, 1), lasso(present, logit, 0.01)[0], atol=1e-6)
    np.testing.assert_allclose(long_ablations.deletion_lasso(present, values, 3), 3 * lasso(present, logit / 3, 0.01)[0], atol=1e-6)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(long_records, "FOLDER", tmp_path)
    return tmp_path


def test_one_run_of_masks_is_lime_and_the_lasso_of_the_library():
    """Each alone gives the same scores, so that one run for three is no other method."""
    needle = long_prompts.make("one", 2, 0)
    found = {record["method"]: record for record in long.scored(LM, needle, "masks", IDS)}
    prompt = LM.prompt(needle.question, documents=needle.documents)
    prompt = long.replace(prompt, spans=prompt.spans[:2])
    for label, record in found.items():
        alone = noiser.attribute(LM, prompt, label, target=IDS, quantity="log_prob", unit="span")
        np.testing.assert_allclose(record["scores"], alone.by("span").scores[0], atol=1e-5)
        assert record["tokens"] == long_records.LIME[label] * len(prompt)


def test_sentences_and_deletions_of_one_prompt():
    needle = long_prompts.make("one", 8, 1)
    found = long_ablations.sources(LM, needle)
    whole = LM.prompt(needle.question, documents=needle.documents).text
    assert found.kept([True] * len(found.pieces)) == whole
    assert found.kept([False] * len(found.pieces)) == needle.question
    assert all(whole[span.start : span.stop] == piece for span, piece in zip(found.spans, found.pieces, strict=True))
    assert sum(piece.startswith("Document") for piece in found.pieces) == 8 and all(piece.strip() for piece in found.pieces)


def test_each_part_runs_and_goes_on_where_it_stopped(folder, monkeypatch):
    """Two documents and few draws. A second run adds nothing."""
    needle = long_prompts.make("one", 2, 0)
    monkeypatch.setattr(long, "SERIES", {("one", 2): 1})
    monkeypatch.setattr(long, "PLAN", ((("occlusion", "input_x_gradient:aggregation=sum", "last_attention", "masks"), 2, 1.0),))
    monkeypatch.setattr(long, "target_ids", lambda lm, needle: tuple(IDS))
    monkeypatch.setattr(long, "group", lambda line: "answered")
    monkeypatch.setattr(long_ablations, "FITTED", 8)
    monkeypatch.setattr(long_ablations, "HELD", 8)
    monkeypatch.setattr(long_ablations, "DELETION", {"deletion lasso 32": 4, "deletion lasso 64": 8})
    written: dict[str, str] = {}
    for _ in range(2):
        long.screen(LM, np.inf, 2)
        long.retrieval(LM, np.inf, 2)
        long_ablations.proceed(LM, needle, IDS, ("occlusion",))
        long_recall.proceed(LM, needle, IDS, "occlusion")
        written = {file.name: file.read_text() for file in folder.iterdir()}
    assert {name: len(text.splitlines()) for name, text in written.items()} == {
        "screen.jsonl": 1, "retrieval.jsonl": 6, "ablations.jsonl": 3, "recall.jsonl": 5,
    }  # fmt: skip
    assert all(len(json.loads(line)["scores"]) == 2 for line in written["retrieval.jsonl"].splitlines())
    monkeypatch.setitem(long.TABLES, "ablations", lambda: long_ablations.table({needle.id: 2}))
    printed = {name: table() for name, table in long.TABLES.items()}
    assert "| occlusion | 1 |" in printed["ablations"] and "| occlusion | 20 % | 1 |" in printed["recall"]
    assert "of 1 (" in printed["retrieval"] and "| recency |" in printed["retrieval"]
