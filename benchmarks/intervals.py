"""How often the intervals on Noiser's scores hold the value of many draws, and how often `certain_top` and ranks are wrong.

    python -m benchmarks.intervals draws FILE.npz [--draws 600]   # the drops of many draws of the default model, about 20 minutes
    python -m benchmarks.intervals table FILE.npz                  # coverage and errors, from the stored drops

The draws are pairs: a noise vector and its negative stand next to each other. Each first one alone is an ordinary draw.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import noiser
from noiser.attribution.attribute import attribute
from noiser.methods.base import MethodOutput
from noiser.methods.noiser.evaluations import NoiseEvaluations
from noiser.methods.noiser.noise import Noise, paired, paper_noise
from noiser.methods.noiser.scale import fixed_scale
from noiser.registry import method

PROMPTS = ("The capital of France is", "The opposite of hot is", "Two plus two equals", "Water freezes at zero degrees")
BOUNDS = ("rms", "linf")
COUNTS = (4, 6, 10, 20, 40, 100)


@method("drops", family="perturbation", source="a benchmark", cost="as noiser")
def drops(lm: Any, clean: Any, objective: Any, *, bound: str = "rms", samples: int = 600, seed: int = 0) -> Any:
    """The drop with each draw, in the notes."""
    units = [(token,) for token in range(len(clean.prompt))]

    def draw(offset: int) -> Any:
        return lm.to_device(paired(paper_noise(samples // 2, clean.embeds.shape[1], seed, clean.prompt.input_ids, offset)))

    evaluations = NoiseEvaluations(clean, objective, Noise(units, draw))
    found = yield from evaluations.drops([fixed_scale(bound, clean, 8.0, seed)] * len(units))  # pyright: ignore[reportArgumentType]
    return MethodOutput(found.means, {"each": found.each})


def measure(path: Path, draws: int) -> None:
    """Write the drops of every prompt and bound."""
    lm, tables = noiser.load(), {}
    for prompt in PROMPTS:
        for bound in BOUNDS:
            found = attribute(lm, prompt, "drops", bound=bound, samples=draws)
            tables[f"{bound}|{prompt}"] = np.asarray(found.notes["each"])
            np.savez(path, **tables)
            print(bound, prompt, f"{found.cost.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("draws", "table"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--draws", type=int, default=600)
    given = parser.parse_args()
    if given.what == "draws":
        measure(given.file, given.draws)
