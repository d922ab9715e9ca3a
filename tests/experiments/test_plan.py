"""What a run is: every setting either changes numbers, and then refuses to go on, or does not, and then is free.

Mutants caught: a revision, a dtype, a version or a seed left out of the fingerprint; a path, a device or a batch size taken into it;
a key that depends on a label or on how many samples there are; a new option of `load` or of `noiser run` that nobody classified.
"""

import dataclasses
import inspect
import itertools

import pytest

import noiser
from noiser.cli.options import RENAMED
from noiser.cli.run import run as run_command
from noiser.errors import OptionError, RunError
from noiser.experiments.fingerprint import display_settings, make_fingerprint, stable_hash
from noiser.experiments.folder import RunFolder
from noiser.experiments.plan import DataChoice, ExecutionConfig, JudgeChoice, ModelChoice, Plan, make_plan, read_plan
from noiser.experiments.run import prepare
from noiser.experiments.trials import make_cell, sample_hash
from noiser.judges.protocol import JudgeConfig
from noiser.registry import METHODS, METRICS
from tests.conftest import byte_tokenizer, tiny

KINDS = (ModelChoice, DataChoice, JudgeChoice, Plan)
LOAD = {"adapter", "revision", "dtype", "attention", "template_args"}
"""Options of `load` that change numbers; `model` itself apart."""
LOAD_ONLY = {"device", "device_map", "token_budget", "trust_remote_code", "allow_pickle", "max_connections"}
RUN = {
    "plan", "models", "data", "fields", "methods", "metrics", "controls", "limit", "generate", "seed", "dtype", "attention", "revision",
    "judge", "template_args", "adapter",
}  # fmt: skip
RUN_ONLY = {
    "out", "dry_run", "time_limit", "timeout", "fail_on_error", "retry", "max_samples", "shard", "engine", "address", "workers", "device",
    "device_map", "trust_remote_code", "allow_pickle", "token_budget", "format_", "judge_url", "judge_cache", "judge_max_connections",
    "judge_timeout", "judge_total_timeout", "tokenizer",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    for name, seed in (("model", 0), ("other", 1)):
        tiny("llama", seed).save_pretrained(folder / name)
        byte_tokenizer().save_pretrained(folder / name)
    (folder / "a.jsonl").write_text('{"prompt": "one two", "id": "x"}\n{"prompt": "three", "id": "y"}\n')
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "a.jsonl").write_bytes((folder / "a.jsonl").read_bytes())
    (folder / "changed").mkdir()
    (folder / "changed" / "a.jsonl").write_text('{"prompt": "one two!", "id": "x"}\n{"prompt": "three", "id": "y"}\n')
    return folder


def plain(place, **changes):
    given = {"models": [{"name": str(place / "model")}], "data": [{"name": "jsonl", "path": str(place / "a.jsonl")}]}
    return given | {"methods": ["noiser:steps=3", "occlusion"], "metrics": ["soft_ns"], "controls": ["random"]} | changes


def found(place, execution=None, **changes):
    return prepare(make_plan(plain(place, **changes)), execution or ExecutionConfig()).fingerprint


def with_model(place, **more):
    return {"models": [{"name": str(place / "model"), **more}]}


def with_data(place, **more):
    return {"data": [{"name": "jsonl", "path": str(place / "a.jsonl"), **more}]}


def test_every_setting_says_what_it_is():
    """A new field without a role, a new option of load or of the command: this test fails until it is classified."""
    for kind in KINDS:
        assert all(each.metadata.get("role") in ("identity", "transport") for each in dataclasses.fields(kind)), kind
    model = {each.name: each.metadata["role"] for each in dataclasses.fields(ModelChoice)}
    assert {name for name, role in model.items() if role == "identity"} == {"name", *LOAD}
    options = inspect.signature(noiser.load).parameters
    assert {name for name, each in options.items() if each.kind is inspect.Parameter.KEYWORD_ONLY} == LOAD | LOAD_ONLY
    names = inspect.signature(run_command).parameters
    assert {name for name in names if not name.startswith("old_")} == RUN | RUN_ONLY
    old_names = {old.strip("-").replace("-", "_"): new for new, old in RENAMED.items()}
    config = [each.name for each in dataclasses.fields(ExecutionConfig)] + [
        f"judge_{each.name}" for each in dataclasses.fields(JudgeConfig)
    ]
    assert {old_names.get(name, name) for name in config} - {"judge_config", "judge_device"} <= RUN_ONLY


