"""`noiser evaluate` and `noiser check`: tables one can read, strict JSON, bad input said before weights are read.

Mutants caught, each run: what is set for all over what a name says itself; the exit status 0 after a failure, or 1 for what is
only undefined; plots that differ from run to run.
"""

import json

import pytest

import noiser
from noiser.errors import OptionError
from noiser.metrics import METRICS
from noiser.views.plots import save_plots
from tests.conftest import byte_tokenizer, tiny

FAST = ("--methods", "occlusion,input_x_gradient", "--masks", "2")


@pytest.fixture(scope="module")
def lm():
    return noiser.LanguageModel(tiny("llama"), byte_tokenizer(), name="tiny")


@pytest.fixture
def run(lm, monkeypatch, command_line):
    """The command line on a tiny model: exit status, standard output, standard error."""
    monkeypatch.setattr("noiser.lm.load.load", lambda *_, **__: lm)
    return command_line


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("The sky is\n\nGrass is so\nSnow is [bold]\n")
    return file


def test_the_table_has_methods_metrics_intervals_groups_controls_and_accounting(run, prompts):
    code, out, _ = run("evaluate", "--prompts", prompts, *FAST, "--metrics", "soft_ns,soft_nc,aopc")
    assert code == 0
    for wanted in (
        "soft_ns",
        "soft_nc",
        "faithfulness",
        "aopc",
        "\u2191 higher is better",
        "3 compared, 3 clusters",
        "controls",
        "recency",
    ):
        assert wanted in out
    assert "permuted:occlusion" in out
    assert "63 planned = 63 ok" in out
    assert "3 clusters: too few for an interval; at least 5 are needed" in out
    line = next(line for line in out.splitlines() if line.startswith("occlusion"))
    assert "[" not in line
    assert " a" in line
    assert "token" in out.splitlines()[-1]


