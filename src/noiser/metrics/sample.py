"""What metrics take and return: one target on one prompt, the scores to evaluate, and a value."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
Operator = Literal["zero", "delete", "resample", "infill"]
Quantity = Literal["prob", "log_prob"]


@dataclass(frozen=True, eq=False)
class ScoresToEvaluate:
    """One method's scores for one target."""

    scores: Float[np.ndarray, " seq"]
    paper_normalization: PaperNormalization = "none"
    """How the authors' released code normalises scores of this kind; only `official` variants use it."""

    def __post_init__(self) -> None:
        if not np.isfinite(self.scores).all():
            raise NonFiniteError("the scores hold NaN or infinity: they cannot be evaluated")


@dataclass(frozen=True, eq=False)
class Value:
    """What a metric returns."""

    value: float | None
    """None if it is undefined."""
    detail: dict[str, Any] = field(default_factory=dict)
    """The numbers that it is the mean of, and other details, as plain JSON."""
    reason: str = ""
    """Why it is undefined."""
    extra: Mapping[str, float] = field(default_factory=dict)
    """Other numbers, by name; a record holds their means."""
    status: str = OK
    """`ok`, or how a judge failed to answer: `refused` or `invalid_answer`. The value counts either way."""


class MetricContext:
    """One target on one prompt. Equal rows are the same object for all metrics, so the engine runs them once."""

    def __init__(self, lm: LanguageModel, clean: CleanRun, objective: Objective, pool: Sequence[int] = ()) -> None:
        self.lm = lm
        self.clean = clean
        self.objective = objective
        (self.branch,) = objective.branches
        self.pool = pool
        """Ids of other prompts' tokens, to draw replacements from."""
        self._cache: dict[Any, Any] = {}

    @property
    def seq(self) -> int:
        """The number of scored tokens."""
        return len(self.clean.prompt)

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of the scored tokens. They are part of the key of random draws, so draws do not depend on other samples."""
        return self.clean.prompt.input_ids

    def zero(self) -> Perturbation:
        """All embeddings zero."""
        return self.cached("zero", lambda: Interpolate(0, torch.zeros(1, self.seq)))

    def thinned(self, keep: Float[np.ndarray, "masks seq"], retained: bool, seed: int) -> Perturbation:
        """Single elements of the embeddings kept with these probabilities; with `retained=False` the other elements are kept.

        Draws are keyed by (seed, token ids, mask), so all methods, protocols and metrics see the same masks.
        """
        masks, dim = len(keep), self.clean.embeds.shape[1]

        def draws() -> Tensor:
            each = [generator(seed, self.ids, "mask", mask).random((self.seq, dim), dtype=np.float32) for mask in range(masks)]
            return self.lm.to_device(torch.from_numpy(np.stack(each)))

        shared = self.cached(("draws", masks, seed), draws)
        share = torch.from_numpy(keep.astype(np.float32))
        return self.cached(("thin", retained, seed, share.numpy().tobytes()), lambda: MaskElements(0, shared, share, retained))

    def hellinger(self) -> LogitFn:
        """The Hellinger distance, in [0, 1], between the next token's distribution and that of the clean run."""
        return self.cached("hellinger", lambda: hellinger(self.clean))

    def logit_fn(self, quantity: Quantity) -> LogitFn:
        """The target's probability, or its logarithm."""
        if quantity == "prob":
            return self.branch.logit_fn
        return self.cached(quantity, lambda: token_logit_fn(quantity, self.objective.target.token_ids, self.branch.logit_fn.ends))

    def erased(self, kept: Bool[np.ndarray, " seq"], operator: Operator, draws: int, seed: int, quantity: Quantity) -> list[PerturbedRows]:
        """Rows with only the `kept` tokens: one row, or `draws` rows with `resample`."""
        key = (operator, draws if operator == "resample" else 0, seed, quantity, kept.tobytes())
        return self.cached(key, lambda: self._erase(kept, operator, draws, seed, self.logit_fn(quantity)))

    def ranked(self, scores: Float[np.ndarray, " seq"], seed: int) -> list[int]:
        """The tokens, highest score first. Equal scores come in a random order, the same for every method."""
        ties = generator(seed, self.ids, "ties").permutation(self.seq)
        return np.lexsort((ties, -scores)).tolist()

    def units(self, kind: str) -> Units:
        """The scored tokens as words, or as another kind of unit."""
        return self.cached(("units", kind), lambda: units(self.clean.prompt, kind))

    def _erase(self, kept: Bool[np.ndarray, " seq"], operator: Operator, draws: int, seed: int, measure: LogitFn) -> list[PerturbedRows]:
        clean = self.branch.clean
        if operator == "delete":
            left = [*np.flatnonzero(kept).tolist(), *range(self.seq, len(clean.prompt))]
            gone = len(clean.prompt) - len(left)
            moved = replace(measure, ends=tuple(end - gone for end in measure.ends))
            return [PerturbedRows(clean.subset(left), Interpolate(0, torch.ones(1, 1)), moved)]
        share = torch.from_numpy(kept.astype(np.float32))[None]
        if operator == "zero":
            return [PerturbedRows(clean, Interpolate(0, share), measure)]
        return [PerturbedRows(clean, Interpolate(0, share, self._replacement(draw, seed)), measure) for draw in range(draws)]

    def _replacement(self, draw: int, seed: int) -> Tensor:
        """Embeddings of random tokens of other prompts, one for each position."""
        if not len(self.pool):
            raise OptionError("operator=resample takes its tokens from other prompts: give more than one")

        def make() -> Tensor:
            indices = generator(seed, self.ids, "resample", draw).integers(len(self.pool), size=self.seq)
            return self.lm.embeddings([self.pool[index] for index in indices])

        return self.cached(("replacement", draw, seed), make)

    def cached(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` returned the first time. Metrics share it under this key."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


def hellinger(clean: CleanRun) -> LogitFn:
    """The Hellinger distance `sqrt(sum (sqrt p - sqrt q)^2 / 2)` of a row's next token from the clean run's, in [0, 1].

    The softmax is computed in float32, the sum in float64 (float32 on mps).
    """
    root = clean.probs.sqrt()

    def of(logits: Float[Tensor, "rows 1 vocab"]) -> Float[Tensor, " rows"]:
        gap = logits[:, 0].float().softmax(-1).sqrt() - root
        wide = torch.float32 if gap.device.type == "mps" else torch.float64
        return (gap.square().sum(-1, dtype=wide) / 2).sqrt()

    return LogitFn((len(clean.prompt) - 1,), of, "distribution")