IDENTITY = {
    "model": lambda place: {"models": [str(place / "other")]},
    "dtype": lambda place: with_model(place, dtype="bfloat16"),
    "attention": lambda place: with_model(place, attention="eager"),
    "template_args": lambda place: with_model(place, template_args={"enable_thinking": False}),
    "data": lambda place: {"data": [{"name": "jsonl", "path": str(place / "changed" / "a.jsonl")}]},
    "limit": lambda place: {"limit": 1},
    "match": lambda place: with_data(place, match="token"),
    "generate": lambda place: with_data(place, generate=2),
    "method": lambda place: {"methods": ["noiser:steps=3"]},
    "option": lambda place: {"methods": ["noiser:steps=4", "occlusion"]},
    "order": lambda place: {"methods": ["occlusion", "noiser:steps=3"]},
    "metric": lambda place: {"metrics": ["soft_ns", "soft_nc"]},
    "protocol": lambda place: {"metrics": ["soft_ns:protocol=paper"]},
    "control": lambda place: {"controls": ["random", "uniform"]},
    "seed": lambda place: {"seed": 1},
}


@pytest.mark.parametrize("name", IDENTITY)
def test_what_changes_numbers_refuses_to_go_on_and_says_what_changed(place, tmp_path, name):
    RunFolder.start(tmp_path / "run", found(place), {})
    with pytest.raises(RunError, match=r"holds another run\. The differences, there and now:\n  ") as refused:
        RunFolder.start(tmp_path / "run", found(place, **IDENTITY[name](place)), {})
    expected = {
        "option": "methods.noiser:steps=3: ",
        "limit": "data.a.limit: null -> 1",
        "seed": "\n  seed: 0 -> 1",
        "dtype": "models.model@bfloat16: not there -> ",
        "data": "data.a.sha256: ",
        "order": "methods: order noiser:steps=3, occlusion, random -> occlusion",
    }
    assert expected.get(name, " -> ") in str(refused.value)


@pytest.mark.parametrize("kind", ["method", "metric", "numbers", "revision"])
def test_a_version_or_revision_that_changed_refuses_to_go_on(place, tmp_path, monkeypatch, kind):
    RunFolder.start(tmp_path / "run", found(place), {})
    if kind == "method":
        monkeypatch.setitem(METHODS, "occlusion", dataclasses.replace(METHODS["occlusion"], version=2))
    elif kind == "metric":
        monkeypatch.setitem(METRICS, "soft_ns", dataclasses.replace(METRICS["soft_ns"], version=2))
    elif kind == "numbers":
        monkeypatch.setattr("noiser.experiments.fingerprint.NUMBERS", 2)
    else:
        monkeypatch.setattr("noiser.lm.load.folder_revision", lambda folder, **_: "0" * 64)
    wanted = {"method": "methods.occlusion.version: 1 -> 2", "metric": "metrics.soft_ns.version: 1 -> 2", "numbers": "numbers: 1 -> 2"}
    with pytest.raises(RunError, match=wanted.get(kind, "revision: ")):
        RunFolder.start(tmp_path / "run", found(place), {})


def test_what_only_says_how_and_where_is_free(place, tmp_path):
    first = found(place)
    RunFolder.start(tmp_path / "run", first, {})
    executions = [
        ExecutionConfig(device="cpu"),
        ExecutionConfig(token_budget=100, max_samples=7, shard=(1, 2), time_limit=1.0, timeout=1.0, fail_on_error=0.5, retry=True),
    ]
    executions.append(ExecutionConfig(engine="ray", address="auto", workers=3))
    for execution in executions:
        assert found(place, execution) == first
    assert found(place, data=[{"name": "jsonl", "path": str(place / "elsewhere" / "a.jsonl")}]) == first
    assert found(place, **with_model(place, trust_remote_code=True, allow_pickle=True)) == first


JUDGED = {"metrics": ["answerability:forms=top1"]}


