"""What Noiser says about its scores."""

from typing import Any

from noiser.lm.model import LanguageModel
from noiser.lm.target import Objective
from noiser.methods.noiser.evaluations import Drops, NoiseEvaluations
from noiser.methods.noiser.scale import Bound

ASSUMPTION = "monotone flips assumed, not checked"
"""What search=fast cannot know: whether a token that does not flip at one scale flips at a smaller one."""
NOTHING_LEFT, MOST_DRAWS = 0.02, 0.7
"""A draw leaves nothing of a probability below this share of it. The share of a token's draws from which on rare draws decide."""


def noise_notes(
    lm: LanguageModel, evaluations: NoiseEvaluations, scales: list[float], status: str, bound: Bound, search: str
) -> dict[str, Any]:
    """Measured facts that help to judge the scores."""
    clean, predicted = evaluations.clean, evaluations.prediction
    flipped = [token for token, k in enumerate(scales) if k > 0 and evaluations.flips(token, k)]
    notes: dict[str, Any] = {
        "k": scales if bound == "k_max_per_token" else scales[0],
        "k_status": status,
        "flipped": flipped,
        "first_to_flip": evaluations.first_to_flip(),
        "prediction": {"token_id": predicted, "token": lm.tokens.surface(predicted), "prob": float(clean.probs[predicted])},
        "tie": bool((clean.probs == clean.probs[predicted]).sum() > 1),
        "non_monotone": evaluations.non_monotone(),
        "warnings": [],
    }
    if status != "fixed" and search == "fast":
        notes["assumption"] = ASSUMPTION
    notes["warnings"] = [warning for warning, applies in _warnings(notes, bound, search) if applies]
    return notes


def _warnings(notes: dict[str, Any], bound: Bound, search: str) -> list[tuple[str, bool]]:
    """Each possible warning, and whether it applies."""
    return [
        ("Several tokens are equally probable; the lowest id counts as the prediction.", notes["tie"]),
        (
            "Some token flips the prediction even at the smallest scale tried, so k is 0 there and so is the score; raise steps.",
            notes["k_status"] == "at_floor",
        ),
        (
            "No token flips the prediction inside the bracket; bracket=expand looks further.",
            notes["k_status"] == "not_reached" and bound == "k_min",
        ),
        (
            "Some token flips the prediction nowhere inside the bracket; the largest scale tried stands for its k.",
            notes["k_status"] == "not_reached" and bound != "k_min",
        ),
        (
            f"{notes['non_monotone']} tokens flip the prediction at one scale but not at a larger one; "
            "search=exact finds k without assuming otherwise.",
            notes["non_monotone"] > 0 and search == "fast" and notes["k_status"] != "fixed",
        ),
    ]


def saturation_warnings(objective: Objective, drops: Drops) -> list[str]:
    """A warning if most draws take the whole probability, so that the spread of a few draws says too little."""
    target = objective.target
    if target.quantity not in ("prob", "mean_prob") or target.foil is not None or objective.value <= 0 or drops.each.shape[1] < 2:
        return []
    nothing_left = objective.value - drops.each < NOTHING_LEFT * objective.value
    tokens = int((nothing_left.mean(axis=1) >= MOST_DRAWS).sum())
    if not tokens:
        return []
    return [
        f"Of {tokens} tokens most draws take nearly all of the target's probability. Rare draws decide how much is left, and few draws "
        "miss them: these 95 % intervals are too narrow. Those of quantity=log_prob hold."
    ]
