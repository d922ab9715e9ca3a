"""The operator `infill`: the model itself writes new tokens in the places of those that are left out."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from noiser.errors import OptionError
from noiser.lm.kv_cache import CleanRun
from noiser.lm.perturbation import Interpolate, PerturbedRows
from noiser.lm.quantity import LogitFn, to_float64
from noiser.lm.requests import ForwardRequest, Steps, ask, gather
from noiser.metrics.sample import MetricContext
from noiser.rng import generator
from noiser.text.prompt import Prompt

Kept = Bool[np.ndarray, " seq"]


def infilled(context: MetricContext, kept: Sequence[Kept], draws: int, seed: int) -> Steps[list[list[tuple[int, ...]]]]:
    """For each of `kept`, the prompt's ids in `draws` versions: a token that is not kept is drawn by the model.

    From left to right, each is drawn from the model's distribution of the next token after the tokens to its left, kept and new ones
    (temperature 1, the whole vocabulary but special tokens). So what is left out becomes likely text, and what stands to its right does
    not matter. Special tokens of the prompt stay. A first token follows the tokenizer's beginning-of-text token, or its end-of-text token.

    Draws are keyed by (seed, token ids, draw, position), so all methods and sets of tokens see the same ones. Raises OptionError if the
    first token is to be drawn and the tokenizer has no token that begins a text.
    """
    special = np.array(context.clean.prompt.special)
    gone = [np.flatnonzero(~mask & ~special).tolist() for mask in kept]
    start = (yield from _start(context)) if any(0 in positions for positions in gone) else None
    uniforms = [generator(seed, context.ids, "infill", draw).random(context.seq) for draw in range(draws)]
    chains = [_chain(context, positions, uniform, start) for positions in gone for uniform in uniforms]
    texts = yield from gather(chains)
    return [texts[first : first + draws] for first in range(0, len(texts), draws)]


def replaced(context: MetricContext, ids: tuple[int, ...], measure: LogitFn) -> PerturbedRows:
    """The row in which the prompt's ids are these. Equal rows are one object."""

    def make() -> PerturbedRows:
        share = torch.tensor([[float(new == old) for new, old in zip(ids, context.ids, strict=True)]])
        return PerturbedRows(context.branch.clean, Interpolate(0, share, context.lm.embeddings(ids)), measure)

    return context.cached(("infilled", ids, id(measure)), make)


def _start(context: MetricContext) -> Steps[CleanRun]:
    """The clean run of the token that begins a text."""
    tokenizer = context.lm.tokenizer
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise OptionError("operator=infill draws a first token after one that begins a text, and this tokenizer has none")
    (clean,) = yield ForwardRequest(Prompt("", (int(first),), ("",), (True,)), (0,))
    return cast(CleanRun, clean)


def _chain(
    context: MetricContext, gone: Sequence[int], uniform: Float[np.ndarray, " seq"], start: CleanRun | None
) -> Steps[tuple[int, ...]]:
    """The prompt's ids with the tokens at these positions drawn one after the other."""
    ids = list(context.ids)
    for position in gone:
        share = float(uniform[position])
        if position == 0:
            assert start is not None
            ids[0] = int(_drawn(context, start.logits[None], share))
            continue
        (readout,) = yield from ask([_next_token(context, tuple(ids[:position]), min(gone[0], position - 1), share)])
        ids[position] = int(readout.values[0])
    return tuple(ids)


def _next_token(context: MetricContext, ids: tuple[int, ...], first: int, share: float) -> PerturbedRows:
    """A row whose value is the id of the token that is drawn behind `ids`, which differ from the prompt's from `first` on."""

    def make() -> PerturbedRows:
        length = len(ids)
        prefix = context.cached(
            ("prefix", length), lambda: context.clean.truncated(length, torch.full_like(context.clean.logits, torch.nan), None)
        )
        same = torch.tensor([[float(new == old) for new, old in zip(ids[first:], context.ids[first:length], strict=True)]])
        draw = LogitFn((length - 1,), lambda logits: _drawn(context, logits[:, 0], share), "distribution")
        return PerturbedRows(prefix, Interpolate(first, same, context.lm.embeddings(ids[first:])), draw)

    return context.cached(("next token", ids, share), make)


def _drawn(context: MetricContext, logits: Float[Tensor, "rows vocab"], share: float) -> Float[Tensor, " rows"]:
    """The id at which the distribution function passes this share of its total. Special tokens have no probability."""
    tokens = context.lm.tokens
    allowed = context.cached(
        "allowed", lambda: torch.tensor([not tokens.is_special(i) and i < tokens.size for i in range(logits.shape[-1])])
    )
    probs = to_float64(logits.float().softmax(-1)) * allowed.to(logits.device)
    total = probs.cumsum(-1)
    index = torch.searchsorted(total, share * total[:, -1:], right=True).clamp(max=logits.shape[-1] - 1)
    return to_float64(index[:, 0])
