"""A plain Noiser for tests and benchmarks: whole forward passes, one token at a time, no cache and no sharing.

`released_loop` computes what the authors' released code computes, at the same cost (11 rows, logits at every position).
`separate_bisections` is the paper's algorithm in its simplest form.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Plain:
    """Scores, their noise scale, and their cost."""

    k: float
    scores: np.ndarray
    forward_tokens: int


def embed(model: Any, ids: tuple[int, ...]) -> Tensor:
    """The prompt's embeddings, [1, seq, dim]."""
    return model.get_input_embeddings()(torch.tensor([ids]))


def perturbed(embeds: Tensor, token: int, k: float, noise: Tensor) -> Tensor:
    """One row for each noise vector, with `k` times the vector added to one token."""
    rows = embeds.repeat(len(noise), 1, 1).to(noise.dtype)
    rows[:, token] += k * noise
    return rows.to(embeds.dtype)


@torch.no_grad()
def released_evaluation(model: Any, embeds: Tensor, token: int, k: float, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The clean distribution and the mean noisy one, as in the released code: the clean row is an 11th row."""
    rows = torch.cat([embeds, perturbed(embeds, token, k, noise)])
    probs = model(inputs_embeds=rows).logits[:, -1].float().softmax(-1)
    return probs[0], probs[1:].mean(0)


def released_loop(model: Any, ids: tuple[int, ...], noise: Tensor, steps: int = 10) -> Plain:
    """The released algorithm: bisect each token to its last midpoint, score all at the smallest, divide by the sum."""
    embeds, last = embed(model, ids), []
    for token in range(len(ids)):
        low, high, middle = 0.0, 1.0, 0.5
        for _ in range(steps):
            middle = (low + high) / 2
            clean, noisy = released_evaluation(model, embeds, token, middle, noise)
            low, high = (low, middle) if noisy.argmax() != clean.argmax() else (middle, high)
        last.append(middle)
    k, drops = min(last), []
    for token in range(len(ids)):
        clean, noisy = released_evaluation(model, embeds, token, k, noise)
        drops.append(float(clean.max() - noisy[clean.argmax()]))
    return Plain(k, np.array(drops) / sum(drops), len(ids) * (steps + 1) * (len(noise) + 1) * len(ids))


def bisected(flips: Callable[[float], bool], steps: int) -> float:
    """The largest k that a bisection of [0, 1] tries without a flip; 0 if every k flips."""
    low, high = 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (low, middle) if flips(middle) else (middle, high)
    return low


@torch.no_grad()
def separate_bisections(model: Any, ids: tuple[int, ...], noise: Tensor, steps: int = 10, target: int | None = None) -> Plain:
    """The paper's algorithm: a separate bisection for each token, then scores for all tokens at the smallest result."""
    embeds = embed(model, ids)
    clean = model(inputs_embeds=embeds).logits[0, -1].float().softmax(-1)
    prediction = clean.argmax()
    chosen = prediction if target is None else target

    def mean(token: int, k: float) -> Tensor:
        return model(inputs_embeds=perturbed(embeds, token, k, noise)).logits[:, -1].float().softmax(-1).double().mean(0)

    def flips(token: int) -> Callable[[float], bool]:
        return lambda k: bool(mean(token, k).argmax() != prediction)

    seq = len(ids)
    k = min(bisected(flips(token), steps) for token in range(seq))
    scores = [float(clean[chosen]) - float(mean(token, k)[chosen]) for token in range(seq)]
    return Plain(k, np.array(scores), seq * (steps + 1) * len(noise) * seq + seq)
