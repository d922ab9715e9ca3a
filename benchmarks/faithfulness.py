"""Every method, control and bound under the four protocols of Soft-NS and Soft-NC, on prompts that the model answers.

python -m benchmarks.faithfulness FILE.json --gold attribute --group relation_id --count 64 --store FOLDER [--rows methods]

FILE is a JSON list with `prompt`, the gold word and what the prompts are grouped by: Known has `attribute` and
`relation_id`, LongRA `target` and `type`. Attributions and records are kept in FOLDER, and a run that was interrupted goes
on where it stopped.
"""

import argparse
import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import noiser
from noiser.evaluation import evaluate
from noiser.evaluation.spec import CONTROLS as CONTROLS_ALL
from noiser.evaluation.spec import method_rows, metric_columns
from noiser.registry import read_label
from noiser.results.attribution import Attribution, Cost, Target
from noiser.results.records import Number, Record, Summary
from noiser.results.tables import summarise
from noiser.views.plots import save_plots

METHODS = [
    "noiser", "occlusion", "lime", "input_x_gradient", "integrated_gradients", "gradient_shap", "deeplift",
    "sequential_integrated_gradients:steps=16", "last_attention", "attention_rollout",
]  # fmt: skip
BOUNDS = ["random", "none", "l2", "linf", "k_max_per_token", "k_max", "k_min"]
ROWS = {
    "methods": METHODS,
    "quick": [name for name in METHODS if not name.startswith("sequential")],
    "bounds": [*(f"noiser:bound={bound}" for bound in BOUNDS), "noiser:steps=5"],
}
CONTROLS = {
    "methods": CONTROLS_ALL,
    "quick": CONTROLS_ALL,
    "bounds": ["random", "constant"],
}
PROTOCOLS = ["matched", "proportional", "paper", "official"]
SLICE = 4
"""Examples between two writes."""


def main() -> None:
    """Choose, explain, judge, and print the tables in Markdown."""
    options = _options()
    options.store.mkdir(parents=True, exist_ok=True)
    examples = chosen(options)
    metrics = [f"soft_{part}:protocol={protocol}+masks={options.masks}" for protocol in PROTOCOLS for part in ("ns", "nc")]
    if options.rows == "bounds":
        metrics += [f"soft_{part}:masks={options.masks}+seed=1" for part in ("ns", "nc")]
    file = options.store / f"{options.name}-{options.rows}.jsonl"
    judge(examples, options.rows, metrics, file)
    wanted = {example["id"] for example in examples}
    records = [record for record in read(file) if record.sample in wanted]
    rows = [row.to_row() for row in method_rows(ROWS[options.rows], CONTROLS[options.rows], 0, 0)]
    found = summarise(records, rows, [column.to_column() for column in metric_columns(metrics, 0)])
    if options.plots:
        save_plots(found, model().name, options.plots)
    sides = [by_protocol(found, metric) for metric in ("faithfulness", "soft_ns", "soft_nc")]
    print("\n\n".join([*sides, *map(whole, found), masks_share(records, metrics)]))


@cache
def model() -> noiser.LanguageModel:
    """The default model."""
    return noiser.load()


def judge(examples: Sequence[dict[str, Any]], rows: str, metrics: Sequence[str], file: Path) -> None:
    """Add the records of every example that has none yet."""
    done = {record.sample for record in read(file)}
    left = [example for example in examples if example["id"] not in done]
    if not left:
        return
    attributions = {label: explained(left, label, file.parent / "attributions.jsonl") for label in ROWS[rows]}
    for start in range(0, len(left), SLICE):
        part = slice(start, start + SLICE)
        methods = {label: each[part] for label, each in attributions.items()}
        found = evaluate(model(), left[part], methods, metrics, controls=CONTROLS[rows])
        with file.open("a") as sink:
            sink.writelines(json.dumps(record.to_dict(), allow_nan=False) + "\n" for record in found.records)
        print(f"{min(start + SLICE, len(left))} of {len(left)}", flush=True)


