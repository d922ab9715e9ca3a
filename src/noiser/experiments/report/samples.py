"""Single samples of a run, to be looked at: all methods' scores on the same tokens, and what the metrics made of them."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from noiser.experiments.folder import RecordIndex
from noiser.experiments.report.tables import PartResult
from noiser.experiments.trials import ATTRIBUTION, VALUE, Sample
from noiser.results.attribution import Attribution, Comparison, Cost, Target
from noiser.results.records import OK
from noiser.text.prompt import Prompt
from noiser.views.documents import Section
from noiser.views.escape import visible
from noiser.views.viewer.data import View, view

NOTED = "noted"
"""The field of a record that keeps what the page shows of a method's notes, once these are dropped."""
SHOWN = ("k", "k_status", "warnings")


def keep_noted(record: dict[str, Any]) -> None:
    """Put the notes that a page shows into a field of their own."""
    notes = record.get("notes") if record.get("kind") == ATTRIBUTION else None
    if isinstance(notes, Mapping):
        record[NOTED] = {name: notes[name] for name in SHOWN if name in notes}


def samples(results: Sequence[PartResult], count: int) -> Iterator[Section]:
    """The first so many samples of each model and data set; no section where none has scores."""
    for result in results:
        there = (_view(result, sample) for sample in result.part.samples)
        views = tuple(islice((each for each in there if each is not None), count))
        if views:
            said = f"The first {len(views)} of {len(result.part.samples):,} samples: choose one, point at a token for its score."
            yield Section(f"Samples: {result.part.model} on {result.part.data}", (said,), views=views)


def _view(result: PartResult, sample: Sample) -> View | None:
    """One sample as a page shows it; None where no method has scores for it."""
    found, methods = result.found, result.identity["methods"]
    said = found.records.get(sample.key)
    records = {trial.method: found.records.get(trial.key) for trial in sample.trials if trial.kind == ATTRIBUTION}
    good = {label: record for label, record in records.items() if record is not None and record["status"] == OK}
    if not good or said is None or "tokens" not in said:
        return None
    prompt = _prompt(said)
    about = {"model": result.part.model, "revision": str(result.identity["models"][result.part.model]["revision"])}
    each = tuple(_attribution(label, record, prompt, methods[label], about) for label, record in good.items())
    bad = {label: record for label, record in records.items() if record is not None and label not in good}
    failures = {label: f"{record['status']} {record['message']}".strip() for label, record in bad.items()}
    drawn = view(Comparison(each, failures))
    return drawn | {"title": f"{visible(sample.id)}: {drawn['title']}", "evaluation": _values(sample, found)}


def _prompt(said: Mapping[str, Any]) -> Prompt:
    tokens, ids = tuple(said["tokens"]), tuple(said["input_ids"])
    special = tuple(map(bool, said.get("special") or [False] * len(ids)))
    return Prompt(said["text"], ids, tokens, special, tuple((first, last) for first, last in said.get("offsets", ())))


def _attribution(label: str, record: Mapping[str, Any], prompt: Prompt, method: Mapping[str, Any], about: Mapping[str, str]) -> Attribution:
    targets = tuple(map(_target, record["targets"]))
    given = targets[0].context if len(targets) > 1 else None
    return Attribution(
        scores=np.array(record["scores"], dtype=np.float64),
        prompt=prompt,
        targets=targets,
        method=label,
        options={name: value for name, value in method["options"].items() if name != "seed"},
        model=about["model"],
        revision=about["revision"],
        seed=method["options"].get("seed"),
        cost=Cost(**record["cost"]),
        notes={"warnings": [], **record.get(NOTED, {})},
        unit=record["unit"],
        given=given,
    )


def _target(plain: Mapping[str, Any]) -> Target:
    foil = plain.get("foil")
    lists = {name: tuple(plain[name]) for name in ("token_ids", "tokens")}
    return Target(**{**plain, **lists, "foil": _target(foil) if foil else None})


def _values(sample: Sample, found: RecordIndex) -> dict[str, Any] | None:
    """What every metric gave for this sample, methods down."""
    trials = [trial for trial in sample.trials if trial.kind == VALUE]
    metrics = list(dict.fromkeys(trial.metric for trial in trials))
    if not metrics:
        return None
    cells = {(trial.method, trial.metric): _cell(found.records.get(trial.key)) for trial in trials}
    methods = dict.fromkeys(trial.method for trial in trials)
    rows = [[visible(method), *(cells.get((method, metric), "") for metric in metrics)] for method in methods]
    columns = ["method", *map(visible, metrics)]
    table = {"title": "Every metric on this sample", "columns": columns, "rows": rows, "notes": []}
    return {"title": "This sample alone: no intervals; see the tables of the report", "tables": [table], "remarks": []}


def _cell(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return "missing"
    value = record.get("value")
    return visible(record["status"]) if value is None else f"{value:.4g}"
