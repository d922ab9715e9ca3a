"""Saved results come back equal, and everything else is refused by what it is.

Mutants caught, each run: offsets or turns left out of `_prompt_dict` (sums over words and turns differ); `label` not read; `also` not
moved to `extra`; the check of the scores' shape left out; `_exact` without the check of unknown fields; `stderr` or `dof` not read;
the check of a negative standard error left out.
"""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

import noiser
from noiser.errors import OptionError
from noiser.results.attribution import Cost
from noiser.results.evaluation import Evaluation
from noiser.results.records import MethodRow, MetricColumn, Number, Record, Row, Summary
from noiser.results.sanity import Checkup, MetricCheckup, MetricVerdict, Verdict
from noiser.text.prompt import Turn
from tests.shown_results import made, made_interactions


def chat():
    """An attribution with all that it can have: special tokens, offsets, turns, a row's own name, standard errors."""
    first = made().attributions[0]
    prompt = replace(first.prompt, turns=(Turn("user", (1, 2)), Turn("assistant", (3,))))
    return replace(first, prompt=prompt, label="noiser:bound=none", given=4, stderr=np.abs(first.scores) / 3, dof=(9,))


def evaluation():
    record = Record("1", "g", "noiser", "aopc", "ok", 0.25, steps=({"d0": 0.5},), extra={"share": 0.5})
    row = Row("noiser", False, Number(0.1 + 0.2, 0.0, 1.0), Number(-0.5), "a", {"ok": 1})
    return Evaluation(
        "tiny",
        "r",
        3,
        (MethodRow("noiser", "noiser", {"steps": 5}, False),),
        (MetricColumn("aopc", "aopc", {}, "higher", True),),
        1,
        (record, replace(record, status="error(PromptError)", value=None, message="too long")),
        (Summary("aopc", "higher", (row, replace(row, log_ratio=None)), 1, 1, ({"a": "x", "p": None},), ("few",)),),
        {"metrics": Cost(1.5, 2, 3, 4)},
        {"local": {"calls": 1}},
    )


def results():
    verdict = Verdict("random weights", "noiser", "pass", 0.1, "it differs")
    return {
        "attribution": chat(),
        "comparison": made(),
        "interactions": made_interactions(),
        "evaluation": evaluation(),
        "metric checkup": MetricCheckup(
            "tiny",
            "r",
            "occlusion",
            3,
            (MetricVerdict("aopc", Number(0.7, 0.6, 0.8), Number(None), 3, {"copy": 0.5, "linear": None}),),
            {"copy": "this one", "linear": "these"},
            {"noiser": {"copy": 1.0, "linear": None}},
        ),
        "checkup": Checkup("tiny", "r", {"random weights": "it differs"}, ("noiser",), (verdict, replace(verdict, figure=None))),
    }


@pytest.mark.parametrize("kind", ["attribution", "comparison", "interactions", "evaluation", "checkup", "metric checkup"])
def test_what_was_saved_comes_back_equal(tmp_path, kind):
    result = results()[kind]
    text = json.dumps(result.to_dict())
    (tmp_path / "saved.json").write_text(text)
    found = noiser.read(tmp_path / "saved.json")
    assert type(found) is type(result)
    assert json.dumps(found.to_dict()) == text
    assert str(found) == str(result)
    (tmp_path / "pretty.json").write_bytes(json.dumps(result.to_dict(), indent=2).encode("utf-16"))
    assert json.dumps(noiser.read(tmp_path / "pretty.json").to_dict()) == text


@pytest.mark.parametrize("unit", ["word", "turn"])
def test_sums_over_units_survive(tmp_path, unit):
    (tmp_path / "saved.json").write_text(chat().to_json())
    found = noiser.read(tmp_path / "saved.json")
    assert found.by(unit).to_dict() == chat().by(unit).to_dict()
    assert np.array_equal(found.scores, chat().scores)
    assert (found.prompt, found.label, found.given) == (chat().prompt, chat().label, chat().given)


def test_standard_errors_survive_and_are_left_out_where_there_are_none(tmp_path):
    result = chat()
    (tmp_path / "saved.json").write_text(result.to_json())
    for found in (noiser.read(tmp_path / "saved.json"), pickle.loads(pickle.dumps(result)), replace(result, notes={})):
        assert found.stderr.tobytes() == result.stderr.tobytes()
        assert found.dof == (9,)
        with pytest.raises(ValueError, match="read-only"):
            found.stderr[0, 0] = 1
    assert not {"stderr", "dof"} & set(made().attributions[0].to_dict())


