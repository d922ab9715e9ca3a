"""Control rows that ignore the model. Any method should beat them."""

import numpy as np

from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput
from noiser.registry import method
from noiser.rng import generator

NOTHING = "nothing: it ignores the model"


@method(
    "random",
    family="control",
    source="Ghasemi Madani et al. 2025, arXiv:2504.02911",
    cost="none",
    changes=NOTHING,
    paper_normalization="none",
)
def random(lm: LanguageModel, clean: CleanRun, objective: Objective, *, seed: int = 0) -> MethodOutput:  # noqa: ARG001
    """softmax(u), u ~ U(0, 1) for each token: the paper's random baseline. Positive, adds up to 1.

    It estimates nothing, so its scores have no standard error.
    """
    weights = np.exp(generator(seed, clean.prompt.input_ids, "random").random(len(clean.prompt)))
    return MethodOutput(weights / weights.sum())


@method("uniform", family="control", source="a control", cost="none", changes=NOTHING, paper_normalization="none")
def uniform(lm: LanguageModel, clean: CleanRun, objective: Objective) -> MethodOutput:  # noqa: ARG001
    """1/T for each token."""
    return MethodOutput(np.full(len(clean.prompt), 1 / len(clean.prompt)))


@method("constant", family="control", source="a control", cost="none", changes=NOTHING, paper_normalization="none")
def constant(lm: LanguageModel, clean: CleanRun, objective: Objective) -> MethodOutput:  # noqa: ARG001
    """1 for each token. It wins every metric that reads scores as probabilities."""
    return MethodOutput(np.ones(len(clean.prompt)))


@method("recency", family="control", source="a control", cost="none", changes=NOTHING, paper_normalization="none")
def recency(lm: LanguageModel, clean: CleanRun, objective: Objective) -> MethodOutput:  # noqa: ARG001
    """A later token has a higher score: from 1/T for the first to 1 for the last."""
    return MethodOutput(np.arange(1, len(clean.prompt) + 1) / len(clean.prompt))
