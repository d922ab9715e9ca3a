"""Which method deserves belief on the default model? Every method and control on Known, LongRA and continuations.

python -m benchmarks.evidence run known KNOWN.json [--minutes 60]           # every answered row
python -m benchmarks.evidence run longra LONGRA.json                        # 24 answered rows of the file, 20 of our own small set
python -m benchmarks.evidence run continuations OPENINGS.txt                # 15 openings, 5 generated tokens each
python -m benchmarks.evidence table known                                   # means, intervals and rank groups, from what is there

The rows come in an order drawn with a seed. Batches of rows are kept in benchmarks/evidence_rows/ as they are done: ids, values and
costs, no text. A run that was interrupted goes on, and a part of the rows is a random part of them. On Known, the rows that
benchmarks/noise.py judged keep their values of Soft-NS and Soft-NC; only the methods missing there are run on them, without `aopc`.
LongRA and continuations run in bfloat16, with 3 draws of noise, and `comprehensiveness` (five shares) instead of `aopc` (every number
of tokens), because their prompts are long.
"""

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import noiser
from noiser.data import read
from noiser.evaluation.spec import EvaluationSpec
from noiser.experiments.screening import screen
from noiser.results.records import Record, Row, Summary
from noiser.results.statistics import ClusterJackknife
from noiser.results.tables import summarise

FOLDER = Path(__file__).with_name("evidence_rows")
EARLIER = Path(__file__).with_name("noise_rows")
SEED = 18
BATCH = 6
"""Rows that are evaluated at a time; `resample` draws its tokens from the others of the batch."""
SOFT = ("soft_ns:masks=16", "soft_nc:masks=16")
OTHERS = (
    "occlusion", "lime:pairs=true", "shapley:samples=200", "integrated_gradients:steps=50", "input_x_gradient", "last_attention",
)  # fmt: skip
CONTROLS = ("random", "uniform", "constant", "recency", "permuted")


class Set(NamedTuple):
    """What is run on a set of rows."""

    methods: Sequence[str]
    metrics: Sequence[str]
    dtype: str
    generate: int | None = None


def _noise(draws: str, *, few: str) -> list[str]:
    """Variants of Noiser. Those with a fixed scale take `few` draws where it was measured that few are enough."""
    label = "noiser:bound={}".format
    searched = [f"noiser:{draws}" if draws else "noiser", label("linf") + (f"+{draws}" if draws else "")]
    fixed = [label(bound) + (f"+{draws}" if draws else "") for bound in ("none", "replace")]
    return [*searched, *fixed, *(label(f"rms+scale={scale}+{few}") for scale in (1, 4, 16)), label(f"rms+{few}")]


SETS = {
    "known": Set(
        (*_noise("", few="samples=3"), *OTHERS),
        (*SOFT, "aopc:operator=delete", "aopc:operator=resample+draws=1", "aopc:operator=infill+draws=1"),
        "float32",
    ),
    "longra": Set(
        (*_noise("samples=3", few="samples=3"), *OTHERS),
        (*SOFT, *(f"comprehensiveness:operator={o}" for o in ("delete", "resample+draws=1", "infill+draws=1"))),
        "bfloat16",
    ),
    "continuations": Set(
        (*_noise("samples=3", few="samples=3"), *OTHERS),
        (*SOFT, *(f"comprehensiveness:operator={o}" for o in ("delete", "resample+draws=1", "infill+draws=1"))),
        "bfloat16",
        generate=5,
    ),
}
LONGRA_ROWS, OWN_ROWS, OPENINGS = 24, 20, 15


def rows(name: str, file: Path, lm: noiser.LanguageModel) -> list[noiser.Example]:
    """The rows of a set that the model answers, in an order drawn with SEED."""
    kind = "wikibio" if name == "continuations" else name

    def draw(dataset: Any, count: int | None) -> list[noiser.Example]:
        shuffled = random.Random(SEED).sample(list(dataset.rows), len(dataset.rows))
        found = screen(lm, shuffled, dataset.match, count)
        return [noiser.Example(each.row.prompt, id=str(each.row.id), group=each.row.group) for each in found if each.answered]

    if name == "known":
        return draw(read(kind, file), None)
    if name == "continuations":
        return draw(read(kind, file), OPENINGS)
    published = draw(read(kind, file), LONGRA_ROWS)
    own = [noiser.Example(each.prompt, id=f"mini-{each.id}", group=each.group) for each in draw(read("longra-mini"), OWN_ROWS)]
    return random.Random(SEED).sample(published + own, len(published) + len(own))