def chosen(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The prompts whose next token, stripped, is the gold word: `count` of them, drawn with a seed, the same every time."""
    file = options.store / f"{options.name}-chosen.json"
    if not file.exists():
        rows = json.loads(options.file.read_text())
        found = [
            each for each in noiser.attribute_many(model(), [row["prompt"] for row in rows], "uniform") if isinstance(each, Attribution)
        ]
        answered = [row for row, a in zip(rows, found, strict=True) if a.target.tokens[0].strip() == row[options.gold]]
        print(f"{len(answered)} of {len(rows)} prompts answered")
        drawn = random.Random(0).sample(answered, min(options.most, len(answered)))
        kept = [{"prompt": row["prompt"], "id": f"{options.name}-{_number(row)}", "group": row[options.group]} for row in drawn]
        file.write_text(json.dumps(kept))
    return json.loads(file.read_text())[: options.count]


def explained(examples: Sequence[dict[str, Any]], label: str, file: Path) -> list[Attribution]:
    """The attributions of one row of the table, from the file or computed and added to it."""
    lines = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    stored = {line["id"]: line["record"] for line in lines if line["label"] == label}
    missing = [example for example in examples if example["id"] not in stored]
    name, texts = read_label(label)
    options: dict[str, Any] = dict(texts)
    found = noiser.attribute_many(model(), [example["prompt"] for example in missing], name, **options)
    with file.open("a") as sink:
        for example, attribution in zip(missing, found, strict=True):
            assert isinstance(attribution, Attribution)
            stored[example["id"]] = attribution.to_dict()
            sink.write(json.dumps({"id": example["id"], "label": label, "record": stored[example["id"]]}) + "\n")
            sink.flush()
    return [_attribution(stored[example["id"]]) for example in examples]


def read(file: Path) -> list[Record]:
    """The records written so far."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [Record(**{("extra" if name == "also" else name): value for name, value in line.items()}) for line in lines]


def by_protocol(found: Sequence[Summary], metric: str) -> str:
    """A metric's log-ratios (of faithfulness their sum) under each protocol, rows in the order of the first."""
    tables = [each for each in found if each.metric.startswith(metric)]
    rows = [{row.method: row for row in table.rows} for table in tables]
    lines = [f"| {metric} |" + "".join(f" {table.metric.partition(':')[2]} |" for table in tables), "|---" * (len(tables) + 1) + "|"]
    for method in rows[0]:
        cells = [f"{_shown(row[method].log_ratio, 2)} {row[method].group}".strip() for row in rows]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def whole(table: Summary) -> str:
    """One metric's table, and its remarks."""
    lines = [f"### {table.metric}: {table.samples} samples, {table.clusters} clusters", ""]
    lines += ["| row | mean | log-ratio | group |", "|---|---|---|---|"]
    lines += [f"| {row.method} | {_shown(row.mean, 3)} | {_shown(row.log_ratio, 2)} | {row.group} |" for row in table.rows]
    return "\n".join([*lines, "", *(f"- {remark}" for remark in table.remarks)])


def masks_share(records: Sequence[Record], metrics: Sequence[str]) -> str:
    """Which share of the variance between samples comes from the masks: from one seed's masks where all have the same
    keep-probabilities (paper, official), and from two seeds where they have not (matched)."""
    lines = ["### Share of the variance between samples that comes from the masks", ""]
    values: dict[str, dict[tuple[str, str], Record]] = {metric: {} for metric in metrics}
    for record in records:
        if record.value is not None:
            values[record.metric][record.method, record.sample] = record
    for metric, own in values.items():
        again = next((other for other in metrics if other.endswith("seed=1") and other[:7] == metric[:7]), None)
        if "=paper" in metric or "=official" in metric:
            noise = {key: float(np.var(each.steps[0]["masks"], ddof=1)) / len(each.steps[0]["masks"]) for key, each in own.items()}
        elif "=matched" in metric and again:
            noise = {key: (_value(each) - _value(values[again][key])) ** 2 / 2 for key, each in own.items()}
        else:
            continue
        shares = []
        for method in dict.fromkeys(method for method, _ in own):
            mine = [key for key in own if key[0] == method]
            spread = float(np.var([_value(own[key]) for key in mine], ddof=1))
            shares += [np.mean([noise[key] for key in mine]) / spread] if spread > 1e-12 else []
        lines.append(f"- {metric}: {np.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%} over the rows)")
    return "\n".join(lines)


def _value(record: Record) -> float:
    assert record.value is not None
    return record.value


def _shown(number: Number | None, digits: int) -> str:
    if number is None or number.value is None:
        return ""
    ends = "" if number.low is None or number.high is None else f" ({number.low:.{digits}f} to {number.high:.{digits}f})"
    return f"{number.value:.{digits}f}{ends}"


def _number(row: dict[str, Any]) -> Any:
    return row.get("known_id", row.get("id"))


def _attribution(record: dict[str, Any]) -> Attribution:
    targets = tuple(
        Target(**{**each, "token_ids": tuple(each["token_ids"]), "tokens": tuple(each["tokens"])}) for each in record["targets"]
    )
    names = ("method", "options", "model", "revision", "seed", "notes")
    prompt = model().prompt(record["prompt"]["text"])
    return Attribution(record["scores"], prompt, targets, cost=Cost(**record["cost"]), **{name: record[name] for name in names})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--name", required=True, help="what the samples are called: known, longra")
    parser.add_argument("--gold", required=True, help="the field with the word that the model has to answer")
    parser.add_argument("--group", required=True, help="the field that says which samples belong together")
    parser.add_argument("--most", type=int, default=64, help="how many to draw")
    parser.add_argument("--count", type=int, default=60, help="how many of them to use")
    parser.add_argument("--rows", choices=list(ROWS), default="methods")
    parser.add_argument("--masks", type=int, default=16)
    parser.add_argument("--plots", type=Path, help="a folder for a plot of each metric")
    parser.add_argument("--store", type=Path, required=True, help="a folder for what is computed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
