"""Soft-NC: is what the scores take away needed?"""

from noiser.lm.runner import LanguageModel
from noiser.lm.steps import Steps
from noiser.metrics.protocols import Protocol
from noiser.metrics.sample import Candidate, Sample, Value
from noiser.metrics.soft import Distance, Masks, soft
from noiser.registry import metric


@metric(
    "soft_nc",
    source="Zhao & Aletras 2023, arXiv:2305.10496; Ghasemi Madani et al. 2025, arXiv:2504.02911, section 4.3",
    better="higher",
    relative=True,
    measures="how far the prediction moves when each token loses a part of its embedding according to its score",
    fools="scale: under paper and official taking more away is enough to win (`constant` does); under matched only the order counts",
    cost="masks rows of T tokens",
)
def soft_nc(
    lm: LanguageModel,  # noqa: ARG001
    sample: Sample,
    candidate: Candidate,
    *,
    protocol: Protocol = "matched",
    distance: Distance = "hellinger",
    masks: Masks = 16,
    seed: int = 0,
) -> Steps[Value]:
    """Soft normalised comprehensiveness: `d / d0`, mean over the masks; at least 0, higher is better.

    `d` is how far the prediction moves when each element of token i's embedding is taken away with a probability made of
    its score, `d0` how far it moves when every embedding is zero; above 1 where taking a part moves it further than taking
    all. Undefined where d0 is 0.

    protocol  how scores become probabilities, see `noiser.metrics.protocols`: matched: by their order, area over all
              budgets; proportional: by their proportions, likewise; paper: as shares of mass; official: as the released
              code does, which also leaves out the root of the Hellinger distance.
    distance  hellinger: between the next token's distributions; probability: the loss in the target's probability, at least 0.
    masks     random masks, shared by all methods and with Soft-NS: what that keeps is what this takes away.

    Source: Zhao & Aletras 2023, arXiv:2305.10496; Ghasemi Madani et al. 2025, arXiv:2504.02911, section 4.3 and appendix A.
    """
    return soft(sample, candidate, False, protocol, distance, masks, seed)
