"""A run's numbers are those of the bare loop, and every planned trial ends in exactly one status.

Mutants caught: a sample judged with another's target; the filter left out; a failing method that takes its sample's other trials
with it; an exception that ends the run; a skipped row that is not counted; `--retry` that writes what had gone well again; clean
runs made anew for every method; a failure that does not reach the exit status.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import noiser
from noiser.cli.run import execute, exit_status
from noiser.errors import DeviceMemoryError, RunError
from noiser.experiments.estimate import estimate, forecast
from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.experiments.plan import ExecutionConfig, make_plan
from noiser.experiments.report.reproduce import reproduction
from noiser.experiments.run import prepare
from noiser.experiments.trials import RunContents, value_records
from noiser.methods.base import MethodOutput
from noiser.registry import METHODS, Method
from tests.conftest import byte_tokenizer, tiny
from tests.runs import PROMPTS, keys, make_place

METRICS = ["soft_ns:masks=4", "soft_nc:masks=4"]


class Quiet:
    def say(self, what, *, keep=False):
        pass

    def expect(self, samples):
        pass

    def advance(self, failures):
        pass


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("place"))


def plan(place, **changes):
    given = {"models": [str(place / "model")], "data": [str(place / "few.jsonl")], "methods": ["noiser:steps=4+samples=3", "occlusion"]}
    return make_plan(given | {"metrics": METRICS, "controls": ["random", "permuted"]} | changes)


def run(place, out, how=None, **changes):
    return execute(plan(place, **changes), out, how or ExecutionConfig(), Quiet())


def record(out, **wanted):
    found = [each for each in RecordIndex(RunFolder.open(out)).records.values() if wanted.items() <= each.items()]
    (only,) = found
    return only


@pytest.fixture(scope="module")
def done(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "done"
    return out, run(place, out)


def test_the_numbers_are_those_of_the_bare_loop(place, done):
    out, outcome = done
    folder = RunFolder.open(out)
    (cell,) = RunContents(folder).cells
    lm = noiser.load(place / "model")
    examples = [noiser.Example(text, None, f"p{number}", f"g{number // 2}") for number, text in enumerate(PROMPTS)]
    methods = ["noiser:steps=4+samples=3", "occlusion"]
    alone = [noiser.evaluate(lm, [each], methods, METRICS, controls=["random", "permuted"]).records for each in examples]
    ours = {(each.sample, each.method, each.metric): each.value for each in value_records(cell, RecordIndex(folder))}
    bare = {(each.sample, each.method, each.metric): each.value for records in alone for each in records}
    assert ours == bare, "to the last bit: each sample is worked on alone"
    scores = record(out, kind="attribution", sample="p3", method="occlusion")["scores"]
    np.testing.assert_array_equal(scores, noiser.attribute(lm, PROMPTS[3], "occlusion").scores)
    assert outcome.planned == sum(outcome.statuses.values()) == 8 * (4 * 2 + 3)
    assert outcome.statuses == {"ok": outcome.planned}
    assert (outcome.complete, outcome.failed, exit_status(outcome, ExecutionConfig())) == (True, 0, 0)


def test_samples_worked_on_together_agree_to_rounding(place, done, tmp_path):
    run(place, tmp_path / "together", ExecutionConfig(max_samples=5))
    one, other = (RecordIndex(RunFolder.open(out)).records for out in (done[0], tmp_path / "together"))
    assert one.keys() == other.keys()
    pairs = [(own["value"], other[name]["value"]) for name, own in one.items() if own["kind"] == "value"]
    np.testing.assert_allclose(*zip(*pairs, strict=True), atol=1e-5)


def test_a_clean_run_serves_all_methods_and_metrics(place, done):
    """occlusion is the first to want a plain one of T tokens, and runs T rows of the suffixes behind it: T (T + 1) / 2 tokens."""
    out, _ = done
    sample = record(out, kind="sample", sample="p0")
    seq = len(sample["input_ids"])
    spent = {each: record(out, kind="attribution", sample="p0", method=each)["cost"]["forward_tokens"] for each in ("occlusion", "random")}
    assert spent["random"] == 0, "what it draws its scores for is there already"
    assert 0 < spent["occlusion"] - seq <= seq * (seq + 1) / 2


def test_only_what_the_model_answers_is_run_and_the_others_are_counted(place, tmp_path):
    """The byte that the tiny model predicts, as its plain forward says, is the target where it can be written."""
    lm = noiser.load(place / "model")
    rows, answered = [], []
    for number, text in enumerate(PROMPTS):
        logits = lm.model(torch.tensor([lm.prompt(text).input_ids])).logits[0, -1]
        said = lm.tokenizer.decode([int(logits.argmax())]).strip()
        answered.append(bool(said) and said.isascii() and said.isprintable())
        rows.append({"id": str(number), "prompt": text, "target": said if answered[-1] else "never"})
    rows.append({"id": "empty", "prompt": ""})
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [{"name": "jsonl", "path": str(tmp_path / "gold.jsonl"), "match": "token"}]
    out = tmp_path / "run"
    found = run(place, out, data=data, methods=["occlusion"], controls=[])
    kept = sum(answered)
    assert kept > 1
    each = 1 + len(METRICS)
    assert found.statuses == {"ok": kept * each, "skipped(not answered)": (8 - kept) * each, "error(PromptError)": each}
    assert (found.samples, found.done, found.failed) == (kept, kept, 1)
    assert exit_status(found, ExecutionConfig()) == 1, "one unreadable row of nine is more than one in a hundred"
    assert exit_status(found, ExecutionConfig(fail_on_error=0.5)) == 0
    limited = run(place, tmp_path / "limited", data=[data[0] | {"limit": 2}], methods=["occlusion"], controls=[])
    assert limited.samples == 2


def test_a_continuation_is_explained_step_by_step(place, tmp_path):
    data = [{"name": "jsonl", "path": str(place / "few.jsonl"), "limit": 2, "generate": 3}]
    found = run(place, tmp_path / "run", data=data, methods=["occlusion"], controls=["random"])
    assert set(found.statuses) == {"ok"}
    attribution = record(tmp_path / "run", kind="attribution", sample="p0", method="occlusion")
    sample = record(tmp_path / "run", kind="sample", sample="p0")
    assert len(attribution["scores"]) == len(attribution["targets"]) >= 1
    assert len(sample["tokens"]) == len(attribution["scores"][0])
    assert len(record(tmp_path / "run", sample="p0", method="occlusion", metric=METRICS[0])["steps"]) == len(attribution["targets"])


def faulty(what):
    def method(lm, clean, goal):
        prompt = clean.prompt.text
        if prompt == PROMPTS[1]:
            what()
        scores = np.arange(float(len(clean.prompt)))
        return MethodOutput(scores * (np.nan if prompt == PROMPTS[2] and what is broken else 1.0), {})

    return Method(name="faulty", family="test", source="here", function=method)


def broken():
    raise ZeroDivisionError("nothing to divide by")


def exhausted():
    raise DeviceMemoryError("too large")


@pytest.mark.parametrize(("what", "statuses"), [(broken, {"error(ZeroDivisionError)", "nonfinite"}), (exhausted, {"oom"})])
def test_what_fails_in_one_sample_is_that_samples_and_is_run_again_when_asked(place, tmp_path, monkeypatch, what, statuses):
    monkeypatch.setitem(METHODS, "faulty", faulty(what))
    out = tmp_path / "run"
    found = run(place, out, methods=["faulty", "occlusion"], controls=["random"])
    bad = {status: count for status, count in found.statuses.items() if status != "ok"}
    assert found.planned == sum(found.statuses.values()) == 8 * 3 * 3
    assert set(bad) == statuses
    assert (found.done, found.failed, found.complete) == (8, len(statuses), True)
    assert exit_status(found, ExecutionConfig()) == 1
    if what is broken:
        said = record(out, kind="attribution", sample="p1", method="faulty")
        assert said["status"] == "error(ZeroDivisionError)"
        assert "in broken" in said["trace"]
        assert record(out, sample="p1", method="faulty", metric=METRICS[0])["message"] == said["message"]
    assert record(out, sample="p1", method="occlusion", metric=METRICS[0])["status"] == "ok"
    monkeypatch.setitem(METHODS, "faulty", replace(faulty(lambda: None)))
    before = keys(out)
    assert run(place, out, methods=["faulty", "occlusion"], controls=["random"]).statuses == found.statuses, "not asked to"
    again = run(place, out, ExecutionConfig(retry=True), methods=["faulty", "occlusion"], controls=["random"])
    assert again.statuses == {"ok": again.planned}
    assert sum((keys(out) - before).values()) == sum(bad.values()) + len(statuses), "what failed, and what the samples are"


def test_a_method_that_takes_too_long_is_given_up_and_the_others_are_not(place, tmp_path, monkeypatch):
    def slow(lm, clean, goal):
        from time import sleep

        from noiser.lm.measure import measure
        from noiser.lm.perturbation import Interpolate

        for _ in range(3):
            sleep(0.2)
            yield from measure(goal, [Interpolate(0, torch.zeros(1, 1))])
        return MethodOutput(np.zeros(len(clean.prompt)), {})

    monkeypatch.setitem(METHODS, "slow", Method(name="slow", family="test", source="here", function=slow))
    found = run(place, tmp_path / "run", ExecutionConfig(timeout=0.35), methods=["slow", "occlusion"], controls=[], limit=2)
    assert found.statuses == {"timeout": 2 * 3, "ok": 2 * 3}
    assert record(tmp_path / "run", kind="attribution", sample="p0", method="slow")["message"] == "given up after 0.35 s"


def test_a_model_of_nan_is_nonfinite_everywhere(tmp_path):
    make_place(tmp_path)
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight[7, 3] = torch.nan
    model.save_pretrained(tmp_path / "nan")
    byte_tokenizer().save_pretrained(tmp_path / "nan")
    found = run(tmp_path, tmp_path / "run", models=[str(tmp_path / "nan")])
    assert found.statuses == {"nonfinite": found.planned}
    assert found.failed == 8


def test_a_bug_of_ours_is_one_samples_error_and_a_lost_gpu_ends_the_run(place, tmp_path, monkeypatch):
    from noiser.experiments import worker

    real = worker._read_prompt

    def fails(error):
        def read(lm, row):
            if row.id == "p4" and read.armed:
                raise error
            return real(lm, row)

        read.armed = False
        return read

    for error in (KeyError("bug"), RuntimeError("CUDA error: an illegal memory access was encountered")):
        read = fails(error)
        monkeypatch.setattr(worker, "_read_prompt", read)
        runner = worker.ModelWorker._runner

        def arm(self, data, runner=runner, read=read):
            found = runner(self, data)
            read.armed = True
            return found

        monkeypatch.setattr(worker.ModelWorker, "_runner", arm)
        out = tmp_path / type(error).__name__
        if isinstance(error, KeyError):
            found = run(place, out, ExecutionConfig(max_samples=3))
            assert found.statuses == {"ok": 7 * 11, "error(KeyError)": 11}
            assert "KeyError" in record(out, kind="attribution", sample="p4", method="occlusion")["trace"]
        else:
            with pytest.raises(RuntimeError, match="CUDA error"):
                run(place, out)
            assert len(keys(out)) == 4 * 12, "what was done before stays"
        monkeypatch.setattr(worker.ModelWorker, "_runner", runner)


def test_a_run_stops_in_good_order_when_its_time_is_up(place, tmp_path):
    found = run(place, tmp_path / "run", ExecutionConfig(time_limit=0.0))
    assert (found.done, found.complete, exit_status(found, ExecutionConfig())) == (0, False, 75)
    assert found.statuses == {"missing": 8 * 11}


def test_a_model_that_changed_since_it_was_asked_who_it_is_does_not_run(place, tmp_path, monkeypatch):
    import noiser.experiments.run as runs

    prepared = prepare(plan(place), ExecutionConfig())
    (label,) = prepared.fingerprint["models"]
    prepared.fingerprint["models"][label]["revision"] = "sha256:other"
    with pytest.raises(RunError, match="its revision was sha256:other when the run was planned"):
        runs.run(prepared, tmp_path / "run", ExecutionConfig(), Quiet(), runs.run_locally)


def test_an_estimate_counts_what_is_left_and_writes_nothing(place, done, tmp_path):
    out, _ = done
    prepared = prepare(plan(place), ExecutionConfig())
    whole = estimate(prepared, None, ExecutionConfig(), Quiet())
    assert (whole.trials, whole.calibrated) == (8 * 11, 3)
    spent = [each["cost"]["forward_tokens"] for each in RecordIndex(RunFolder.open(out)).records.values() if each.get("cost")]
    assert whole.forward_tokens == pytest.approx(sum(spent), rel=0.35)
    assert estimate(prepared, out, ExecutionConfig(), Quiet()).trials == 0
    assert estimate(prepared, tmp_path / "new", ExecutionConfig(), Quiet()).trials == 8 * 11
    assert not (tmp_path / "new").exists()


def test_a_forecast_counts_the_rows_that_the_run_takes(place, tmp_path):
    """Methods that do not search take what is counted. Mutants: an anchor's row not counted; the model runs its rows after all;
    the model left with made-up readouts; metrics that ask a judge not left out."""
    how = {
        "methods": ["noiser:bound=none+samples=3", "occlusion", "gradient_shap", "integrated_gradients:steps=4"],
        "metrics": [*METRICS, "comprehensiveness", "answerability"],
        "data": [{"name": "jsonl", "path": str(place / "few.jsonl"), "limit": 3}],
    }  # fmt: skip
    prepared = prepare(plan(place, **how), ExecutionConfig())
    ran = []
    with pytest.MonkeyPatch.context() as patch:
        whole = noiser.LanguageModel.run_perturbed
        patch.setattr(noiser.LanguageModel, "run_perturbed", lambda lm, rows: ran.append(rows) or whole(lm, rows))
        found = forecast(prepared, None, ExecutionConfig(), Quiet())
    assert found.trials == 3 * (5 + 3 * 6) and found.seconds > 0
    assert sum(map(bool, ran)) == 1, "rows of one method on one prompt, to measure the rate"
    run(place, tmp_path / "run", **{**how, "metrics": how["metrics"][:-1]})
    records = RecordIndex(RunFolder.open(tmp_path / "run")).records.values()
    forward, backward = (sum(each["cost"][name] for each in records if each.get("cost")) for name in ("forward_tokens", "backward_tokens"))
    assert found.backward_tokens == backward
    assert found.forward_tokens == pytest.approx(forward, rel=0.05), "equal rows run once, and which are equal depends on the scores"
    assert forecast(replace(prepared, plan=plan(place)), None, ExecutionConfig(), Quiet()).trials


def test_a_quick_table_takes_few_masks_points_and_tokens():
    """Mutants: the limit that was given replaced; `generate` given twice; another table's metrics changed."""
    quick = reproduction("table1", ["m"], ["known-mini", "wikibio-mini", "wikibio-mini:generate=5"], None, 0, quick=True)
    assert [(choice.name, choice.limit, choice.generate) for choice in quick.data] == [
        ("known-mini", 2, None), ("wikibio-mini", 2, 3), ("wikibio-mini", 2, 5),
    ]  # fmt: skip
    assert all("masks=4" in metric for metric in quick.metrics)
    assert {"integrated_gradients:steps=8", "sequential_integrated_gradients:steps=4", "lime:samples=50"} < set(quick.methods)
    assert reproduction("figure3", ["m"], ["known-mini"], 7, 0, quick=True).data[0].limit == 7
    assert reproduction("table1", ["m"], ["known-mini"], None, 0).metrics != quick.metrics


