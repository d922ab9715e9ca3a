"""Integrated gradients at equal error, against Inseq's: python -m benchmarks.completeness KNOWN.json [--method M].

The error of a prompt is the largest gap between what contributions add up to and what they should add up to, as a share of the largest
change: the whole path has one gap, sequential paths one for each token. Inseq takes the same number of Gauss-Legendre points on every
prompt, so it needs as many as the worst prompt does: the fewest of `--steps` whose largest error over all prompts is at most ours, with
our adaptive segments at `--tolerance`. Both run in the same process, in turns.
"""

import argparse
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

import noiser
from benchmarks.busy import spread
from benchmarks.prompts import drawn

DEFAULTS = {"integrated_gradients": 0.01, "sequential_integrated_gradients": 0.1}


def main() -> None:
    """Print one table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("known", type=Path, help="the file of Known")
    parser.add_argument("--method", choices=DEFAULTS, default="integrated_gradients")
    parser.add_argument("--tolerance", type=float, nargs="*", help="of our adaptive segments; the default is the method's own")
    parser.add_argument("--steps", type=int, nargs="*", default=[50, 100, 200, 400], help="of Inseq")
    parser.add_argument("--prompts", type=int, default=20, help="answered rows of Known with 9 to 11 tokens")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    ours, theirs = noiser.load(), noiser.load()
    prompts = drawn(ours, "known", options.known, range(9, 12), options.prompts)
    print(f"{options.method}, torch {torch.__version__}, {torch.get_num_threads()} threads, {len(prompts)} prompts of 9 to 11 tokens\n")
    print("| side | setting | error: median | largest | points for each path | seconds |")
    print("|---|---|---|---|---|---|")
    tolerances = options.tolerance or [DEFAULTS[options.method]]
    found: dict[Any, list[tuple[float, float, float]]] = {key: [] for key in (*tolerances, *options.steps)}
    for turn, prompt in enumerate([prompts[0], *prompts]):
        expected = None
        for tolerance in tolerances:
            error, points, seconds, expected = of_ours(ours, options.method, prompt, tolerance)
            found[tolerance].extend([(error, points, seconds)] if turn else [])
        for steps in options.steps:
            cells = of_inseq(theirs, options.method, prompt, steps, expected)
            found[steps].extend([cells] if turn else [])
    for key, cells in found.items():
        errors, points, seconds = (list(each) for each in zip(*cells, strict=True))
        side = f"noiser | tolerance={key}" if isinstance(key, float) else f"Inseq | n_steps={key}"
        print(f"| {side} | {statistics.median(errors):.2%} | {max(errors):.2%} | {statistics.mean(points):.1f} | {spread(seconds)} |")
    for tolerance in tolerances:
        print(compared(found, tolerance, options.steps))


def compared(found: dict[Any, list[tuple[float, float, float]]], tolerance: float, counts: list[int]) -> str:
    """The ratio of times where Inseq's largest error is at most ours."""
    worst = {key: max(cell[0] for cell in cells) for key, cells in found.items()}
    enough = [steps for steps in counts if worst[steps] <= worst[tolerance]]
    steps = enough[0] if enough else counts[-1]
    ratios = [theirs[2] / ours[2] for ours, theirs in zip(found[tolerance], found[steps], strict=True)]
    note = "" if enough else f" (more would be needed: its largest error is {worst[steps]:.2%})"
    return f"\ntolerance={tolerance}: Inseq with {steps} steps{note} takes {spread(ratios)} times as long."


def of_ours(
    lm: noiser.LanguageModel, method: str, prompt: str, tolerance: float
) -> tuple[float, float, float, Float[np.ndarray, " paths"]]:
    """The error, the mean number of points on a path, the seconds, and what each path should add up to."""
    begin = time.perf_counter()
    found = noiser.attribute(lm, prompt, method, tolerance=tolerance, baseline="unk", aggregation="sum")
    seconds = time.perf_counter() - begin
    if method == "integrated_gradients":
        gaps = np.array([found.notes["completeness_gap"]])
        expected = np.array([found.targets[0].value - found.notes["baseline_value"]])
    else:
        gaps = np.array(found.notes["completeness_gaps"])
        expected = found.scores[0] - gaps
    return float(np.abs(gaps).max() / np.abs(expected).max()), float(np.mean(found.notes["points"])), seconds, expected


def of_inseq(
    lm: noiser.LanguageModel, method: str, prompt: str, steps: int, expected: Float[np.ndarray, " paths"] | None
) -> tuple[float, float, float]:
    """The same for Inseq. Wrapping the model is not counted."""
    import inseq

    assert expected is not None
    host = inseq.load_model(lm.model, method, tokenizer=lm.tokenizer)
    (clean,) = lm.clean([lm.prompt(prompt)])
    begin = time.perf_counter()
    found: Any = host.attribute(prompt, prompt + lm.tokens.surface(clean.prediction), show_progress=False, n_steps=steps)
    seconds = time.perf_counter() - begin
    contributions = found.sequence_attributions[0].target_attributions[: len(lm.prompt(prompt)), 0].double().sum(-1).numpy()
    sums = contributions if len(expected) > 1 else contributions.sum(keepdims=True)
    return float(np.abs(sums - expected).max() / np.abs(expected).max()), float(steps), seconds


if __name__ == "__main__":
    main()
