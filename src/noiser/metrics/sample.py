"""What the metrics of all methods share on one target of one prompt: clean run, masks, the zero pass, rows without tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from noiser.errors import NonFiniteError, OptionError
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import Interpolate, MaskElements, Perturbation, PerturbedRows
from noiser.lm.quantity import LogitFn, token_logit_fn
from noiser.lm.target import Objective
from noiser.registry import PaperNormalization
from noiser.results.records import OK
from noiser.rng import generator
from noiser.text.units import Units, units

T = TypeVar("T")
Operator = Literal["zero", "delete", "resample"]
Quantity = Literal["prob", "log_prob"]


@dataclass(frozen=True, eq=False)
class ScoresToEvaluate:
    """What is judged: one method's scores for one target."""

    scores: Float[np.ndarray, " seq"]
    paper_normalization: PaperNormalization = "none"
    """What the released code does to scores of this kind; only `protocol=official` asks."""

    def __post_init__(self) -> None:
        if not np.isfinite(self.scores).all():
            raise NonFiniteError("the scores hold NaN or infinity: there is nothing to judge")


@dataclass(frozen=True, eq=False)
class Value:
    """What a metric returns."""

    value: float | None
    """None where it is undefined."""
    detail: dict[str, Any] = field(default_factory=dict)
    """The numbers that it is the mean of, and whatever else a reader may want."""
    reason: str = ""
    """Why it is undefined."""
    also: Mapping[str, float] = field(default_factory=dict)
    """Other numbers of the same kind, by name."""
    status: str = OK
    """`refused` or `invalid_answer` where a judge said nothing of use: the value counts all the same."""


class MetricContext:
    """One target on one prompt. What is made once stays, so that equal rows are the same row, whichever metric wants it."""

    def __init__(self, lm: LanguageModel, clean: CleanRun, goal: Objective, pool: Sequence[int] = ()) -> None:
        self.lm = lm
        self.clean = clean
        self.goal = goal
        (self.branch,) = goal.branches
        self.pool = pool
        """Ids of other prompts' tokens, to draw replacements from."""
        self._made: dict[Any, Any] = {}

    @property
    def seq(self) -> int:
        """How many tokens are scored."""
        return len(self.clean.prompt)

    @property
    def ids(self) -> tuple[int, ...]:
        """The scored tokens: they name what is drawn at random, so no other sample has a say in it."""
        return self.clean.prompt.input_ids

    def zero(self) -> Perturbation:
        """All embeddings zero."""
        return self._once("zero", lambda: Interpolate(0, torch.zeros(1, self.seq)))

    def thinned(self, keep: Float[np.ndarray, "masks seq"], retained: bool, seed: int) -> Perturbation:
        """Single elements kept with these probabilities (`retained`), or what that drops kept instead.

        The draws are named by seed, tokens and mask alone: every method, protocol and metric meets the same ones.
        """
        masks, dim = len(keep), self.clean.embeds.shape[1]

        def draws() -> Tensor:
            each = [generator(seed, self.ids, "mask", mask).random((self.seq, dim), dtype=np.float32) for mask in range(masks)]
            return self.lm.to_device(torch.from_numpy(np.stack(each)))

        shared = self._once(("draws", masks, seed), draws)
        share = torch.from_numpy(keep.astype(np.float32))
        return self._once(("thin", retained, seed, share.numpy().tobytes()), lambda: MaskElements(0, shared, share, retained))

    def hellinger(self) -> LogitFn:
        """The Hellinger distance, in [0, 1], of the next token's distribution from the clean one."""
        return self._once("hellinger", lambda: hellinger(self.clean))

    def reading(self, quantity: Quantity) -> LogitFn:
        """The target's probability, or its logarithm."""
        if quantity == "prob":
            return self.branch.logit_fn
        return self._once(quantity, lambda: token_logit_fn(quantity, self.goal.target.token_ids, self.branch.logit_fn.ends))

    def erased(self, kept: Bool[np.ndarray, " seq"], operator: Operator, draws: int, seed: int, quantity: Quantity) -> list[PerturbedRows]:
        """Rows in which only the `kept` tokens are left: one, or with `resample` as many as `draws`."""
        key = (operator, draws if operator == "resample" else 0, seed, quantity, kept.tobytes())
        return self._once(key, lambda: self._erase(kept, operator, draws, seed, self.reading(quantity)))

    def ranked(self, scores: Float[np.ndarray, " seq"], seed: int) -> list[int]:
        """The tokens, highest score first; equal ones in an order drawn at random, the same for every method."""
        ties = generator(seed, self.ids, "ties").permutation(self.seq)
        return np.lexsort((ties, -scores)).tolist()

    def units(self, kind: str) -> Units:
        """The scored tokens as words, or as any other kind of unit."""
        return self._once(("units", kind), lambda: units(self.clean.prompt, kind))

    def _erase(self, kept: Bool[np.ndarray, " seq"], operator: Operator, draws: int, seed: int, measure: LogitFn) -> list[PerturbedRows]:
        clean = self.branch.clean
        if operator == "delete":
            left = [*np.flatnonzero(kept).tolist(), *range(self.seq, len(clean.prompt))]
            gone = len(clean.prompt) - len(left)
            moved = LogitFn(tuple(end - gone for end in measure.ends), measure.function)
            return [PerturbedRows(clean.only(left), Interpolate(0, torch.ones(1, 1)), moved)]
        share = torch.from_numpy(kept.astype(np.float32))[None]
        if operator == "zero":
            return [PerturbedRows(clean, Interpolate(0, share), measure)]
        return [PerturbedRows(clean, Interpolate(0, share, self._stranger(draw, seed)), measure) for draw in range(draws)]

    def _stranger(self, draw: int, seed: int) -> Tensor:
        """Embeddings of tokens drawn from other prompts, one for each position."""
        if not len(self.pool):
            raise OptionError("operator=resample takes its tokens from other prompts: give more than one")

        def make() -> Tensor:
            drawn = generator(seed, self.ids, "resample", draw).integers(len(self.pool), size=self.seq)
            return self.lm.embeddings([self.pool[place] for place in drawn])

        return self._once(("stranger", draw, seed), make)

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def hellinger(clean: CleanRun) -> LogitFn:
    """`sqrt(sum (sqrt p - sqrt q)^2 / 2)` of the clean run's next token and a row's: softmax in float32, the sum in float64."""
    root = clean.probs.sqrt()

    def of(logits: Float[Tensor, "rows 1 vocab"]) -> Float[Tensor, " rows"]:
        gap = logits[:, 0].float().softmax(-1).sqrt() - root
        wide = torch.float32 if gap.device.type == "mps" else torch.float64
        return (gap.square().sum(-1, dtype=wide) / 2).sqrt()

    return LogitFn((len(clean.prompt) - 1,), of)
