"""`noiser run`, `status`, `report`, `merge`, `export`, `reproduce`, `data` as a user types them.

Mutants caught: an option of the command line that does not reach the run; a plan's path taken from the working directory; another
exit status; a refusal with a traceback; the run's own folder not found again by the same command.
"""

import json
import subprocess
import sys

import pytest

from tests.runs import keys, make_place

FEW = ("--methods", "occlusion", "--metrics", "soft_ns:masks=2,soft_nc:masks=2", "--controls", "random")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture
def run(monkeypatch, command_line, tmp_path):
    """The command line in an empty folder: exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    return command_line


@pytest.fixture
def small(place):
    return ("run", "--models", place / "model", "--data", place / "few.jsonl", "--limit", "3", *FEW)


def test_a_run_from_start_to_table(run, small, tmp_path):
    code, out, err = run(*small, "--out", "r")
    assert (code, out) == (0, "")
    assert "3 of 3 samples done, 0 with failures" in err
    assert "18 trials = 18 ok" in err
    assert "3/3 samples, " in err
    assert "\x1b" not in err, "plain lines where there is no terminal"
    code, out, _ = run("status", "r")
    assert code == 0
    assert out.split("\n")[1].split() == ["model", "few", "3", "3", "3", "18", "ok"]
    code, out, _ = run("status", "r", "--format", "json")
    said = json.loads(out)
    assert (said["planned"], said["complete"], said["unknown_records"]) == (18, True, 0)
    code, out, _ = run("report", "r")
    assert code == 0
    assert "### Table 1: faithfulness on few, protocol matched" in out
    assert "| occlusion |" in out
    assert run("report", "r", "--out", "a.md")[0] == 0
    figures = sorted(path.name for path in (tmp_path / "a-figures").iterdir())
    assert all(f"(a-figures/{name})" in (tmp_path / "a.md").read_text() for name in figures if name.endswith("svg"))
    assert run("report", "r", "--format", "html", "--out", "a.html")[0] == 0
    assert run("report", "r", "--format", "latex", "--out", "a.tex", "--figures", "f", "--no-timings")[0] == 0
    assert r"\includegraphics[width=\linewidth]{f/metric-0-0.png}" in (tmp_path / "a.tex").read_text()
    assert "seconds" not in (tmp_path / "a.tex").read_text()
    code, _, err = run("export", "r", "--to", "csv")
    assert (code, err) == (0, "12 rows in r-values.csv\n")
    again = run(*small, "--out", "r")
    assert again[0] == 0
    assert "loading" not in again[2], "nothing to do, so no model is loaded"


def test_a_plan_in_a_file_says_the_same(run, small, place, tmp_path):
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "mine.jsonl").write_bytes((place / "few.jsonl").read_bytes())
    (tmp_path / "plans" / "plan.toml").write_text(
        f'models = ["{place / "model"}"]\ndata = [{{name = "jsonl", path = "mine.jsonl", limit = 3}}]\nmethods = ["occlusion"]\n'
        'metrics = [{name = "soft_ns", masks = 2}, "soft_nc:masks=2"]\ncontrols = ["random"]\n'
    )
    assert run("run", "plans/plan.toml", "--out", "a")[0] == 0
    assert run(*small, "--out", "b")[0] == 0
    assert keys(tmp_path / "a") == keys(tmp_path / "b"), "the same trials have the same keys"
    code, _, err = run("run", "plans/plan.toml", "--seed", "1", "--out", "a")
    assert (code, err) == (2, "Error: the plan says what is run: leave out --seed, or change plans/plan.toml\n")


def test_another_run_in_the_folder_is_refused_with_what_differs(run, small, tmp_path):
    assert run(*small, "--out", "r")[0] == 0
    before = keys(tmp_path / "r")
    code, _, err = run(*small, "--seed", "1", "--limit", "2", "--out", "r")
    assert code == 1
    assert "Error: r holds another run. The differences, there and now:" in err
    assert "seed: 0 -> 1" in err
    assert "data.few.limit: 3 -> 2" in err
    assert "Traceback" not in err
    assert keys(tmp_path / "r") == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run",), "give a plan"),
        (("run", "--data", "known-mini"), "give --out FOLDER"),
        (("run", "--data", "nowhere", "--out", "r"), "nowhere"),
        (("run", "--data", "known-mini", "--methods", "nothing", "--out", "r"), "there is no method 'nothing'"),
        (("run", "--data", "known-mini", "--shard", "2/2", "--out", "r"), "--shard wants WHICH/OF"),
        (("run", "--data", "known-mini", "--engine", "slurm", "--out", "r"), "--engine must be local or ray"),
        (("run", "--data", "known-mini", "--workers", "2", "--out", "r"), "are for --engine ray"),
        (("run", "none.toml", "--out", "r"), "there is no file none.toml"),
        (("reproduce", "table9"), "there is no 'table9' to reproduce"),
        (("reproduce", "figure1"), "there are table1, table2, table3, table5, table6, table7, figure2, figure3, figure4"),
        (("report", "r", "--format", "docx"), "--format must be one of md, html, latex"),
        (("data", "stats", "--data", "nowhere"), "nowhere"),
    ],
)
def test_wrong_words_are_said_before_anything_is_loaded(run, words, said):
    code, _, err = run(*words)
    assert code == 2
    assert said in err
    assert err.count("Error:") == 1


def test_a_folder_without_a_run_is_an_error(run, tmp_path):
    for words in (("status", "."), ("report", "."), ("export", "."), ("merge", ".", "--out", "b")):
        code, _, err = run(*words)
        assert code == 1
        assert "holds no run" in err


def test_a_run_that_has_just_begun_has_a_report_too(run, small):
    assert run(*small, "--out", "r", "--time-limit", "0")[0] == 75
    code, out, _ = run("report", "r")
    assert code == 0
    assert "0 of 3 samples are done: the run is not complete." in out
    assert "18 = 18 missing" in out


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(run, small, tmp_path):
    code, out, _ = run(*small, "--out", "r", "--dry-run")
    assert code == 0
    assert "model on few: 3 samples of 3 rows, 18 trials" in out
    assert "peak memory" in out
    assert not (tmp_path / "r").exists()
    said = json.loads(run(*small, "--dry-run", "--format", "json")[1])
    assert said["trials"] == 18
    assert said["forward_tokens"] > 0


@pytest.mark.slow
def test_a_published_table_is_reproduced_in_one_command_and_gone_on_with_by_the_same(run, place, tmp_path):
    rows = [{"known_id": n, "prompt": f"a{n} b", "subject": "a", "attribute": "x", "relation_id": f"P{n % 2}"} for n in range(4)]
    (tmp_path / "k.json").write_text(json.dumps(rows))
    words = ("reproduce", "table2", "--model", place / "model", "--data", "known:match=none+path=k.json", "--limit", "2")
    code, _, _ = run(*words, "--time-limit", "0")
    assert code == 75
    code, out, _ = run(*words)
    assert code == 0
    assert "### Table 2: Noiser's bounds on known:match=none, protocol official" in out
    assert "| k\\_min | noiser:bound=k\\_min |" in out
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("table2-model-")
    assert {"report.html", "report.md", "figures", "run.json"} <= {each.name for each in folder.iterdir()}
    code, out, _ = run("reproduce", "table7", "--model", place / "model", "--data", "known:match=none+path=k.json")
    assert code == 0
    assert "| known:match=none | model | 4 | 4 | 100.0% \\[51.0%, 100.0%\\] |" in out


def test_data_can_be_listed(run):
    code, out, _ = run("data", "list")
    assert code == 0
    assert "longra-mini" in out


@pytest.mark.slow
def test_torchrun_shares_out_the_work(place, small, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "noiser"]
    ended = subprocess.run([*launcher, *map(str, small), "--out", str(tmp_path / "r")], capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name.split("-vm")[0][:12] for path in (tmp_path / "r" / "records").iterdir()) == ["shard-0-of-2", "shard-1-of-2"]
    assert set(keys(tmp_path / "r").values()) == {1}
    assert len(keys(tmp_path / "r")) == 3 * 7