def test_five_prompts_are_enough_for_intervals(run, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("The sky is\nGrass is so\nSnow is [bold]\nA cat is\nThe sea is\n")
    code, out, _ = run("evaluate", "--prompts", file, *FAST, "--metrics", "soft_ns,aopc")
    assert code == 0
    assert "only 5 clusters: the intervals are rough" in out
    assert "[" in next(line for line in out.splitlines() if line.startswith("occlusion"))


TWO_OPERATORS = ["comprehensiveness:operator=delete", "comprehensiveness:operator=infill"]


def test_json_is_strict_and_whole(run, prompts):
    code, out, _ = run("evaluate", "--prompts", prompts, *FAST, "--format", "json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert (found["schema"], found["model"], found["samples"], found["planned"]) == (1, "tiny", 3, 3 * 7 * 4)
    assert sum(found["statuses"].values()) == found["planned"] == len(found["records"])
    assert {record["sample"] for record in found["records"]} == {"1", "3", "4"}, "ids are line numbers"
    assert [each["metric"] for each in found["summary"]] == ["soft_ns", "soft_nc", "faithfulness", *TWO_OPERATORS]
    assert set(found["costs"]) >= {"metrics", "occlusion"}
    assert {each["options"].get("masks") for each in found["metrics"]} == {2, None}


def test_protocol_and_settings_reach_what_has_them(run, prompts):
    metrics = "soft_ns,soft_nc:protocol=paper,aopc"
    settings = ("--protocol", "official", "--set", "aopc.operator=delete", "--set", "occlusion.baseline=unk")
    code, out, _ = run("evaluate", "--prompts", prompts, *FAST, "--metrics", metrics, *settings, "--format", "json", "--limit", "2")
    found = json.loads(out)
    assert code == 0
    options = {each["label"]: each["options"] for each in (*found["metrics"], *found["methods"])}
    assert options["soft_ns"]["protocol"] == "official"
    assert options["soft_nc:protocol=paper"]["protocol"] == "paper"
    assert options["aopc"]["operator"] == "delete"
    assert options["occlusion"]["baseline"] == "unk"
    assert found["samples"] == 2


def test_objects_a_line_carry_target_id_and_group(run, tmp_path):
    file = tmp_path / "examples.jsonl"
    lines = [
        {"prompt": "The sky is", "target": " b", "id": "sky", "group": "colours", "note": "free"},
        {"prompt": "Grass is so", "group": "colours"},
        {"note": "no prompt"},
        {"prompt": ""},
        {"prompt": 7.5, "id": 12},
    ]
    file.write_bytes(b"\n".join([*(json.dumps(line).encode() for line in lines), b"{not json", b"\xff\xfe"]))
    code, out, _ = run("evaluate", "--prompts", file, *FAST, "--metrics", "soft_ns", "--format", "json")
    found = json.loads(out)
    assert code == 1
    statuses = {record["sample"]: record["status"] for record in found["records"]}
    assert statuses == {"sky": "ok", "2": "ok", **dict.fromkeys(("3", "4", "12", "6", "7"), "error(PromptError)")}
    assert {record["group"] for record in found["records"] if record["status"] == "ok"} == {"colours"}
    assert sum(found["statuses"].values()) == found["planned"]
    messages = {record["sample"]: record["message"] for record in found["records"]}
    assert "line 6 is not JSON" in messages["6"]
    assert "line 7: the line is not UTF-8" in messages["7"]
    assert 'line 3: wanted an object with a "prompt"' in messages["3"]


def test_what_a_name_says_itself_is_not_overridden_by_what_is_set_for_all(run, prompts):
    methods = "noiser:samples=3,noiser"
    given = (
        "--methods",
        methods,
        "--set",
        "samples=2",
        "--set",
        "steps=3",
        "--metrics",
        "aopc",
        "--controls",
        "random",
        "--format",
        "json",
    )
    code, out, _ = run("evaluate", "--prompts", prompts, *given)
    options = {each["label"]: each["options"] for each in json.loads(out)["methods"]}
    assert code == 0
    assert (options["noiser:samples=3"]["samples"], options["noiser"]["samples"]) == (3, 2)
    assert options["noiser:samples=3"]["steps"] == options["noiser"]["steps"] == 3


def test_ids_of_lines_make_way_for_ids_that_were_given(run, tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"prompt": "a b", "id": "2"}\n{"prompt": "c d"}\n{"prompt": "e", "id": "\\ud800"}\n')
    code, out, _ = run("evaluate", "--prompts", file, *FAST, "--metrics", "soft_ns", "--controls", "random", "--format", "json")
    assert code == 0
    assert [record["sample"] for record in json.loads(out)["records"][::3]] == ["2", "2'", "\\ud800"]


def test_what_is_only_undefined_is_no_failure(run, tmp_path):
    file = tmp_path / "one.txt"
    file.write_text("a\n")
    code, out, _ = run("evaluate", "--prompts", file, *FAST[:2], "--metrics", "naopc")
    assert code == 0
    assert "7 undefined" in out
    assert "every order of the tokens has the same AOPC" in out


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("--prompts", "nowhere.txt"),
        ("--prompts", "HERE", "--methods", "nonsense"),
        ("--prompts", "HERE", "--methods", "occlusion,occlusion"),
        ("--prompts", "HERE", "--metrics", "nonsense"),
        ("--prompts", "HERE", "--metrics", "aopc", "--protocol", "paper"),
        ("--prompts", "HERE", "--protocol", "fair"),
        ("--prompts", "HERE", "--controls", "nonsense"),
        ("--prompts", "HERE", "--set", "lime.samples=4"),
        ("--prompts", "HERE", "--set", "budget=4"),
        ("--prompts", "HERE", "--format", "xml"),
        ("--prompts", "HERE", "--plots", "HERE"),
        ("--prompts", "HERE", "--plots", "/proc/x"),
        ("--prompts", "HERE", "--controls", "permuted,permuted:noiser"),
        ("--prompts", "EMPTY"),
    ],
)
def test_what_makes_no_sense_is_refused_before_weights_are_read(wrong, run, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr("noiser.lm.load.load", lambda *_, **__: pytest.fail("weights were read"))
    (tmp_path / "empty.txt").write_text("\n\n")
    places = {"HERE": prompts, "EMPTY": tmp_path / "empty.txt"}
    code, out, err = run("evaluate", *(places.get(each, each) for each in wrong))
    assert code == 2
    assert out == ""
    assert err.startswith("Error: ")
    assert len(err.strip().splitlines()) == 1


def test_list_says_of_every_metric_what_it_measures_and_what_fools_it(run):
    code, out, _ = run("evaluate", "--list")
    assert code == 0
    for name, entry in METRICS.items():
        assert f"{name}  ({entry.better} is better)" in out
    assert out.count("measures: ") == out.count("fools it: ") == len(METRICS)
    code, out, _ = run("evaluate", "--list", "--format", "json")
    assert {each["name"] for each in json.loads(out)["metrics"]} == set(METRICS)


def test_plots_are_drawn_for_each_metric_and_are_the_same_every_time(run, prompts, lm, tmp_path):
    folder = tmp_path / "plots"
    code, _, _ = run("evaluate", "--prompts", prompts, *FAST, "--metrics", "soft_ns,soft_nc:protocol=matched", "--plots", folder)
    assert code == 0
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 6, "both metrics and their sum"
    assert {"soft_ns.svg", "soft_ns.png", "soft_nc-protocol-matched.svg"} <= set(names)
    drawn = (folder / "soft_ns.svg").read_text()
    for wanted in ("occlusion", "recency (control)", "higher is better", "3 samples, 3 clusters"):
        assert wanted in drawn
    assert (folder / "soft_ns.png").read_bytes().startswith(b"\x89PNG")
    found = noiser.evaluate(lm, ["The sky is", "$Grass$ is so"], ["occlusion"], ["aopc"])
    first, second = (save_plots(found.summaries, found.model, tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_check_prints_a_table_and_fails_where_a_check_does(run, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("The sky is\nGrass is so\nSnow is now\n")
    code, out, _ = run("check", "--methods", "occlusion", "--prompts", file)
    assert code == 0, out
    assert "8 pass" in out
    code, out, _ = run("check", "--methods", "occlusion,uniform", "--prompts", file, "--format", "json")
    assert code == 1
    found = json.loads(out, parse_constant=pytest.fail)
    assert found["outcomes"]["fail"] >= 4
    assert {each["method"] for each in found["verdicts"] if each["outcome"] == "fail"} == {"uniform"}


@pytest.mark.parametrize("wrong", [("--methods", "nonsense"), ("--prompts", "nowhere"), ("--set", "lime.samples=3"), ("--format", "xml")])
def test_check_refuses_nonsense_first(wrong, run, monkeypatch):
    monkeypatch.setattr("noiser.lm.load.load", lambda *_, **__: pytest.fail("weights were read"))
    code, _, err = run("check", *wrong)
    assert code == 2
    assert err.startswith("Error: ")


def test_the_command_line_takes_metrics_with_and_without_names(run, monkeypatch, tmp_path):
    monkeypatch.setattr("noiser.evaluation.metric_checks.DEFAULT_METRICS", ("soft_nc:masks=2",))
    file = tmp_path / "prompts.txt"
    file.write_text("The sky is\nGrass is so\nSnow is now\nA cat sat on\nTwo and two\nNever say no\n")
    code, out, _ = run("check", "--metrics", "--methods", "occlusion", "--prompts", file, "--format", "json")
    assert code == 0
    found = json.loads(out, parse_constant=pytest.fail)
    assert [each["metric"] for each in found["verdicts"]] == ["soft_nc:masks=2"]
    code, out, _ = run("check", "--prompts", file, "--methods", "occlusion", "--metrics", "aopc,log_odds")
    assert code == 0
    assert "aopc" in out
    assert "6 prompts" in out
    assert "AUROC" in out


def test_printing_an_evaluation_shows_the_table(lm):
    found = noiser.evaluate(lm, ["The sky is", "Grass is so"], ["occlusion"], ["soft_ns"])
    assert "occlusion" in str(found)
    assert "12 planned = 12 ok" in str(found)
    with pytest.raises(OptionError):
        noiser.evaluate(lm, ["a"], ["occlusion"], ["soft_ns:protocol=fair"])