def test_another_judge_is_another_run_and_the_same_one_elsewhere_is_not(place, tmp_path):
    first = found(place, **JUDGED, judges=["openai:one"])
    RunFolder.start(tmp_path / "run", first, {})
    with pytest.raises(RunError, match=r"metrics\.answerability:forms=top1\.judge\.judge: .*one.* -> .*two"):
        RunFolder.start(tmp_path / "run", found(place, **JUDGED, judges=["openai:two"]), {})
    for url in ("http://localhost:1/v1", "https://elsewhere.example/v1"):
        assert found(place, **JUDGED, judges=[{"name": "openai:one", "url": url}]) == first
        elsewhere = ExecutionConfig(judge_config=JudgeConfig(url=url, cache="off", max_connections=1))
        assert found(place, elsewhere, **JUDGED, judges=["openai:one"]) == first
    two = found(place, **JUDGED, judges=["openai:one", "openai:two"])["metrics"]
    assert list(two) == ["answerability[openai:one]:forms=top1", "answerability[openai:two]:forms=top1"]
    assert set(trial_keys(first).values()) < set(trial_keys(found(place, **JUDGED, judges=["openai:one", "openai:two"])).values())


def test_a_judges_file_is_taken_from_the_plans_folder_and_a_name_may_hold_anything(place, monkeypatch):
    (place / "own.gguf").write_bytes(b"")
    given = plain(place, **JUDGED, judges=["llama:own.gguf", "openai:a=b:c", "local:model"])
    names = [choice.name for choice in make_plan(given, place).judges]
    assert names == [f"llama:{place / 'own.gguf'}", "openai:a=b:c", f"local:{place / 'model'}"]
    monkeypatch.setenv("OPENAI_BASE_URL", "https://x.example/?secret=3")
    labels = [column.judge for column in make_plan(given, place).columns()]
    assert labels == ["llama:own.gguf", "openai:a=b:c", "local:model"], "no backend is made to know their names"


def test_judges_have_to_be_asked_and_to_exist(place):
    with pytest.raises(OptionError, match="asks a judge"):
        make_plan(plain(place, judges=["openai:one"]))
    with pytest.raises(OptionError, match="nobody"):
        make_plan(plain(place, **JUDGED, judges=["nobody:one"]))
    with pytest.raises(OptionError, match="has no option key; it has name, url"):
        make_plan(plain(place, **JUDGED, judges=[{"name": "openai:one", "key": "secret"}]))


def trial_keys(fingerprint, **row):
    asked = {"id": "x", "group": None, "prompt": "one two", "target_ids": None, "kept": True, **row}
    (model,), (data,) = fingerprint["models"], fingerprint["data"]
    cell = make_cell(fingerprint, model, data, [asked | {"hash": sample_hash(fingerprint, model, data, asked)}])
    return {(trial.kind, trial.method, trial.metric): trial.key for trial in cell.samples[0].trials}


def test_a_trials_key_depends_on_what_changes_its_numbers_and_on_nothing_else(place):
    base = trial_keys(found(place))
    assert len(set(base.values())) == len(base) == 3 * 2
    for name in ("model", "dtype", "attention", "data", "match", "generate"):
        changed = trial_keys(found(place, **IDENTITY[name](place)))
        assert not set(changed.values()) & set(base.values()), name
    for row in ({"prompt": "two"}, {"target_ids": [7]}, {"id": "z"}):
        assert not set(trial_keys(found(place), **row).values()) & set(base.values())
    assert trial_keys(found(place, limit=1)) == base
    assert trial_keys(found(place), group="g") == base
    more = trial_keys(found(place, methods=["occlusion", "noiser:steps=3", "lime"], metrics=["soft_nc", "soft_ns"]))
    assert base.items() <= more.items()
    other = trial_keys(found(place, methods=["noiser:steps=4", "occlusion"]))
    assert {each for each in base.values() if each not in other.values()} == {
        own for what, own in base.items() if what[1] == "noiser:steps=3"
    }
    renamed = trial_keys(found(place, methods=["noiser:steps=3+samples=10", "occlusion"]))
    assert set(renamed.values()) == set(base.values()), "another label for the same options is the same trial"


def test_a_permuted_row_depends_on_what_it_permutes_and_on_the_seed(place):
    def permuted(**changes):
        return {each for what, each in trial_keys(found(place, controls=["permuted"], **changes)).items() if what[1].startswith("permuted")}

    base = permuted()
    assert len(base) == 1
    assert permuted(methods=["noiser:steps=4"]) != base
    assert permuted(methods=["noiser:steps=3"]) == base
    assert permuted(seed=1) != base


def test_a_hash_is_of_plain_values_in_any_order_of_their_names():
    assert stable_hash({"a": 1, "b": 2}) == stable_hash({"b": 2, "a": 1})
    assert len({stable_hash(each) for each in itertools.permutations([1, 2, "1"])}) == 6
    assert stable_hash(1, [2]) != stable_hash([1], 2)


