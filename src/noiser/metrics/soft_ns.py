"""Soft-NS: is what the scores keep enough?"""

from noiser.lm.runner import LanguageModel
from noiser.lm.steps import Steps
from noiser.metrics.protocols import Protocol
from noiser.metrics.sample import Candidate, Sample, Value
from noiser.metrics.soft import Distance, Masks, soft
from noiser.registry import metric


@metric(
    "soft_ns",
    source="Zhao & Aletras 2023, arXiv:2305.10496; Ghasemi Madani et al. 2025, arXiv:2504.02911, section 4.3",
    better="higher",
    relative=True,
    measures="how much of the prediction survives when each token keeps a part of its embedding according to its score",
    fools="scale: under paper and official keeping more is enough to win (`constant` does); under matched only the order counts",
    cost="masks rows of T tokens",
)
def soft_ns(
    lm: LanguageModel,  # noqa: ARG001
    sample: Sample,
    candidate: Candidate,
    *,
    protocol: Protocol = "matched",
    distance: Distance = "hellinger",
    masks: Masks = 16,
    seed: int = 0,
) -> Steps[Value]:
    """Soft normalised sufficiency: `max(0, d0 - d) / d0`, mean over the masks; in [0, 1], higher is better.

    `d` is how far the prediction moves when each element of token i's embedding is kept with a probability made of its
    score, `d0` how far it moves when every embedding is zero. Undefined where d0 is 0.

    protocol  how scores become probabilities, see `noiser.metrics.protocols`: matched: by their order, area over all
              budgets; proportional: by their proportions, likewise; paper: as shares of mass; official: as the released
              code does, which also leaves out the root of the Hellinger distance.
    distance  hellinger: between the next token's distributions; probability: the loss in the target's probability, at least 0.
    masks     random masks, shared by all methods; under matched and proportional each has a budget of its own.

    Source: Zhao & Aletras 2023, arXiv:2305.10496; Ghasemi Madani et al. 2025, arXiv:2504.02911, section 4.3 and appendix A.
    """
    return soft(sample, candidate, True, protocol, distance, masks, seed)
