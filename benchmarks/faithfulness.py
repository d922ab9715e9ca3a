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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import noiser
from noiser.evaluation import evaluate
from noiser.evaluation.plan import CONTROLS as CONTROLS_ALL
from noiser.evaluation.plan import entrants, measurings, read_label
from noiser.evidence import Contender, Gauge, Number, Record
from noiser.summary import summarise
from noiser.types import Attribution, Cost, Target

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
    lm = noiser.load()
    examples = chosen(lm, options)
    attributions = {label: explained(lm, examples, label, options.store / "attributions.jsonl") for label in ROWS[options.rows]}
    metrics = [f"soft_{part}:protocol={protocol}+masks={options.masks}" for protocol in PROTOCOLS for part in ("ns", "nc")]
    if options.rows == "bounds":
        metrics += [f"soft_{part}:masks={options.masks}+seed=1" for part in ("ns", "nc")]
    file = options.store / f"{options.name}-{options.rows}.jsonl"
    done = {record.sample for record in read(file)}
    left = [place for place, example in enumerate(examples) if example["id"] not in done]
    for start in range(0, len(left), SLICE):
        part = left[start : start + SLICE]
        methods = {label: [found[place] for place in part] for label, found in attributions.items()}
        found = evaluate(lm, [examples[place] for place in part], methods, metrics, controls=CONTROLS[options.rows])
        with file.open("a") as sink:
            for record in found.records:
                sink.write(json.dumps(asdict(record), allow_nan=False) + "\n")
            cost = {name: asdict(each) for name, each in found.costs.items()}
            (options.store / f"{options.name}-{options.rows}-cost-{part[0]}.json").write_text(json.dumps(cost))
        print(f"{start + len(part)} of {len(left)}", flush=True)
    wanted = {example["id"] for example in examples}
    contenders = [entrant.contender for entrant in entrants(ROWS[options.rows], CONTROLS[options.rows], 0, 0)]
    gauges = [each.gauge for each in measurings(metrics, 0)]
    print(tables([record for record in read(file) if record.sample in wanted], contenders, gauges))


def chosen(lm: noiser.LanguageModel, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The prompts whose next token, stripped, is the gold word: `count` of them, drawn with a seed, the same every time."""
    file = options.store / f"{options.name}-chosen.json"
    if not file.exists():
        rows = json.loads(options.file.read_text())
        found = [each for each in noiser.attribute_many(lm, [row["prompt"] for row in rows], "uniform") if isinstance(each, Attribution)]
        answered = [row for row, a in zip(rows, found, strict=True) if a.target.tokens[0].strip() == row[options.gold]]
        print(f"{len(answered)} of {len(rows)} prompts answered")
        drawn = random.Random(0).sample(answered, min(options.count, len(answered)))
        kept = [{"prompt": row["prompt"], "id": f"{options.name}-{_number(row)}", "group": row[options.group]} for row in drawn]
        file.write_text(json.dumps(kept))
    return json.loads(file.read_text())


def explained(lm: noiser.LanguageModel, examples: Sequence[dict[str, Any]], label: str, file: Path) -> list[Attribution]:
    """The attributions of one row of the table, from the file or computed and added to it."""
    lines = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    stored = {line["id"]: line["record"] for line in lines if line["label"] == label}
    missing = [example for example in examples if example["id"] not in stored]
    name, texts = read_label(label)
    options: dict[str, Any] = dict(texts)
    found = noiser.attribute_many(lm, [example["prompt"] for example in missing], name, **options)
    with file.open("a") as sink:
        for example, attribution in zip(missing, found, strict=True):
            assert isinstance(attribution, Attribution)
            stored[example["id"]] = attribution.to_dict()
            sink.write(json.dumps({"id": example["id"], "label": label, "record": stored[example["id"]]}) + "\n")
            sink.flush()
    return [_attribution(lm, stored[example["id"]]) for example in examples]


def read(file: Path) -> list[Record]:
    """The records written so far."""
    return [Record(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def tables(records: Sequence[Record], contenders: Sequence[Contender], gauges: Sequence[Gauge]) -> str:
    """Every metric's table."""
    blocks = []
    for table in summarise(records, contenders, gauges):
        lines = [
            f"### {table.metric}: {table.samples} samples, {table.clusters} clusters",
            "",
            "| row | mean | log-ratio | group |",
            "|---|---|---|---|",
        ]
        lines += [f"| {row.method} | {_shown(row.mean, 3)} | {_shown(row.log_ratio, 2)} | {row.group} |" for row in table.rows]
        blocks.append("\n".join([*lines, "", *(f"- {remark}" for remark in table.remarks)]))
    return "\n\n".join(blocks)


def _shown(number: Number | None, digits: int) -> str:
    if number is None or number.value is None:
        return ""
    ends = "" if number.low is None or number.high is None else f" ({number.low:.{digits}f} to {number.high:.{digits}f})"
    return f"{number.value:.{digits}f}{ends}"


def _number(row: dict[str, Any]) -> Any:
    return row.get("known_id", row.get("id"))


def _attribution(lm: noiser.LanguageModel, record: dict[str, Any]) -> Attribution:
    targets = tuple(
        Target(**{**each, "token_ids": tuple(each["token_ids"]), "tokens": tuple(each["tokens"])}) for each in record["targets"]
    )
    names = ("method", "options", "model", "revision", "seed", "notes")
    prompt = lm.prompt(record["prompt"]["text"])
    return Attribution(record["scores"], prompt, targets, cost=Cost(**record["cost"]), **{name: record[name] for name in names})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--name", required=True, help="what the samples are called: known, longra")
    parser.add_argument("--gold", required=True, help="the field with the word that the model has to answer")
    parser.add_argument("--group", required=True, help="the field that says which samples belong together")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--rows", choices=list(ROWS), default="methods")
    parser.add_argument("--masks", type=int, default=16)
    parser.add_argument("--store", type=Path, required=True, help="a folder for what is computed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