def test_a_file_of_an_earlier_version_has_no_offsets(tmp_path):
    record = json.loads(chat().to_json())
    for name in ("offsets", "special", "turns"):
        del record["prompt"][name]
    (tmp_path / "saved.json").write_text(json.dumps(record))
    assert noiser.read(tmp_path / "saved.json").by("word").units.texts


def test_a_file_of_lines_gives_a_list_with_its_failures(tmp_path):
    failed = {"schema": 1, "line": 2, "prompt": {"text": "x"}, "error": {"class": "PromptError", "message": "too long"}}
    lines = [json.dumps({**chat().to_dict(), "line": 1, "by": {"any": 1}}), json.dumps(failed)]
    (tmp_path / "scores.out").write_text("\n".join(lines) + "\n")
    one, other = noiser.read(tmp_path / "scores.out")
    assert one.to_dict() == chat().to_dict()
    assert (other.prompt, other.error, other.message) == ("x", "PromptError", "too long")
    (tmp_path / "one.jsonl").write_text(lines[0] + "\n")
    assert len(noiser.read(tmp_path / "one.jsonl")) == 1


def test_interactions_are_frozen_and_survive_pickling():
    result = made_interactions()
    found = pickle.loads(pickle.dumps(result))
    assert found.to_json() == result.to_json()
    for values in (result.values, found.shapley):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 1
    pairs = result.strongest()
    assert len(pairs) == 6
    assert [abs(pair.value) for pair in pairs] == sorted((abs(pair.value) for pair in pairs), reverse=True)
    assert [(pair.first, pair.second, pair.value) for pair in result.strongest(2)] == [(0, 1, 0.75), (2, 3, -0.5)]


def damaged(change, result=chat):
    record = json.loads(result().to_json())
    change(record)
    return json.dumps(record)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"prompt": "Oslo is in"}', "it is a row with a prompt: explain it with noiser attribute --file, no saved result"),
        ('{"schema": 1, "metrics": []}', "it is a JSON object with schema, metrics, no saved result of noiser"),
        ("[1, 2]", "it is JSON of another kind (list), no saved result"),
        ("The capital of France is\n", "line 1 is not JSON"),
        ("<!doctype html><html>", "it is a page (HTML); a saved result is JSON"),
        (b"\x1f\x8b\x08", "it is compressed with gzip: unpack it first"),
        ("", "it is empty"),
        (damaged(lambda record: record.update(schema=2)), "it has schema 2; this noiser reads schema 1"),
        (damaged(lambda record: record["scores"][0].pop()), "it is a damaged result of noiser: its scores are not 1 rows of 5 numbers"),
        (damaged(lambda record: record["stderr"][0].pop()), "it is a damaged result of noiser: its stderr are not 1 rows of 5 numbers"),
        (damaged(lambda record: record["stderr"][0].__setitem__(0, -0.1)), "a standard error is negative"),
        (damaged(lambda record: record.update(dof=[0])), "its dof are not 1 whole numbers from 1"),
        (damaged(lambda record: record["interactions"].pop(), made_interactions), "its interactions are not those of 4 units"),
        (damaged(lambda record: record["units"]["of"].pop(), made_interactions), "its units are not those of its prompt"),
        (damaged(lambda record: record["units"]["texts"].pop(), made_interactions), "its units are not those of its prompt"),
        (damaged(lambda record: record["prompt"].pop("tokens")), "it is a damaged result of noiser: it lacks 'tokens'"),
        (damaged(lambda record: record["cost"].update(euros=1)), "it is a damaged result of noiser: a Cost has no euros"),
        (damaged(lambda record: record["prompt"].update(tokens=[1] * 5)), "'1' stands where text should"),
        (chat().to_json() + "\n" + chat().to_json()[:40] + "\n", "line 2 is not JSON"),
    ],
)
def test_what_is_no_saved_result_is_refused_by_what_it_is(tmp_path, content, said):
    (tmp_path / "x.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(OptionError) as caught:
        noiser.read(tmp_path / "x.json")
    assert str(caught.value).startswith("x.json: ")
    assert said in str(caught.value)


def test_a_folder_is_no_saved_result(tmp_path):
    with pytest.raises(OptionError, match="noiser report"):
        noiser.read(tmp_path)
