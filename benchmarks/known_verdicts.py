"""Which metric's order of the methods is nearest to the truth, on the model whose causes are known?

python -m benchmarks.known_verdicts --store FOLDER                       # after `known_causes train` and `judge` in the same FOLDER
python -m benchmarks.known_verdicts --store benchmarks/known_rows        # the table of what was measured, without a model

The methods are ordered by their mean AUROC against the true words, and by the mean of every metric on the same rows; the figure is
Spearman's rank correlation of the two orders over the methods, with a percentile interval from resampled rows (stratified by kind of
fact). 1: the metric orders the methods as the truth does; 0: no relation. A second column leaves out the controls, which every
metric should put last. A third is the mean over rows of the correlation within the row.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

import noiser
from benchmarks.known_causes import KINDS, SEED, answered, read_aurocs
from benchmarks.known_causes import METHODS as ALL_METHODS

ROWS = 40
"""Rows of each kind of fact, the first of those that known_causes judges."""
BATCH = 20
OPERATORS = ("zero", "delete", "resample", "infill")
METRICS = (
    "soft_ns:masks=16", "soft_nc:masks=16", "soft_ns:masks=16+protocol=paper", "soft_nc:masks=16+protocol=paper",
    *(f"{metric}:operator={operator}" for metric in ("aopc", "comprehensiveness", "sufficiency") for operator in OPERATORS),
    "log_odds", "deletion:operator=delete", "insertion:operator=delete",
)  # fmt: skip
METHODS = [method for method in ALL_METHODS if not method.startswith(("shapley", "integrated_gradients"))]
"""All but the two that take longest."""
CONTROLS = ("random", "uniform", "recency")
DRAWS = 2_000


def measure(store: Path) -> None:
    """Add the values of every batch that has none yet to `values.jsonl`: by method and metric the values of its rows."""
    file = store / "values.jsonl"
    done = len(file.read_text().splitlines()) if file.exists() else 0
    if done * BATCH >= ROWS * len(KINDS):
        return
    lm = noiser.load(str(store))
    facts = [fact for rows, _ in answered(lm, ROWS).values() for fact in rows[:ROWS]]
    methods = [method for method in METHODS if method not in CONTROLS]
    for start in range(done * BATCH, len(facts), BATCH):
        prompts = [" ".join(fact.words) for fact in facts[start : start + BATCH]]
        examples = [noiser.Example(prompt, id=str(start + index)) for index, prompt in enumerate(prompts)]
        found = noiser.evaluate(lm, examples, methods, METRICS, controls=CONTROLS, ladder=False)
        line: dict[str, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
        for example in examples:
            for record in (each for each in found.records if each.sample == example.id):
                line[record.method][record.metric].append(None if record.value is None else round(record.value, 6))
        with file.open("a") as sink:
            sink.write(json.dumps(line) + "\n")


def table(store: Path) -> str:
    """Each metric's rank correlation with the truth over the methods, in Markdown, the best first."""
    batches = list(map(json.loads, (store / "values.jsonl").read_text().splitlines()))
    labels = list(batches[0][METHODS[0]])
    better = [-1 if label.startswith(("sufficiency", "log_odds", "deletion")) else 1 for label in labels]
    values = np.array(
        [[sign * np.array([v for batch in batches for v in batch[method][label]], dtype=np.float64) for method in METHODS]
         for label, sign in zip(labels, better, strict=True)]
    )  # fmt: skip
    count = values.shape[-1]
    aurocs = read_aurocs(store / "aurocs.jsonl")
    truth = np.array([[value for kind in KINDS for value in aurocs[method, kind][:ROWS]] for method in METHODS])[:, :count]
    real = np.array([method not in CONTROLS for method in METHODS])
    rng = np.random.default_rng(SEED)
    resamples = [np.concatenate([rng.integers(s, min(s + ROWS, count), min(s + ROWS, count) - s) for s in range(0, count, ROWS)])
                 for _ in range(DRAWS)]  # fmt: skip
    lines = [f"{count} rows, {len(METHODS)} methods of which {real.sum()} are no controls", ""]
    lines += ["| metric | rank correlation with the truth | without controls | within a row |", "|---|---|---|---|"]
    for index in np.argsort([-_correlation(truth, each) for each in values]):
        cells = []
        for rows in (np.ones(len(METHODS), bool), real):
            drawn = [_correlation(truth[rows][:, r], values[index][rows][:, r]) for r in resamples]
            low, high = np.nanquantile(drawn, (0.025, 0.975))
            cells.append(f"{_correlation(truth[rows], values[index][rows]):+.2f} ({low:+.2f} to {high:+.2f})")
        within = [_correlation(truth[real, r : r + 1], values[index][real, r : r + 1]) for r in range(count)]
        lines.append(f"| `{labels[index]}` | {cells[0]} | {cells[1]} | {np.nanmean(within):+.2f} |")
    return "\n".join(lines)


def _correlation(truth: np.ndarray, values: np.ndarray) -> float:
    """Spearman's rank correlation of the means over rows. NaN where all are equal."""
    first, second = rankdata(np.nanmean(truth, axis=1)), rankdata(np.nanmean(values, axis=1))
    if first.std() == 0 or second.std() == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    options: Any = parser.parse_args()
    measure(options.store)
    print(table(options.store))


if __name__ == "__main__":
    main()
