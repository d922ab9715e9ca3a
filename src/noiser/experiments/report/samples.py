"""Single samples of a run in the viewer: all methods' scores on the same tokens, and every metric's value."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from noiser.experiments.folder import RecordIndex
from noiser.experiments.report.tables import CellResult
from noiser.experiments.schema import ATTRIBUTION, OK, SAMPLE, VALUE
from noiser.experiments.trials import Sample
from noiser.results.attribution import Attribution, Comparison, Cost, Target
from noiser.text.prompt import Prompt
from noiser.views.documents import Section
from noiser.views.labels import visible
from noiser.views.viewer.data import View, view

NOTED = "noted"
"""The field of a record that keeps the notes that a page shows."""
SHOWN_NOTES = ("k", "k_status", "warnings")
RecordMap = Mapping[str, Any]


def keep_noted(record: dict[str, Any]) -> None:
    """Copy the notes that a page shows into a field of their own, before all notes are dropped."""
    notes = record.get("notes") if record.get("kind") == ATTRIBUTION else None
    if isinstance(notes, Mapping):
        record[NOTED] = {name: notes[name] for name in SHOWN_NOTES if name in notes}


def sample_sections(results: Sequence[CellResult], count: int) -> Iterator[Section]:
    """The first `count` samples of each model and data set. No section for a cell without scores."""
    for result in results:
        views = (_view(result, sample) for sample in result.cell.samples)
        shown = tuple(islice((each for each in views if each is not None), count))
        if shown:
            text = f"The first {len(shown)} of {len(result.cell.samples):,} samples. Choose one; point at a token to see its score."
            yield Section(f"Samples: {result.cell.model} on {result.cell.data}", (text,), views=shown)


def _view(result: CellResult, sample: Sample) -> View | None:
    """One sample as a page shows it; None if no method has scores for it."""
    description = result.index.find(sample.key, SAMPLE)
    trials = {trial.method: result.index.find(trial.key, trial.kind) for trial in sample.trials if trial.kind == ATTRIBUTION}
    records = {label: record for label, record in trials.items() if record is not None}
    if description is None or "tokens" not in description:
        return None
    explained = [_explained(record) for record in records.values() if record["status"] == OK]
    scored = {label: record for label, record in records.items() if _fits(record, len(description["tokens"]), explained)}
    if not scored:
        return None
    prompt = _prompt(description)
    attributions = tuple(_attribution(label, record, prompt, result) for label, record in scored.items())
    failures = {
        label: f"{record['status']} {record.get('message', '')}".strip() for label, record in records.items() if label not in scored
    }
    page = view(Comparison(attributions, failures))
    return page | {"title": f"{visible(sample.id)}: {page['title']}", "evaluation": _metric_values(sample, result.index)}


def _explained(record: RecordMap) -> list[list[int]]:
    return [target["token_ids"] for target in record["targets"]]


def _fits(record: RecordMap, tokens: int, explained: Sequence[list[list[int]]]) -> bool:
    """True if the scores are of this sample's tokens and explain what the first method explains."""
    if record["status"] != OK or _explained(record) != explained[0]:
        return False
    return len(record["scores"][0]) == tokens and all(target["context"] <= tokens for target in record["targets"])


def _prompt(description: RecordMap) -> Prompt:
    tokens, ids = tuple(description["tokens"]), tuple(description["input_ids"])
    special = tuple(map(bool, description.get("special") or [False] * len(ids)))
    return Prompt(description["text"], ids, tokens, special, tuple((start, stop) for start, stop in description.get("offsets", ())))


def _attribution(label: str, record: RecordMap, prompt: Prompt, result: CellResult) -> Attribution:
    targets = tuple(map(_target, record["targets"]))
    options = result.fingerprint["methods"][label]["options"]
    model = result.cell.model
    return Attribution(
        scores=np.array(record["scores"], dtype=np.float64),
        stderr=np.array(record["stderr"], dtype=np.float64) if "stderr" in record else None,
        dof=tuple(record["dof"]) if "dof" in record else None,
        prompt=prompt,
        targets=targets,
        method=label,
        options={name: value for name, value in options.items() if name != "seed"},
        model=model,
        revision=str(result.fingerprint["models"][model]["revision"]),
        seed=options.get("seed"),
        cost=Cost(**{**record["cost"], "seconds": float(record["cost"]["seconds"])}),
        notes={"warnings": [], **record.get(NOTED, {})},
        unit=record["unit"],
        given=targets[0].context if len(targets) > 1 else None,
    )


def _target(plain: RecordMap) -> Target:
    foil = plain.get("foil")
    tuples = {name: tuple(plain[name]) for name in ("token_ids", "tokens")}
    numbers = {name: float(plain[name]) for name in ("prob", "value") if plain.get(name) is not None}
    return Target(**{**plain, **tuples, **numbers, "foil": _target(foil) if foil else None})


def _metric_values(sample: Sample, index: RecordIndex) -> dict[str, Any] | None:
    """The value of every metric for this sample, one row a method."""
    trials = [trial for trial in sample.trials if trial.kind == VALUE]
    metrics = list(dict.fromkeys(trial.metric for trial in trials))
    if not metrics:
        return None
    cells = {(trial.method, trial.metric): _cell(index.find(trial.key, trial.kind)) for trial in trials}
    methods = dict.fromkeys(trial.method for trial in trials)
    rows = [[visible(method), *(cells.get((method, metric), "") for metric in metrics)] for method in methods]
    columns = ["method", *map(visible, metrics)]
    table = {"title": "Every metric on this sample", "columns": columns, "rows": rows, "notes": []}
    return {"title": "This sample alone: no intervals; see the tables of the report", "tables": [table], "remarks": []}


def _cell(record: RecordMap | None) -> str:
    if record is None:
        return "missing"
    value = record.get("value")
    return visible(record["status"]) if value is None else f"{value:.4g}"