def run(name: str, file: Path, minutes: float) -> None:
    """Add batches until every row has every value, or the time is over."""
    end = time.monotonic() + 60 * minutes
    what = SETS[name]
    lm = noiser.load(dtype=what.dtype)
    answered = rows(name, file, lm)
    there, judged = values(name), _earlier() if name == "known" else {}
    waiting: dict[tuple[str, ...], list[noiser.Example]] = defaultdict(list)
    for example in answered:
        missing = tuple(label for label in what.methods if label not in there.get(str(example.id), {}))
        if missing:
            waiting[missing].append(example)
    for missing, batch in _batches(waiting):
        if time.monotonic() > end:
            break
        metrics = SOFT if str(batch[0].id) in judged else what.metrics
        begin = time.perf_counter()
        found = noiser.evaluate(lm, batch, missing, metrics, controls=CONTROLS, generate=what.generate)
        line = {
            "groups": {str(example.id): example.group for example in batch},
            "values": _nested(found.records),
            "costs": {label: [cost.forward_tokens + cost.backward_tokens, cost.seconds] for label, cost in found.costs.items()},
        }
        with _file(name).open("a") as sink:
            sink.write(json.dumps(line) + "\n")
        print(f"{len(batch)} rows of {len(answered)}, {time.perf_counter() - begin:.0f} s", flush=True)


def _batches(waiting: Mapping[tuple[str, ...], list[noiser.Example]]) -> Iterator[tuple[tuple[str, ...], list[noiser.Example]]]:
    """The batches of the groups in turn."""
    left = {missing: list(examples) for missing, examples in waiting.items()}
    while any(left.values()):
        for missing, examples in left.items():
            if examples:
                size = len(examples) if len(examples) < BATCH + 2 else BATCH
                yield missing, examples[:size]
                del examples[:size]


