"""Is bfloat16 good enough on a CPU, and how much faster? python -m benchmarks.precision KNOWN.json [--rows 20].

The default model twice in one process, on rows of Known drawn with a seed: what the scores of each method, k and the Soft metrics are in
bfloat16 beside float32, for float32's prediction, and the seconds of each side, in turns.
"""

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata

import noiser
from benchmarks.busy import spread
from benchmarks.prompts import drawn
from noiser.results.attribution import Attribution
from noiser.results.records import Example

METHODS = (
    "noiser",
    "noiser:bound=rms+scale=4+samples=3",
    "occlusion",
    "lime",
    "integrated_gradients:steps=50",
    "input_x_gradient",
    "last_attention",
)
METRICS = ("soft_ns:masks=32", "soft_nc:masks=32")
EVALUATED = METHODS[1:3]


class Pair(NamedTuple):
    """One prompt explained in both types."""

    wide: Attribution
    narrow: Attribution
    seconds: tuple[float, float]


def main() -> None:
    """Print two tables, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("known", type=Path, help="the file of Known")
    parser.add_argument("--rows", type=int, default=20, help="answered rows")
    parser.add_argument("--metrics-rows", type=int, default=10, help="rows on which the Soft metrics are compared")
    parser.add_argument("--model", default="smollm2-135m", help="a model that noiser can load")
    options = parser.parse_args()
    models = noiser.load(options.model), noiser.load(options.model, dtype="bfloat16")
    texts = drawn(models[0], "known", options.known, range(4, 30), options.rows)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(texts)} rows of Known\n")
    print("| method | rank correlation | same first token | difference / largest score | k in bfloat16 / float32 | times faster |")
    print("|---|---|---|---|---|---|")
    for method in METHODS:
        print(f"| {method} | {' | '.join(row([pair(*models, text, method) for text in texts]))} |", flush=True)
    print()
    for line in soft(models, texts[: options.metrics_rows]):
        print(line, flush=True)


def pair(wide: noiser.LanguageModel, narrow: noiser.LanguageModel, text: str, method: str) -> Pair:
    """The prompt in both types. Each side runs once before it is timed."""
    results, seconds = [], []
    target = int(wide.clean([wide.prompt(text)])[0].prediction)
    for lm in (wide, narrow):
        begin = time.perf_counter()
        results.append(noiser.attribute(lm, text, method, [target]))
        seconds.append(time.perf_counter() - begin)
    return Pair(results[0], results[1], (seconds[0], seconds[1]))


def row(pairs: list[Pair]) -> list[str]:
    """The cells of one method."""
    scores = [(each.wide.scores[0], each.narrow.scores[0]) for each in pairs]
    ranks = [float(np.corrcoef(rankdata(a), rankdata(b))[0, 1]) for a, b in scores]
    same = sum(int(np.argmax(a) == np.argmax(b)) for a, b in scores)
    apart = [float(np.abs(a - b).max() / np.abs(a).max()) for a, b in scores]
    k = [each.narrow.notes["k"] / each.wide.notes["k"] for each in pairs if each.wide.notes.get("k")]
    faster = [first / second for first, second in (each.seconds for each in pairs)]
    return [spread(ranks), f"{same} of {len(pairs)}", spread(apart), spread(k) if k else "", spread(faster)]


def soft(models: tuple[noiser.LanguageModel, noiser.LanguageModel], texts: list[str]) -> list[str]:
    """Means of the Soft metrics in both types, and how far single values are apart."""
    values: list[dict[tuple[str, str], dict[str, float]]] = []
    for lm in models:
        examples = [Example(prompt=text, id=str(number)) for number, text in enumerate(texts)]
        found = noiser.evaluate(lm, examples, EVALUATED, METRICS, controls=("random",), ladder=False)
        table: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
        for record in found.records:
            if record.value is not None:
                table[record.method, record.metric][record.sample] = record.value
        values.append(table)
    lines = ["| method | metric | mean in float32 | in bfloat16 | median distance of a row's values |", "|---|---|---|---|---|"]
    for key, wide in values[0].items():
        narrow = values[1][key]
        both = [(wide[name], narrow[name]) for name in wide if name in narrow]
        distance = statistics.median(abs(a - b) for a, b in both)
        means = (statistics.mean(side) for side in zip(*both, strict=True))
        lines.append(f"| {' | '.join(key)} | {' | '.join(f'{mean:.4f}' for mean in means)} | {distance:.4f} |")
    return lines


if __name__ == "__main__":
    main()
