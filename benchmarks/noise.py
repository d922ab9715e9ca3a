"""Which noise explains best? Variants of Noiser beside other methods, on Known rows to choose with and on rows kept apart.

python -m benchmarks.noise KNOWN.json --store FOLDER tune        # 40 rows to choose with
python -m benchmarks.noise KNOWN.json --store FOLDER apart       # 40 others: only what was chosen runs on them
python -m benchmarks.noise KNOWN.json --store FOLDER more        # after `tune`, on its rows: the ideas of benchmarks/noise_contexts.py
python -m benchmarks.noise KNOWN.json --store FOLDER draws       # how precise 3 to 20 draws are, with pairs and without

The rows are drawn with a seed among those that the model answers; their `known_id`s are in benchmarks/noise_rows/ids.json, beside the
records so far. Records are kept in FOLDER, and an interrupted run goes on. A difference is the mean over rows of one method's value
minus the other's, with the standard error of that mean.
"""

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import noiser
from benchmarks.noise_contexts import register
from noiser.results.scores import spearman

ROWS = Path(__file__).with_name("noise_rows") / "ids.json"
COUNT = 40
SEED = 17
METRICS = ["soft_ns:masks=16", "soft_nc:masks=16"]
METHODS = [
    "noiser", "noiser:bound=linf", "noiser:bound=none", "noiser:bound=none+samples=3", "noiser:bound=rms+scale=2", "noiser:bound=rms",
    "noiser:bound=rms+scale=32", "noiser:bound=rms+samples=3", "noiser:bound=rms+pairs=true", "noiser:bound=replace", "occlusion",
    "lime", "lime:pairs=true", "shapley:samples=200",
]  # fmt: skip
CONTROLS = ["random", "recency"]
APART = ["noiser", "noiser:bound=none", "noiser:bound=rms", "noiser:bound=rms+samples=3", "occlusion", "lime", "shapley:samples=200"]
DRAWS = (3, 5, 10, 20)
REFERENCE = 200


def main() -> None:
    """Run one part, and print its table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("part", choices=("tune", "apart", "more", "draws"))
    parser.add_argument("--store", type=Path, required=True)
    options = parser.parse_args()
    options.store.mkdir(parents=True, exist_ok=True)
    rows = json.loads(options.file.read_text())
    if not ROWS.exists():
        ROWS.write_text(json.dumps(draw(rows)))
    chosen = json.loads(ROWS.read_text())["apart" if options.part == "apart" else "tune"]
    prompts = {row["known_id"]: row["prompt"] for row in rows if row["known_id"] in chosen}
    if options.part == "draws":
        print(precision(list(prompts.values())[:10]))
    else:
        file = options.store / f"{options.part}.jsonl"
        judge(prompts, {"apart": APART, "tune": METHODS}.get(options.part) or register(), file)
        records = _records(file)
        if options.part == "more":
            records = _joined(_records(options.store / "tune.jsonl"), records)
        print(table(records))


@cache
def model() -> noiser.LanguageModel:
    """The default model."""
    return noiser.load()


def draw(rows: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """The ids of COUNT rows to choose with and of COUNT rows kept apart, among those that the model answers."""
    shuffled = random.Random(SEED).sample(list(rows), len(rows))
    answered = []
    for row in shuffled:
        target = noiser.attribute(model(), row["prompt"], "uniform").target
        if target.tokens[0].strip() == row["attribute"]:
            answered.append(row["known_id"])
        if len(answered) == 2 * COUNT:
            break
    return {"tune": answered[:COUNT], "apart": answered[COUNT:]}


def judge(prompts: dict[int, str], methods: Sequence[str], file: Path) -> None:
    """Add the values, tokens and seconds of every row that has none yet."""
    done = {record["row"] for record in _records(file)} if file.exists() else set()
    for number, prompt in prompts.items():
        if number in done:
            continue
        made = {label: noiser.attribute(model(), prompt, label) for label in methods}
        found = noiser.evaluate(model(), [prompt], {label: [a] for label, a in made.items()}, METRICS, controls=CONTROLS)
        values: dict[str, dict[str, float | None]] = defaultdict(dict)
        for record in found.records:
            values[record.method][record.metric] = record.value
        costs = {label: [a.cost.forward_tokens + a.cost.backward_tokens, a.cost.seconds] for label, a in made.items()}
        with file.open("a") as sink:
            sink.write(json.dumps({"row": number, "values": values, "costs": costs}) + "\n")


def _records(file: Path) -> list[dict[str, Any]]:
    return list(map(json.loads, file.read_text().splitlines()))


def _joined(records: Sequence[dict[str, Any]], more: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that are in both, with the values of both. All methods meet the same masks of the metrics."""
    by_row = {record["row"]: record for record in more}
    both = [(record, by_row[record["row"]]) for record in records if record["row"] in by_row]
    return [{part: first[part] | second[part] for part in ("values", "costs")} for first, second in both]


def table(records: Sequence[dict[str, Any]]) -> str:
    """Each method's mean gain over random, its paired difference to occlusion and to Noiser at k_min, and its cost."""
    lines = [f"{len(records)} rows; Soft-NS / Soft-NC under `matched`, 16 masks; standard errors in parentheses", ""]
    lines += ["| method | minus random | minus occlusion | minus noiser (k_min) | tokens | seconds |", "|---|---|---|---|---|---|"]
    for label in records[0]["values"]:
        cells = [
            " / ".join(_difference(records, metric, label, other) for metric in METRICS) for other in ("random", "occlusion", "noiser")
        ]
        costs = [record["costs"].get(label, (0, 0)) for record in records]
        lines.append(f"| {label} | {' | '.join(cells)} | {np.mean([c[0] for c in costs]):,.0f} | {np.median([c[1] for c in costs]):.2f} |")
    return "\n".join(lines)


def _difference(records: Sequence[dict[str, Any]], metric: str, label: str, other: str) -> str:
    if label == other:
        return ""
    pairs = [(record["values"][label].get(metric), record["values"][other].get(metric)) for record in records]
    differences = np.array([a - b for a, b in pairs if a is not None and b is not None])
    return f"{differences.mean():+.3f} ({differences.std(ddof=1) / np.sqrt(len(differences)):.3f})"


def precision(prompts: Sequence[str]) -> str:
    """The standard error of a score as a share of the largest score, and the rank correlation with REFERENCE draws."""
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for prompt in prompts:
        reference = noiser.attribute(model(), prompt, f"noiser:bound=rms+samples={REFERENCE}", seed=1).scores
        for label in (f"bound=rms+samples={count}{pairs}" for count in DRAWS for pairs in ("", "+pairs=true") if not (count % 2 and pairs)):
            result = noiser.attribute(model(), prompt, f"noiser:{label}")
            assert result.stderr is not None
            error = np.sqrt(np.mean((result.scores - reference) ** 2)) / np.abs(reference).max()
            stated = np.sqrt(np.mean(result.stderr**2)) / np.abs(reference).max()
            found[label].append((float(stated), float(error), spearman(result.scores, reference, [len(result.tokens)]) or 0.0))
    lines = [f"{len(prompts)} rows; the reference has {REFERENCE} draws of another seed", ""]
    lines += ["| draws | stated standard error | root mean square difference to the reference | rank correlation |", "|---|---|---|---|"]
    for label, values in found.items():
        stated, error, rank = np.median(values, axis=0)
        lines.append(f"| {label} | {stated:.3f} | {error:.3f} | {rank:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
