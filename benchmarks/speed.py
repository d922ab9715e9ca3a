"""Noiser against the released loop, on the default model in the same run: python -m benchmarks.speed [10 20 42].

Every evaluation of the released loop takes the same time (`plain.released_loop`: 11 rows of equal length, logits at all
positions, T x 11 evaluations). So three evaluations are timed before and three after our run on each prompt, and their median
times T x 11 is the loop's time. `--whole N` also runs the loop to its end on N prompts of each length, as a check.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import noiser
from benchmarks.plain import embed, released_evaluation, released_loop
from benchmarks.prompts import BY_LENGTH, drawn
from noiser.methods.noiser.noise import official_noise
from noiser.results.attribution import Attribution

SAMPLES, STEPS = 10, 10
WAYS: dict[str, dict[str, Any]] = {
    "official, exact": {"variant": "official", "search": "exact"},
    "paper, exact": {"search": "exact"},
    "paper, fast": {"search": "fast"},
    "rms, 3 draws": {"bound": "rms", "scale": 4.0, "samples": 3},
}
"""The last is the recommended method."""
DRAWN = {"10": ("known", range(9, 12)), "20": ("known", range(17, 24)), "42": ("longra", range(40, 45))}
"""From which set the prompts of a length are drawn, and their tokens."""


def main() -> None:
    """Print one table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lengths", nargs="*", default=list(BY_LENGTH), help=f"of {', '.join(BY_LENGTH)}")
    parser.add_argument("--prompts", type=int, default=8, help="number of prompts of each length")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS, help="which of our variants to run")
    parser.add_argument("--whole", type=int, default=0, help="prompts of each length on which the released loop runs to its end, too")
    parser.add_argument("--memory", choices=["plain", *WAYS], help="only print the peak memory of one prompt, in MB")
    parser.add_argument("--files", nargs=2, type=Path, metavar=("KNOWN", "LONGRA"), help="draw the prompts from these files")
    options = parser.parse_args()
    lm = noiser.load()
    if options.memory:
        print(peak_memory(lm, options.memory, BY_LENGTH[options.lengths[0]][0]))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {lm!r}\n")
    check(lm, BY_LENGTH["10"][0])
    print("\n| T about | way | x faster than the released loop | token-forwards / floor | forward passes | seconds | peak MB |")
    print("|---|---|---|---|---|---|---|")
    files: dict[str, Path] = dict(zip(("known", "longra"), options.files, strict=True)) if options.files else {}
    for length in options.lengths:
        name, tokens = DRAWN[length]
        texts = drawn(lm, name, files[name], tokens, options.prompts) if files else BY_LENGTH[length][: options.prompts]
        measure(lm, length, texts, options.ways, options.whole)
    if "10" in options.lengths:
        compare_batching(lm)


def check(lm: noiser.LanguageModel, text: str) -> None:
    """Check that the reference and our method agree before either is timed."""
    ids, noise = lm.prompt(text).input_ids, official_noise(SAMPLES, lm.model.config.hidden_size, None)
    plain, ours = released_loop(lm.model, ids, noise, STEPS), noiser.attribute(lm, text, **WAYS["official, exact"])
    worst = np.abs(plain.scores - ours.scores[0]).max()
    assert plain.k == ours.notes["k"]
    assert worst < 1e-3 * np.abs(plain.scores).max()
    print(f"Same official result on {text!r}: k = {plain.k}, scores within {worst:.1e}.", flush=True)