def test_retries_write_what_a_sample_is_anew_and_every_reader_sees_it(place, tmp_path):
    """A continuation whose method was given up has no tokens of it in its sample record; the second time it has."""
    from noiser.experiments.export import export
    from noiser.experiments.merge import merge

    data = [{"name": "jsonl", "path": str(place / "few.jsonl"), "limit": 2, "generate": 3}]
    how = {"data": data, "methods": ["occlusion"], "controls": ["random"]}
    out, into = tmp_path / "run", tmp_path / "merged"
    assert set(run(place, out, ExecutionConfig(timeout=0.0), **how).statuses) == {"timeout"}
    assert set(merge([out], into).statuses) == {"timeout"}
    assert set(run(place, out, ExecutionConfig(retry=True), **how).statuses) == {"ok"}
    scores = record(out, kind="attribution", sample="p1", method="occlusion")["scores"]
    assert len(record(out, kind="sample", sample="p1")["tokens"]) == len(scores[0])
    assert export(RunFolder.open(out), "scores", "csv", tmp_path / "a.csv") > 0
    assert set(merge([out], into).statuses) == {"ok"}, "what went well the second time counts in the merged folder too"


def test_the_time_limit_is_for_all_metrics_together(place, tmp_path, monkeypatch):
    """Each value alone would be quick enough; six of them are not, and are not tried again one by one."""
    from time import sleep

    from noiser.lm.measure import measure
    from noiser.metrics.sample import Value
    from noiser.registry import METRICS as ALL
    from noiser.registry import Metric

    def slow(sample, candidate, *, place: int = 0):
        sleep(0.1)
        yield from measure(sample.objective, [sample.zero()])
        return Value(1.0)

    said = {"source": "here", "better": "higher", "measures": "time", "failure_mode": "nothing"}
    monkeypatch.setitem(ALL, "slow", Metric(name="slow", function=slow, **said))
    metrics = [f"slow:place={number}" for number in range(3)]
    how = {"methods": ["uniform"], "controls": ["constant"], "metrics": metrics, "limit": 1}
    assert run(place, tmp_path / "quick", ExecutionConfig(timeout=60.0), **how).statuses == {"ok": 8}
    assert run(place, tmp_path / "run", ExecutionConfig(timeout=0.4), **how).statuses == {"ok": 2, "timeout": 6}


