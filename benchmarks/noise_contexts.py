"""Other ways to turn noise of `bound=rms` into scores, tried by benchmarks/noise.py. `register` makes methods of them."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import rankdata

from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import AddNoise
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput, Steps, measure
from noiser.methods.lime import ridge
from noiser.methods.noiser.method import SCALE
from noiser.methods.noiser.noise import paired, paper_noise, root_mean_square
from noiser.registry import METHODS, method
from noiser.rng import generator

DRAWS = 10
SCALES = (2.0, 8.0, 32.0)
KEEP = 0.85
Scorer = Callable[..., Steps[MethodOutput]]


def _under_noise(clean: CleanRun, objective: Objective, noised: np.ndarray, noise: torch.Tensor, scale: float = SCALE) -> Steps[np.ndarray]:
    """The explained quantity with noise on the tokens marked in each row. `noise` has one vector a row; all its tokens get that one."""
    where = torch.from_numpy(noised).to(noise)[..., None]
    size = scale * root_mean_square(clean.embeds, clean.prompt.special)
    (found,) = yield from measure(objective, [AddNoise(0, where * noise[:, None], size)])
    return found.values


def _vectors(lm: LanguageModel, clean: CleanRun, draws: int, seed: int) -> torch.Tensor:
    return lm.to_device(paper_noise(draws, clean.embeds.shape[1], seed, clean.prompt.input_ids))


def few_others(lm: LanguageModel, clean: CleanRun, objective: Objective, *, seed: int = 0) -> Steps[MethodOutput]:
    """Drop with noise on a token while one or two others, drawn at random, have noise too."""
    length, rng = len(clean.prompt), generator(seed, clean.prompt.input_ids, "contexts")
    contexts = np.zeros((DRAWS, length), dtype=bool)
    for row in contexts:
        row[rng.permutation(length)[: min(int(rng.integers(1, 3)), length - 1)]] = True
    joined = contexts[:, None] | np.eye(length, dtype=bool)  # each context with each token
    noise = _vectors(lm, clean, DRAWS, seed)
    rows = np.concatenate([contexts[:, None], joined], axis=1)
    values = yield from _under_noise(clean, objective, rows.reshape(-1, length), noise.repeat_interleave(length + 1, dim=0))
    values = values.reshape(DRAWS, length + 1)
    outside = ~contexts
    drops = np.where(outside, values[:, :1] - values[:, 1:], 0.0).sum(0)
    return MethodOutput(drops / np.maximum(outside.sum(0), 1))


def both_sides(lm: LanguageModel, clean: CleanRun, objective: Objective, *, seed: int = 0) -> Steps[MethodOutput]:
    """The mean of two: the drop with noise on the token alone, and the gain of having the token alone without noise."""
    length = len(clean.prompt)
    noise = _vectors(lm, clean, DRAWS, seed)
    rows = np.concatenate([np.zeros((1, length)), np.eye(length), np.ones((1, length)), 1 - np.eye(length)]).astype(bool)
    many = np.broadcast_to(rows, (DRAWS, *rows.shape)).reshape(-1, length)
    values = yield from _under_noise(clean, objective, many, noise.repeat_interleave(len(rows), dim=0))
    one, all_but_one = values.reshape(DRAWS, 2, length + 1).mean(0)
    return MethodOutput(((one[0] - one[1:]) + (all_but_one[1:] - all_but_one[0])) / 2)


def ranks_of_scales(lm: LanguageModel, clean: CleanRun, objective: Objective, *, seed: int = 0) -> Steps[MethodOutput]:
    """The mean rank of a token over three scales of the noise."""
    length = len(clean.prompt)
    noise = _vectors(lm, clean, DRAWS, seed)
    many = np.broadcast_to(np.eye(length, dtype=bool), (DRAWS, length, length)).reshape(-1, length)
    ranks = []
    for scale in SCALES:
        values = yield from _under_noise(clean, objective, many, noise.repeat_interleave(length, dim=0), scale)
        ranks.append(rankdata(-values.reshape(DRAWS, length).mean(0)))
    return MethodOutput(np.mean(ranks, axis=0))


def joint_masks(lm: LanguageModel, clean: CleanRun, objective: Objective, *, seed: int = 0) -> Steps[MethodOutput]:
    """A regression on 10 masks a token that keep 85 % of the tokens, each with a noise vector and its negative on the others."""
    length = len(clean.prompt)
    masks = DRAWS * length // 2
    kept = generator(seed, clean.prompt.input_ids, "joint").random((masks, length)) < KEEP
    noise = paired(_vectors(lm, clean, masks, seed))
    values = yield from _under_noise(clean, objective, ~kept.repeat(2, axis=0), noise)
    coefficients, _ = ridge(kept, values.reshape(masks, 2).mean(1), 100.0, 0.01)  # a kernel so wide that all masks weigh the same
    return MethodOutput(coefficients)


TRIED: dict[str, Scorer] = {
    "few_others": few_others,
    "both_sides": both_sides,
    "ranks_of_scales": ranks_of_scales,
    "joint_masks": joint_masks,
}


def register() -> list[str]:
    """Make methods of them, for this process. Returns their names."""
    for name, score in TRIED.items():
        if name not in METHODS:
            method(
                name, family="perturbation", source="not published; tried in benchmarks/noise_contexts.py", cost="10 to 30 rows a token"
            )(score)
    return list(TRIED)