def _nested(records: Sequence[Record]) -> dict[str, dict[str, dict[str, float | None]]]:
    found: dict[str, dict[str, dict[str, float | None]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        found[record.sample][record.method][record.metric] = record.value
    return found


def _file(name: str) -> Path:
    return FOLDER / f"{name}.jsonl"


def _lines(name: str) -> list[dict[str, Any]]:
    return list(map(json.loads, _file(name).read_text().splitlines())) if _file(name).exists() else []


def _earlier() -> dict[str, dict[str, dict[str, float | None]]]:
    """The values of benchmarks/noise.py by row and method. Rows that a method was chosen with are among them."""
    lines = [json.loads(line) for part in ("tune", "apart") for line in (EARLIER / f"{part}.jsonl").read_text().splitlines()]
    return {str(line["row"]): line["values"] for line in lines}


def values(name: str) -> dict[str, dict[str, dict[str, float | None]]]:
    """By row, method and metric, what is there; on Known with the values of benchmarks/noise.py."""
    merged: dict[str, dict[str, dict[str, float | None]]] = dict(_earlier()) if name == "known" else {}
    for line in _lines(name):
        for row, found in line["values"].items():
            merged[row] = {**merged.get(row, {}), **found}
    return merged


def summaries(name: str) -> list[Summary]:
    """The table of each metric, on the rows that have a value of every method, and of the summed log-ratios of Soft-NS and Soft-NC."""
    what, groups = SETS[name], {row: group for line in _lines(name) for row, group in line["groups"].items()}
    spec = EvaluationSpec.parse(["a", "b"], what.methods, what.metrics, controls=CONTROLS)
    methods, columns = [row.to_row() for row in spec.methods], [column.to_column() for column in spec.metrics]
    records: list[Record] = []
    for row, found in values(name).items():
        for column in columns if row in groups else ():
            # rows that benchmarks/noise.py judged have another method's scores permuted, and no `aopc`
            labels = {m.label: next((each for each in found if each.startswith("permuted")), "") if m.method == "permuted" else m.label
                      for m in methods}  # fmt: skip
            got = {label: found.get(source, {}).get(column.label) for label, source in labels.items()}
            if None not in got.values():
                records += [Record(row, groups[row], label, column.label, "ok", value) for label, value in got.items()]
    tables = [summarise([record for record in records if record.metric == column.label], methods, [column]) for column in columns[2:]]
    return [*summarise([record for record in records if record.metric in SOFT], methods, columns[:2]), *(table for (table,) in tables)]


def costs(name: str) -> dict[str, tuple[float, float]]:
    """Token-forwards and seconds of each method, for each row (on Known without the rows of benchmarks/noise.py)."""
    totals: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    for line in _lines(name):
        for label, (tokens, seconds) in line["costs"].items():
            totals[label].append((len(line["values"]), tokens, seconds))
    return {label: (sum(t for _, t, _ in found) / sum(n for n, _, _ in found), sum(s for *_, s in found) / sum(n for n, *_ in found))
            for label, found in totals.items()}  # fmt: skip


def table(name: str) -> str:
    """Every metric's mean with its interval and its rank group, and the cost; then the differences to `recency`, and the remarks."""
    tables, cost = summaries(name), costs(name)
    by_label = [{row.method: row for row in each.rows} for each in tables]
    order = [row.method for row in next(each for each in tables if each.metric.startswith("faithfulness")).rows]
    lines = [f"{name}: rows {', '.join(str(each.samples) for each in tables)}, of {tables[0].clusters} groups", ""]
    lines += [f"| method | {' | '.join(each.metric for each in tables)} | tokens | seconds |", "|---" * (len(tables) + 3) + "|"]
    for label in order:
        tokens, seconds = cost.get(label, (0, 0))
        lines.append(f"| {label} | {' | '.join(_cell(found[label]) for found in by_label)} | {tokens:,.0f} | {seconds:.1f} |")
    return "\n".join([*lines, "", *(f"- {each.metric}: {remark}" for each in tables for remark in each.remarks)])


def _cell(row: Row) -> str:
    """The mean (the log-ratio to random where there is no mean), its interval and the letters of its rank group."""
    number = row.mean if row.mean.value is not None else row.log_ratio
    if number is None or number.value is None:
        return ""
    interval = "" if number.low is None else f" ({number.low:.3f} to {number.high:.3f})"
    return f"{number.value:.3f}{interval} {row.group}".strip()


def against(name: str, other: str = "recency") -> str:
    """For each method the mean paired difference to another row with its interval over groups: under Soft-NS and Soft-NC, in the sum of
    their log-ratios, and with tokens that the model writes anew.
    """
    groups, there = {row: group for line in _lines(name) for row, group in line["groups"].items()}, values(name)
    metrics = [*SOFT, next(metric for metric in SETS[name].metrics if "infill" in metric)]
    lines = [f"| minus {other} | {' | '.join([*metrics[:2], 'log-ratio', metrics[2]])} |", f"|{'---|' * 5}"]
    for method in SETS[name].methods:
        pairs = [_pairs({row: there[row] for row in groups}, method, other, metric) for metric in metrics]
        cells = [_interval(groups, each, lambda mean: mean[0] - mean[1]) for each in pairs]
        both = {row: [*pairs[0][row], *pairs[1][row]] for row in pairs[0].keys() & pairs[1].keys()}
        ratio = _interval(groups, both, lambda mean: np.log(mean[0] / mean[1]) + np.log(mean[2] / mean[3]))
        lines.append(f"| {method} | {' | '.join([*cells[:2], ratio, cells[2]])} |")
    return "\n".join(lines)


def _pairs(there: Mapping[str, Any], method: str, other: str, metric: str) -> dict[str, list[float]]:
    """By row, the values of the two, where both are there."""
    found = {row: [each.get(label, {}).get(metric) for label in (method, other)] for row, each in there.items()}
    return {row: pair for row, pair in found.items() if None not in pair}


def _interval(groups: Mapping[str, Any], found: Mapping[str, Sequence[float]], of: Callable[[Any], Any]) -> str:
    """A function of the columns' means, with its 95 % jackknife interval over groups."""
    columns = np.array(list(found.values())).T
    jackknife = ClusterJackknife([str(groups[row] or row) for row in found])
    value = float(of(columns.mean(axis=1)))
    low, high = jackknife.interval(value, of(np.stack([jackknife.means(column) for column in columns])))
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def main() -> None:
    """Run a set, or print its table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("run", "table"))
    parser.add_argument("set", choices=tuple(SETS))
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--minutes", type=float, default=1e9)
    options: Any = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if options.part == "run":
        run(options.set, options.file, options.minutes)
    else:
        print(table(options.set), against(options.set), sep="\n\n")


if __name__ == "__main__":
    main()
