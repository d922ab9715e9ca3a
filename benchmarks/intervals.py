"""How often the intervals on Noiser's scores hold the value of many draws, and how often ranges of ranks are wrong.

    python -m benchmarks.intervals draws FILE.npz [--draws 600]   # the drops of many draws of the default model
    python -m benchmarks.intervals table FILE.npz                 # coverage and errors, from the stored drops

The draws are pairs: a noise vector and its negative stand next to each other. Taken one by one in a random order they are ordinary
draws, but for the few whose negative is taken too.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import noiser
from noiser.attribution.attribute import attribute
from noiser.methods.base import MethodOutput
from noiser.methods.noiser.evaluations import NoiseEvaluations
from noiser.methods.noiser.noise import Noise, paired, paper_noise
from noiser.methods.noiser.scale import fixed_scale
from noiser.methods.uncertainty import stderr_of_mean
from noiser.registry import Method, MethodSpec
from noiser.results.scores import critical_value, rank_ranges

PROMPTS = ("The capital of France is", "The opposite of hot is", "Two plus two equals", "Water freezes at zero degrees")
CASES = {"rms": ("rms", "prob"), "linf": ("linf", "prob"), "l2": ("l2", "prob"), "rms log_prob": ("rms", "log_prob")}
"""Bounds and quantities."""
COUNTS = (4, 6, 10, 20, 40, 100)
TRIALS = 2000


def drops(lm: Any, clean: Any, objective: Any, *, bound: str = "rms", samples: int = 600, seed: int = 0) -> Any:
    """The drop with each draw, in the notes."""
    units = [(token,) for token in range(len(clean.prompt))]

    def draw(offset: int) -> Any:
        return lm.to_device(paired(paper_noise(samples // 2, clean.embeds.shape[1], seed, clean.prompt.input_ids, offset)))

    evaluations = NoiseEvaluations(clean, objective, Noise(units, draw))
    found = yield from evaluations.drops([fixed_scale(bound, clean, 8.0, seed)] * len(units))  # pyright: ignore[reportArgumentType]
    return MethodOutput(found.means, {"each": found.each})


DROPS = Method(name="drops", family="perturbation", source="a benchmark", function=drops)
"""Not registered: it is no method for users."""


def measure(path: Path, draws: int, cases: Sequence[str], prompts: Sequence[str]) -> None:
    """Add the drops of every prompt and case to the file."""
    lm, tables = noiser.load(), dict(np.load(path)) if path.exists() else {}
    for prompt in prompts:
        for case in cases:
            bound, quantity = CASES[case]
            spec = MethodSpec("drops", DROPS, DROPS.resolve({"bound": bound, "samples": draws}))
            found = attribute(lm, prompt, spec, quantity=quantity)
            tables[f"{case}|{prompt}"] = np.asarray(found.notes["each"])
            np.savez(path, **tables)  # pyright: ignore[reportArgumentType]
            print(case, prompt, f"{found.cost.seconds:.0f} s", flush=True)


def table(path: Path) -> None:
    """Print one line for each case and number of draws.

    The draws of one attribution are taken at random from those stored, without putting any back.
    """
    stored = np.load(path)
    heads = ("case", "draws", "pairs", "t", "normal", "lowest token", "stderr / largest", "ranks wrong", "a first for certain")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for case in dict.fromkeys(name.split("|")[0] for name in stored):
        prompts = [stored[name] for name in stored if name.startswith(f"{case}|")]
        for pairs in (False, True):
            for count in COUNTS:
                parts = [trials(each, count, pairs=pairs) for each in prompts]
                holds, normal = (np.concatenate([part[name] for part in parts]) for name in ("t", "normal"))
                others = [np.mean([part[name] for part in parts]) for name in ("stderr", "wrong", "first")]
                numbers = [holds.mean(), normal.mean(), holds.min(), *others]
                print("|", " | ".join([case, str(count), "yes" if pairs else "no", *(f"{number:.3f}" for number in numbers)]), "|")


def trials(each: np.ndarray, count: int, *, pairs: bool) -> dict[str, Any]:
    """How often intervals hold (for each token), the mean stderr as a share of the largest score, how often a range of ranks is wrong,
    and how often one token is the first for certain."""
    values = each.reshape(len(each), -1, 2).mean(-1) if pairs else each
    true, size, rng = values.mean(1), count // 2 if pairs else count, np.random.default_rng(0)
    order = len(true) - np.argsort(np.argsort(true))
    holds, normal, errors, wrong, first = [], [], [], [], []
    for _ in range(TRIALS):
        chosen = values[:, rng.choice(values.shape[1], size, replace=False)]
        stderr, dof = stderr_of_mean(chosen)
        assert stderr is not None
        distance, ranges = np.abs(chosen.mean(1) - true), rank_ranges(chosen.mean(1), stderr, dof)
        holds.append(distance <= critical_value(dof) * stderr + 1e-12)
        normal.append(distance <= critical_value(None) * stderr + 1e-12)
        errors.append(stderr.mean() / np.abs(true).max())
        wrong.append(((order < ranges[:, 0]) | (order > ranges[:, 1])).any())
        first.append((ranges[:, 1] == 1).any())
    rates = {"stderr": np.mean(errors), "wrong": np.mean(wrong), "first": np.mean(first)}
    return {"t": np.mean(holds, axis=0), "normal": np.mean(normal, axis=0), **rates}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("draws", "table"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--draws", type=int, default=600)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    given = parser.parse_args()
    if given.what == "draws":
        measure(given.file, given.draws, given.cases, PROMPTS[: given.prompts])
    else:
        table(given.file)
