"""A worker: one loaded model that screens prompts and computes the records of samples, in whatever process it runs."""

import json
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from noiser.attribution.explain import Failure
from noiser.data import Dataset, Row
from noiser.errors import NoiserError, PromptError, RunError
from noiser.evaluation.runner import EvaluationRunner, ExampleResult, Result, status_of, trace_of
from noiser.experiments.fingerprint import stable_hash
from noiser.experiments.folder import is_failure
from noiser.experiments.plan import ExecutionConfig, ModelChoice, Plan
from noiser.experiments.schema import ATTRIBUTION, SAMPLE, VALUE, record_problem
from noiser.experiments.screening import ScreenedRow, screen
from noiser.experiments.trials import Sample, sample_hash
from noiser.lm.load import load
from noiser.lm.model import LanguageModel
from noiser.results.attribution import Attribution
from noiser.results.records import OK, Example
from noiser.storage import decode, encode, strict_json
from noiser.text.prompt import Prompt

Records = list[dict[str, Any]]
MAX_NOTE_DEPTH = 50
"""How deep a method's note may be nested. A deeper one is kept as its `repr`."""


class ModelWorker:
    """A model of the plan, loaded, with the plan's data sets."""

    def __init__(
        self, plan: Plan, fingerprint: Mapping[str, Any], model: str, datasets: Mapping[str, Dataset], execution: ExecutionConfig
    ) -> None:
        self.plan, self.fingerprint, self.model, self.datasets, self.execution = plan, fingerprint, model, datasets, execution
        self.lm = _load(next(choice for choice in plan.models if choice.label == model), execution)
        planned = fingerprint["models"][model]["revision"]
        if self.lm.revision != planned:
            raise RunError(f"{model}: its revision was {planned} when the run was planned; the loaded model has {self.lm.revision}")
        self.judges = plan.open_judges(execution.judge_config)
        """The judges that the metrics ask."""
        self._runners: dict[str, EvaluationRunner] = {}

    def screen(self, data: str, on_row: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Which rows of a data set are kept, in the form that the run folder holds."""
        facts = self.fingerprint["data"][data]
        rows = screen(self.lm, self.datasets[data].rows, facts["match"], facts["limit"], lambda _: on_row())
        return {"model": self.model, "data": data, "rows": [self._plain_row(data, row) for row in rows]}

    def _plain_row(self, data: str, screened: ScreenedRow) -> dict[str, Any]:
        source = screened.row
        row: dict[str, Any] = {
            "id": source.id,
            "group": source.group,
            "kept": screened.answered,
            "said": screened.answer,
            "prob": screened.prob,
            "reason": screened.reason,
            "target_ids": list(screened.target_ids) if screened.target_ids is not None else None,
            "fields": {"target": source.target, **source.fields},
        }
        if screened.rendered:
            row["rendered"] = stable_hash(screened.rendered)
        if not screened.answered:
            return row
        return row | {"hash": sample_hash(self.fingerprint, self.model, data, {**row, "prompt": source.prompt})}

    def run(self, samples: Sequence[Sample], rows: Mapping[str, Mapping[str, Any]]) -> Iterator[Records]:
        """The records of each sample. All samples are of one data set; `rows` are its screened rows by id.

        An exception that stops all samples is found by running them one by one; it then belongs to one sample. Raises OptionError
        if the plan does not fit its data, RunError and errors of a lost GPU as they are.
        """
        self._runner(samples[0].data)  # an error in the plan belongs to no sample
        try:
            yield from self._run(samples, rows)
        except Exception as error:
            if isinstance(error, RunError) or _is_lost_device(error):
                raise
            if len(samples) > 1:
                for sample in samples:
                    yield from self.run([sample], rows)
                return
            yield failure_records(samples[0], f"error({type(error).__name__})", str(error), "".join(traceback.format_exception(error)))

    def _run(self, samples: Sequence[Sample], rows: Mapping[str, Mapping[str, Any]]) -> Iterator[Records]:
        data = samples[0].data
        generate = self.fingerprint["data"][data]["generate"]
        sources = {row.id: row for row in self.datasets[data].rows}
        examples: list[tuple[Example, Prompt | NoiserError]] = []
        for sample in samples:
            source, ids = sources[sample.id], rows[sample.id]["target_ids"]
            example = Example(source.prompt, None if generate or ids is None else tuple(ids), sample.id, sample.group)
            prompt = _read_prompt(self.lm, source)
            _check_rendered(sample, prompt, rows[sample.id])
            examples.append((example, prompt))
        results = list(self._runner(data).run(examples, 0, generate))
        records = [_records(sample, result, rows[sample.id]) for sample, result in zip(samples, results, strict=True)]
        _check_storable(record for sample_records in records for record in sample_records)
        yield from records

    def _runner(self, data: str) -> EvaluationRunner:
        if data not in self._runners:
            prompts = [_read_prompt(self.lm, row) for row in self.datasets[data].rows]
            columns = self.plan.columns(self.judges)
            runner = EvaluationRunner(self.lm, self.plan.rows, columns, prompts, self.plan.seed, self.execution.timeout)
            runner.check()
            self._runners[data] = runner
        return self._runners[data]


def _load(choice: ModelChoice, execution: ExecutionConfig) -> LanguageModel:
    return load(
        choice.name,
        choice.tokenizer,
        adapter=choice.adapter,
        revision=choice.revision,
        device=execution.device,
        device_map=execution.device_map,
        dtype=choice.dtype,
        attention=choice.attention,
        trust_remote_code=choice.trust_remote_code,
        allow_pickle=choice.allow_pickle,
        template_args=choice.read_template_args(),
        token_budget=execution.token_budget,
    )


def _read_prompt(lm: LanguageModel, row: Row) -> Prompt | NoiserError:
    if row.error:
        return PromptError(row.error)
    try:
        return lm.prompt(row.prompt)
    except NoiserError as error:
        return error


def _check_rendered(sample: Sample, prompt: Prompt | NoiserError, row: Mapping[str, Any]) -> None:
    """Raises RunError if a chat is now rendered to other tokens than when the run began: two halves of a run would not fit together."""
    if isinstance(prompt, Prompt) and "rendered" in row and stable_hash(prompt.input_ids) != row["rendered"]:
        raise RunError(
            f"the chat template renders {sample.id} of {sample.data} to another text than when this run began: it may write today's date, "
            "or transformers has changed. Set what it reads (--template-args date_string=...), and give another --out"
        )


def _is_lost_device(error: Exception) -> bool:
    """True for an error of the GPU itself. Every later call fails too, so the process must start again."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


def _records(sample: Sample, result: ExampleResult, row: Mapping[str, Any]) -> Records:
    """A record for each trial, and last the one that describes the sample.

    The last one has the status of the first failed trial, so a retry writes it again together with that trial.
    """
    values = {(value.method, value.metric): value for value in result.records}
    records = []
    for trial in sample.trials:
        record = _start_record(sample, trial.kind, trial.key, trial.method)
        if trial.kind == ATTRIBUTION:
            records.append(record | _attribution_fields(result.results.get(trial.method), result))
            continue
        value = values[trial.method, trial.metric]
        record |= {"metric": trial.metric, "status": value.status, "value": value.value, "message": value.message}
        extra = {"also": dict(value.extra)} if value.extra else {}
        records.append(record | {"trace": value.trace, "steps": [dict(step) for step in value.steps], **extra})
    status = next((record["status"] for record in records if is_failure(record["status"])), OK)
    last = _start_record(sample, SAMPLE, sample.key, "") | {"status": status, **_sample_fields(result, row)}
    return [*records, last | {"cost": asdict(result.metrics)}]


def _check_storable(records: Iterable[Mapping[str, Any]]) -> None:
    """Raise ValueError for a record that could not be read back, because of what a method or metric put into it."""
    for record in records:
        written = decode(encode(record)[:-1])
        problem = written if isinstance(written, str) else record_problem(written)
        if problem:
            raise ValueError(f"the record of {record['method'] or 'the sample'} cannot be stored: {problem}")


def _start_record(sample: Sample, kind: str, key: str, method: str) -> dict[str, Any]:
    return {"key": key, "kind": kind, "model": sample.model, "data": sample.data, "sample": sample.id, "method": method}


def _attribution_fields(attribution: Result, result: ExampleResult) -> dict[str, Any]:
    if isinstance(attribution, Attribution) and not np.isfinite(attribution.scores).all():
        return {"status": "nonfinite", "message": f"{attribution.method} gave scores that are NaN or infinite", "trace": ""}
    if isinstance(attribution, Attribution):
        plain = {**attribution.to_dict(), "notes": _plain_notes(attribution.notes)}
        names = ("scores", "stderr", "dof", "targets", "notes", "unit", "cost")
        return {"status": OK, "message": "", "trace": ""} | {name: plain[name] for name in names if name in plain}
    if isinstance(attribution, Failure):
        return {"status": status_of(attribution.error), "message": str(attribution.error), "trace": trace_of(attribution.error)}
    first = result.records[0] if result.records else None
    return {"status": first.status if first else "error(PromptError)", "message": first.message if first else "", "trace": ""}


def _plain_notes(notes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The notes as strict JSON. A method may note anything; what JSON cannot hold is kept as its `repr`."""
    plain = {}
    for name, value in notes.items():
        try:
            strict_json(json.dumps(value, allow_nan=False).encode(), MAX_NOTE_DEPTH)
            plain[str(name)] = value
        except (TypeError, ValueError, RecursionError):
            plain[str(name)] = repr(value)
    return plain


def _sample_fields(result: ExampleResult, row: Mapping[str, Any]) -> dict[str, Any]:
    """Text and tokens of the sample, in the order of the scores. Tokens of a continuation follow those of the prompt."""
    prompts = (attribution.prompt for attribution in result.results.values() if isinstance(attribution, Attribution))
    prompt = next(prompts, result.prompt)
    fields: dict[str, Any] = {"group": row["group"], "fields": row["fields"]}
    if prompt is None:
        return fields
    offsets = [list(span) for span in prompt.offsets]
    fields |= {"text": prompt.text, "input_ids": list(prompt.input_ids), "tokens": list(prompt.tokens), "offsets": offsets}
    return fields | ({"special": list(prompt.special)} if any(prompt.special) else {})


def failure_records(sample: Sample, status: str, message: str, trace: str) -> Records:
    """The records of a sample whose trials all have this status."""
    failure = {"status": status, "message": message, "trace": trace}
    records: Records = [
        _start_record(sample, trial.kind, trial.key, trial.method) | ({"metric": trial.metric} if trial.kind == VALUE else {}) | failure
        for trial in sample.trials
    ]
    return [*records, _start_record(sample, SAMPLE, sample.key, "") | {"status": status, "group": sample.group, "fields": {}, "cost": None}]
