"""One loaded model at work: which prompts it answers, and the records of samples. All that a worker needs, wherever it runs."""

import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from noiser.attribution.attribute import Failure
from noiser.data import Dataset, Row
from noiser.errors import NoiserError, PromptError, RunError
from noiser.evaluation.runner import EvaluationRunner, ExampleResult, Result, status_of, trace_of
from noiser.experiments.plan import ExecutionConfig, ModelChoice, Plan
from noiser.experiments.screening import Screened, screen
from noiser.experiments.trials import ATTRIBUTION, SAMPLE, VALUE, Sample, failed, sample_hash
from noiser.lm.load import load
from noiser.lm.model import LanguageModel
from noiser.results.attribution import Attribution
from noiser.results.records import OK, Example
from noiser.text.prompt import Prompt

Records = list[dict[str, Any]]


class ModelWorker:
    """A model of the plan, loaded, with the plan's data sets."""

    def __init__(self, plan: Plan, identity: Mapping[str, Any], model: str, datasets: Mapping[str, Dataset], how: ExecutionConfig) -> None:
        self.plan, self.identity, self.model, self.datasets, self.how = plan, identity, model, datasets, how
        self.lm = _load(next(each for each in plan.models if each.label == model), how)
        wanted = identity["models"][model]["revision"]
        if self.lm.revision != wanted:
            raise RunError(f"{model}: its revision was {wanted} when the run was planned; what is loaded now has {self.lm.revision}")
        self.judges = plan.open_judges(how.judge_how)
        """Whom its metrics ask."""
        self._benches: dict[str, EvaluationRunner] = {}

    def screen(self, data: str, on_row: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Which rows of a data set are kept, as it is written to the folder."""
        asked = self.identity["data"][data]
        found = screen(self.lm, self.datasets[data].rows, asked["match"], asked["limit"], lambda _: on_row())
        return {"model": self.model, "data": data, "rows": [self._screened(data, each) for each in found]}

    def _screened(self, data: str, found: Screened) -> dict[str, Any]:
        ids = list(found.target_ids) if found.target_ids is not None else None
        row: dict[str, Any] = {"id": found.row.id, "group": found.row.group, "kept": found.answered, "said": found.said, "prob": found.prob}
        row |= {"reason": found.reason, "target_ids": ids, "fields": {"target": found.row.target, **found.row.fields}}
        return row | {"hash": sample_hash(self.identity, self.model, data, {**row, "prompt": found.row.prompt})} if found.answered else row

    def work(self, samples: Sequence[Sample], rows: Mapping[str, Mapping[str, Any]]) -> Iterator[Records]:
        """The records of each sample; `rows` are the screened rows by their ids. An exception that is nobody's in particular
        is the sample's. Raises OptionError for a plan that does not fit its data."""
        self._bench(samples[0].data)  # what is wrong with the plan is nobody's in particular
        try:
            yield from self._work(samples, rows)
        except Exception as error:
            if isinstance(error, RunError) or _device_lost(error):
                raise
            if len(samples) > 1:
                for sample in samples:
                    yield from self.work([sample], rows)
                return
            yield all_failed(samples[0], f"error({type(error).__name__})", str(error), "".join(traceback.format_exception(error)))

    def _work(self, samples: Sequence[Sample], rows: Mapping[str, Mapping[str, Any]]) -> Iterator[Records]:
        bench, data = self._bench(samples[0].data), self.datasets[samples[0].data]
        source = {row.id: row for row in data.rows}
        work: list[tuple[Example, Prompt | NoiserError]] = []
        for sample in samples:
            ids = rows[sample.id]["target_ids"]
            generate = self.identity["data"][sample.data]["generate"]
            example = Example(source[sample.id].prompt, None if generate or ids is None else tuple(ids), sample.id, sample.group)
            work.append((example, _read(self.lm, source[sample.id])))
        judged = list(bench.run(work, 0, self.identity["data"][samples[0].data]["generate"]))
        for sample, found in zip(samples, judged, strict=True):
            yield _records(sample, found, rows[sample.id])

    def _bench(self, data: str) -> EvaluationRunner:
        if data not in self._benches:
            prompts = [_read(self.lm, row) for row in self.datasets[data].rows]
            bench = EvaluationRunner(self.lm, self.plan.rows(), self.plan.columns(self.judges), prompts, self.plan.seed, self.how.timeout)
            bench.check()
            self._benches[data] = bench
        return self._benches[data]


def _load(choice: ModelChoice, how: ExecutionConfig) -> LanguageModel:
    return load(
        choice.name,
        revision=choice.revision,
        device=how.device,
        device_map=how.device_map,
        dtype=choice.dtype,
        attention=choice.attention,
        trust_remote_code=choice.trust_remote_code,
        allow_pickle=choice.allow_pickle,
        token_budget=how.token_budget,
    )


def _read(lm: LanguageModel, row: Row) -> Prompt | NoiserError:
    if row.error:
        return PromptError(row.error)
    try:
        return lm.prompt(row.prompt)
    except NoiserError as error:
        return error


def _device_lost(error: Exception) -> bool:
    """After an error of the GPU itself every further call fails: the process has to be started again."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


def _records(sample: Sample, judged: ExampleResult, row: Mapping[str, Any]) -> Records:
    """A record for each trial, and last the one that says what the sample is: it counts as failed where one of them did, so that
    it is written anew with them."""
    values = {(each.method, each.metric): each for each in judged.records}
    found = []
    for trial in sample.trials:
        record = _begin(sample, trial.kind, trial.key, trial.method)
        if trial.kind == ATTRIBUTION:
            found.append(record | _attribution(judged.results.get(trial.method), judged))
            continue
        value = values[trial.method, trial.metric]
        record |= {"metric": trial.metric, "status": value.status, "value": value.value, "message": value.message}
        also = {"also": dict(value.extra)} if value.extra else {}
        found.append(record | {"trace": value.trace, "steps": [dict(step) for step in value.steps], **also})
    status = next((record["status"] for record in found if failed(record["status"])), OK)
    return [*found, _begin(sample, SAMPLE, sample.key, "") | {"status": status, **_described(judged, row), "cost": asdict(judged.metrics)}]


def _begin(sample: Sample, kind: str, name: str, method: str) -> dict[str, Any]:
    return {"key": name, "kind": kind, "model": sample.model, "data": sample.data, "sample": sample.id, "method": method}


def _attribution(result: Result, judged: ExampleResult) -> dict[str, Any]:
    if isinstance(result, Attribution) and not np.isfinite(result.scores).all():
        return {"status": "nonfinite", "message": f"{result.method} gave scores that are NaN or infinite", "trace": ""}
    if isinstance(result, Attribution):
        plain = {**result.to_dict(), "notes": _plain(result.notes)}
        return {"status": OK, "message": "", "trace": ""} | {name: plain[name] for name in ("scores", "targets", "notes", "unit", "cost")}
    if isinstance(result, Failure):
        return {"status": status_of(result.error), "message": str(result.error), "trace": trace_of(result.error)}
    first = judged.records[0] if judged.records else None
    return {"status": first.status if first else "error(PromptError)", "message": first.message if first else "", "trace": ""}


def _plain(notes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Anybody's method may note anything; what is no strict JSON is kept as the text it prints as."""
    found = {}
    for name, value in notes.items():
        try:
            json.dumps(value, allow_nan=False)
            found[str(name)] = value
        except (TypeError, ValueError, RecursionError):
            found[str(name)] = repr(value)
    return found


def _described(judged: ExampleResult, row: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens, in the order of the scores; a continuation's are behind the prompt's."""
    longest = next((each.prompt for each in judged.results.values() if isinstance(each, Attribution)), judged.prompt)
    said: dict[str, Any] = {"group": row["group"], "fields": row["fields"]}
    if longest is None:
        return said
    offsets = [list(span) for span in longest.offsets]
    return (
        said
        | {"text": longest.text, "input_ids": list(longest.input_ids), "tokens": list(longest.tokens), "offsets": offsets}
        | ({"special": list(longest.special)} if any(longest.special) else {})
    )


def all_failed(sample: Sample, status: str, message: str, trace: str) -> Records:
    """The records of a sample all of whose trials ended so."""
    said = {"status": status, "message": message, "trace": trace}
    found: Records = [
        _begin(sample, trial.kind, trial.key, trial.method) | ({"metric": trial.metric} if trial.kind == VALUE else {}) | said
        for trial in sample.trials
    ]
    return [*found, _begin(sample, SAMPLE, sample.key, "") | {"status": status, "group": sample.group, "fields": {}, "cost": None}]