def test_a_plan_that_does_not_fit_its_data_is_an_option_error(place, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"prompt": "alone"}\n')
    data = [{"name": "jsonl", "path": str(tmp_path / "one.jsonl")}]
    with pytest.raises(noiser.errors.OptionError, match="takes its tokens from other prompts"):
        run(place, tmp_path / "run", data=data, metrics=["aopc:operator=resample"])


def test_a_target_of_a_row_is_what_is_explained(place, tmp_path):
    rows = [{"id": str(number), "prompt": text, "target": word} for number, (text, word) in enumerate(zip(PROMPTS[:3], "xyz", strict=True))]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "run"
    run(place, out, data=[str(tmp_path / "own.jsonl")], methods=["occlusion"], controls=[])
    lm = noiser.load(place / "model")
    for number, word in enumerate("xyz"):
        (target,) = record(out, kind="attribution", sample=str(number), method="occlusion")["targets"]
        assert target["token_ids"] == list(lm.tokens.ids(f" {word}"))


def test_exit_statuses_are_shares_of_all_that_was_to_be_done(place, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "one two"}\n{"prompt": ""}\nnothing\n')
    found = run(place, tmp_path / "run", data=[str(tmp_path / "bad.jsonl")], methods=["occlusion"], controls=[])
    assert (found.samples, found.unreadable, found.failed) == (1, 2, 2)
    assert [exit_status(found, ExecutionConfig(fail_on_error=share)) for share in (0.6, 0.7, 1.0)] == [1, 0, 0]