TOML = """
seed = 3
limit = 5
models = ["smollm2-135m", {name = "Qwen/Qwen2-0.5B", revision = "main", dtype = "bfloat16"}]
data = ["known-mini", {name = "jsonl", path = "few.jsonl", limit = 2, generate = 3}]
methods = ["noiser", {name = "noiser", bound = "l2", steps = 5}]
metrics = [{name = "soft_ns", protocol = "official"}]
controls = ["random"]
"""


def test_a_plan_from_a_file_is_what_it_says(tmp_path):
    (tmp_path / "plan.toml").write_text(TOML)
    plan = read_plan(tmp_path / "plan.toml")
    assert [model.label for model in plan.models] == ["smollm2-135m", "Qwen/Qwen2-0.5B@main@bfloat16"]
    assert [(data.name, data.limit, data.generate) for data in plan.data] == [("known-mini", 5, None), ("jsonl", 2, 3)]
    assert plan.data[1].path == str(tmp_path / "few.jsonl")
    assert plan.seed == 3
    assert [row.label for row in plan.rows] == ["noiser", "noiser:bound=l2+steps=5", "random"]
    assert plan.rows[1].options["steps"] == 5
    assert plan.rows[0].options["seed"] == 3
    assert plan.columns()[0].options["protocol"] == "official"
    assert display_settings(plan)["controls"] == ["random"]
    methods = make_fingerprint(plan, {}, {})["methods"]
    assert list(methods) == ["noiser", "noiser:bound=l2+steps=5", "random"]
    assert not {"scale", "pairs"} & set(methods["noiser"]["options"]), "options of later versions, at their defaults"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'models = ["a"]\ndata = ["known-mini"]\nmethods = ["occlusion", "occlusion"]',
            "methods: give each one once; occlusion came twice",
        ),
        ('models = ["a"]\ndata = ["known-mini"]\nlimit = 0', "the plan: limit must be a whole number from 1 on"),
        ('models = ["a"]\ndata = [{}]', "wanted a name"),
        ("models = [", "is not TOML"),
        ('model = ["a"]', "a plan has .*; got model"),
        ('models = "a"', "models must be a list"),
        ("data = []", "a run needs models"),
        ('models = ["a"]\ndata = []', "a run needs data"),
        ('models = ["a", "a"]\ndata = ["known-mini"]', "models: give each one once"),
        ('models = ["a"]\ndata = ["nowhere"]', "nowhere"),
        ('models = ["a"]\ndata = ["known-mini"]\nmethods = ["nothing"]', "there is no method 'nothing'"),
        ('models = ["a"]\ndata = ["known-mini"]\nmethods = ["noiser:samples=0"]', "samples must be from"),
        ('models = ["a"]\ndata = ["known-mini"]\nmetrics = ["soft"]', "there is no metric 'soft'"),
        ('models = ["a"]\ndata = ["known-mini"]\nmethods = ["noiser", "noiser:steps=10"]', "are the same method with the same options"),
        ('models = ["a"]\ndata = ["known-mini"]\nseed = "x"', "seed must be a whole number"),
        ('models = ["a"]\ndata = [{name = "known-mini", limit = 0}]', "limit must be a whole number from 1 on"),
        ('models = ["a"]\ndata = [{name = "known-mini", size = 3}]', "known-mini has no option size"),
        ('models = [{name = "a", dtype = 16}]\ndata = ["known-mini"]', "dtype must be text"),
        ('models = [{revision = "a"}]\ndata = ["known-mini"]', "wanted a name"),
    ],
)
def test_a_plan_that_makes_no_sense_is_a_clear_error(tmp_path, text, said):
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(OptionError, match=said):
        read_plan(tmp_path / "plan.toml")


def test_a_plans_neighbours_are_meant_by_their_names(place):
    (place / "plan.toml").write_text(
        'models = ["model"]\ndata = ["a.jsonl", {name = "a.jsonl", match = "token"}]\ncontrols = [{name = "random"}]'
    )
    plan = read_plan(place / "plan.toml")
    assert plan.models[0].name == str(place / "model")
    assert [data.path for data in plan.data] == [str(place / "a.jsonl")] * 2
    assert plan.controls == ("random",)


def test_a_plan_that_is_not_there(tmp_path):
    with pytest.raises(OptionError, match="cannot read the plan"):
        read_plan(tmp_path)
    with pytest.raises(OptionError, match="there is no file"):
        read_plan(tmp_path / "plan.toml")
