"""Every command reads files through one reader, says what it recognised, and shows why rows cannot be read.

Mutants caught, each run: the row's target not passed on by `attribute --file`; `--fields` left out of a run's fingerprint; reasons left
out of the summary of a run; the exit status 0 of `data stats` or `status` with unreadable rows; ids of a target taken for the model's own.
"""

import json

import pytest

from noiser.storage import read_created
from tests.runs import make_place

QUICK = ("--method", "input_x_gradient")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture
def run(monkeypatch, command_line, tmp_path):
    """The command line in an empty folder: exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    return command_line


@pytest.fixture
def rows(tmp_path):
    """Six rows, three of which can be read."""
    lines = [{"q": "a b c", "gold": "x"}, {"q": "b c"}, {"q": 5}, {"p": "a"}, {"q": "c d", "gold": [7]}]
    (tmp_path / "rows.jsonl").write_text("\n".join([*map(json.dumps, lines), "{broken"]))
    return "rows.jsonl"


def test_attribute_explains_the_target_of_each_row(run, place, rows):
    code, out, err = run("attribute", "--file", rows, "--fields", "prompt=q,target=gold", "--model", place / "model", *QUICK)
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [record["line"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[0]["target"]["tokens"] == [" ", "x"], "the space is put before it, as in a run"
    assert records[4]["target"]["token_ids"] == [7]
    assert "line 4: it has no q; it has p" in records[3]["error"]["message"]
    assert "rows.jsonl: 3 of 6 rows cannot be read\n  line 3: " in err
    assert err.endswith("6 prompts: 3 explained, 3 failed\n")


def test_what_the_options_ask_comes_before_the_file(run, place, tmp_path):
    (tmp_path / "p.csv").write_text("id,prompt,target\nq7,a b c,x\n")
    code, out, err = run("attribute", "--file", "p.csv", "--target", "y", "--model", place / "model", *QUICK)
    assert code == 0
    assert (json.loads(out)["target"]["tokens"], json.loads(out)["id"]) == (["y"], "q7")
    assert "p.csv: read as CSV with the columns id, prompt, target" in err
    assert "the options say what is explained: 1 targets of the file are not used" in err


def test_fields_without_a_file_and_files_that_are_not_read_are_refused(run, tmp_path):
    (tmp_path / "x.gz").write_bytes(b"\x1f\x8b\x08")
    for words, said in (
        (("a", "--fields", "prompt=q"), "--fields are for --file"),
        (("--file", "x.gz"), "x.gz: it is compressed with gzip"),
    ):
        code, out, err = run("attribute", *words)
        assert (code, out) == (2, "")
        assert said in err


def test_data_stats_says_why_rows_cannot_be_read_and_exits_with_1(run, place, rows):
    words = ("data", "stats", "--model", place / "model", "--data")
    code, out, err = run(*words, f"{rows}:prompt=q+target=gold+match=none", "--format", "json")
    (counts,) = json.loads(out)["data"]
    assert code == 1
    assert (counts["rows"], counts["answered"], len(counts["unreadable"])) == (6, 3, 3)
    assert "rows.jsonl: 3 of 6 rows cannot be read\n  line 3: " in err
    assert run(*words, rows, "--fields", "prompt=q,target=gold", "--limit", "2")[0] == 0


def test_a_run_has_the_fields_in_its_fingerprint_and_says_what_it_could_not_read(run, place, rows, tmp_path):
    words = ("run", "--models", place / "model", "--data", rows, "--methods", "uniform", "--controls", "random", "--metrics", "")
    code, _, err = run(*words, "--fields", "prompt=q,target=gold", "--out", "r")
    assert code == 1
    assert "3 unreadable rows" in err
    assert "cannot be read: rows:prompt=q+target=gold, row 4: line 4: it has no q; it has p" in err
    (facts,) = read_created(tmp_path / "r" / "run.json")["identity"]["data"].values()
    assert facts["fields"] == "prompt=q,target=gold"
    record = next(
        line for file in (tmp_path / "r" / "records").iterdir() for line in file.read_text().splitlines() if '"sample":"5"' in line
    )
    assert '"token_ids":[7]' in record
    code, out, _ = run("status", "r")
    assert code == 1
    assert "row 6: line 6 is not JSON" in out
    code, out, _ = run("status", "r", "--format", "json")
    assert len(json.loads(out)["unreadable_reasons"]) == 3
    (tmp_path / "plan.toml").write_text(
        f'models = ["{place / "model"}"]\nmethods = ["uniform"]\ncontrols = ["random"]\nmetrics = []\n'
        '[[data]]\nname = "rows.jsonl"\nfields = {target = "gold", prompt = "q"}\n'
    )
    code, _, err = run("run", "plan.toml", "--out", "r")
    assert code == 1
    assert "3 of 3 samples done" in err, "the same fields in a plan are the same run"


def test_evaluate_and_check_read_a_table(run, place, tmp_path):
    (tmp_path / "p.tsv").write_text("id\tquestion\tanswer\nq7\twhat is a\tx\nq8\twhat is b\ty\n")
    words = ("--model", place / "model", "--methods", "uniform", "--format", "json")
    code, out, err = run(
        "evaluate", "--prompts", "p.tsv", "--fields", "prompt=question", "--metrics", "aopc", "--controls", "random", *words
    )
    assert code == 0
    assert {record["sample"] for record in json.loads(out)["records"]} == {"q7", "q8"}
    assert "p.tsv: read as TSV with the columns id, question, answer" in err
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a b c"}\n{"prompt": 7}\n')
    code, _, err = run("check", "--prompts", "bad.jsonl", *words)
    assert code == 2
    assert 'bad.jsonl: line 2: wanted a "prompt" that is text' in err


def test_messages_may_stand_in_an_object(run, place, tmp_path):
    (tmp_path / "request.json").write_text('{"model": "m", "messages": "hello"}')
    code, _, err = run("attribute", "--messages", "request.json", "--model", place / "model")
    assert code == 2
    assert "--messages wants a JSON list" in err