def measure(lm: noiser.LanguageModel, length: str, texts: Sequence[str], ways: Sequence[str], whole: int) -> None:
    """Print one row for each way, over these prompts."""
    ratios: dict[str, list[float]] = {way: [] for way in ways}
    results: dict[str, list[Attribution]] = {way: [] for way in ways}
    passes: dict[str, list[int]] = {way: [] for way in ways}
    loop: list[float] = []
    for text in texts:
        evaluations = evaluation_times(lm, text)
        for way in ways:
            result, count = counted(lm, text, WAYS[way])
            results[way].append(result)
            passes[way].append(count)
        evaluations += evaluation_times(lm, text)
        seq = len(results[ways[0]][-1].tokens)
        loop.append(statistics.median(evaluations) * seq * (STEPS + 1))
        for way in ways:
            ratios[way].append(loop[-1] / results[way][-1].cost.seconds)
    for way in ways:
        floors = [r.cost.forward_tokens / (SAMPLES * len(r.tokens) ** 2 / 2) for r in results[way]]
        seconds = [r.cost.seconds for r in results[way]]
        columns = [
            spread(ratios[way], ".1f"),
            spread(floors, ".2f"),
            spread(passes[way], ".0f"),
            spread(seconds, ".1f"),
            memory(way, length) if way == "paper, fast" else "",
        ]
        print(f"| {length} | {way} | " + " | ".join(columns) + " |", flush=True)
    evaluations = (STEPS + 1) * (SAMPLES + 1) * 2 / SAMPLES
    print(f"| {length} | released loop | 1 | {evaluations} | | {spread(loop, '.0f')} | {memory('plain', length)} |", flush=True)
    if {"paper, exact", "paper, fast"} <= set(ways):
        same = sum(a.notes["k"] == b.notes["k"] for a, b in zip(results["paper, exact"], results["paper, fast"], strict=True))
        seen = sum(r.notes["non_monotone"] > 0 for r in results["paper, fast"])
        print(f"| {length} | fast = exact | k equal on {same} of {len(texts)}; non-monotone flips on {seen} | | | | |", flush=True)
    for number, text in enumerate(texts[:whole]):
        seconds = {way: results[way][number].cost.seconds for way in ways}
        print(f"| {length} | released loop, run whole | {run_whole(lm, text, loop[number], seconds)} | | | | |", flush=True)


def run_whole(lm: noiser.LanguageModel, text: str, expected: float, seconds: dict[str, float]) -> str:
    """Run the released loop to its end: its time, and how many times as long as each way that is."""
    begin = time.perf_counter()
    released_loop(lm.model, lm.prompt(text).input_ids, official_noise(SAMPLES, lm.model.config.hidden_size, None), STEPS)
    taken = time.perf_counter() - begin
    ratios = ", ".join(f"{taken / each:.1f} times {way}" for way, each in seconds.items())
    return f"{taken:.0f} s (by evaluations: {expected:.0f}): {ratios}"


def evaluation_times(lm: noiser.LanguageModel, text: str, count: int = 3) -> list[float]:
    """Seconds of single evaluations of the released loop."""
    embeds = embed(lm.model, lm.prompt(text).input_ids)
    noise, times = official_noise(SAMPLES, embeds.shape[-1], None), []
    for n in range(count):
        begin = time.perf_counter()
        released_evaluation(lm.model, embeds, n, 0.5, noise)
        times.append(time.perf_counter() - begin)
    return times


def counted(lm: noiser.LanguageModel, text: str, options: dict[str, Any]) -> tuple[Attribution, int]:
    """The result, and the number of forward passes."""
    passes: list[int] = []
    handle = lm.model.register_forward_hook(lambda *_: passes.append(1))
    try:
        return noiser.attribute(lm, text, **options), len(passes)
    finally:
        handle.remove()


def memory(way: str, length: str) -> str:
    """Peak resident memory of a process that loads the model and explains one prompt."""
    command = [sys.executable, "-m", "benchmarks.speed", length, "--memory", way]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def peak_memory(lm: noiser.LanguageModel, way: str, text: str) -> str:
    """The peak memory of this process after the work, and after loading."""
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if way == "plain":
        evaluation_times(lm, text)
    else:
        noiser.attribute(lm, text, **WAYS[way])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{peak / 1024:.0f} ({loaded / 1024:.0f} once loaded)"


def compare_batching(lm: noiser.LanguageModel) -> None:
    """Compare prompts that share batches with the same prompts one by one."""
    texts = BY_LENGTH["10"]
    ratios = []
    for _ in range(3):
        apart, shared = timed(lambda: [noiser.attribute(lm, t) for t in texts]), timed(lambda: list(noiser.attribute_many(lm, texts)))
        ratios.append(apart / shared)
    print(f"\n`attribute_many` on the {len(texts)} prompts of T about 10: {spread(ratios, '.2f')} x faster than one by one.")


def timed(work: Callable[[], object]) -> float:
    """The seconds that the work takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def spread(values: Sequence[float], form: str) -> str:
    """Median, smallest and largest value."""
    return f"**{statistics.median(values):{form}}** ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
