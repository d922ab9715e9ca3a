"""Can a method be believed at all? Checks whose answer is known, on the model at hand and on models built by hand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from noiser.attribution.attribute import attribute, attribute_many
from noiser.errors import DeviceMemoryError, ModelError, NoiserError, NonFiniteError, OptionError, PromptError
from noiser.evaluation.sanity_models import CUE, FILLERS, PAYLOADS, QUERY, copy_circuit, ignoring, linear_model, shortcut, shuffled
from noiser.evaluation.spec import Chosen, method_rows
from noiser.lm.devices import unify_memory_errors
from noiser.lm.model import LanguageModel
from noiser.results.attribution import Attribution
from noiser.results.sanity import Checkup, Verdict
from noiser.results.scores import spearman
from noiser.rng import generator
from noiser.text.prompt import Prompt

Found = tuple[float, bool, str]
"""What was measured, whether it passes, and the same in words."""
TRIES = 8
"""Prompts on each model built by hand."""
NOTHING = 0.05
"""A share of the largest score that counts as none: LIME's coefficients are estimates."""
SAME, COARSE = 1e-4, 0.1
"""How far scores may differ between batches, as a share of the largest: in float32, and in lower precision."""
PERMUTATIONS, LEVEL = 999, 0.01
"""How many random orders make up the null, and how rarely it may be passed."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The method under test, on the model at hand."""

    lm: LanguageModel
    prompts: Sequence[Prompt]
    method: str
    options: Mapping[str, Any]
    seed: int
    shared: dict[str, Any] = field(default_factory=dict)
    """What all methods' checks may use again: the shuffled model."""

    def explain(self, lm: LanguageModel, prompt: Any, **asked: Any) -> Attribution:
        """One attribution by the method."""
        try:
            found = attribute(lm, prompt, self.method, **asked, **self.options)
        except ModelError as error:
            if lm is self.lm:
                raise
            said = "its attention weights cannot be had" if "attention weights" in str(error) else str(error)
            raise ModelError(f"the model made for this check does not allow it: {said}") from error
        if not np.isfinite(found.scores).all():
            raise NonFiniteError(f"{self.method} gave scores that are NaN or infinite")
        return found

    @cached_property
    def alone(self) -> list[Attribution]:
        """Each prompt explained by itself."""
        return [self.explain(self.lm, prompt) for prompt in self.prompts]

    def scores(self, lm: LanguageModel, prompt: Any, **asked: Any) -> Float[np.ndarray, " seq"]:
        """One row of scores."""
        return self.explain(lm, prompt, **asked).scores[0]


CHECKS: dict[str, tuple[str, Callable[[Subject], Found]]] = {}


def sanity_check(wanted: str) -> Callable[[Callable[[Subject], Found]], Callable[[Subject], Found]]:
    """Enter a function into CHECKS under its name, with the sentence that says what it wants."""

    def enter(function: Callable[[Subject], Found]) -> Callable[[Subject], Found]:
        CHECKS[function.__name__] = wanted, function
        return function

    return enter


@sanity_check("a token that the model never sees gets 0 (your model, blind to one position)")
def null_token(subject: Subject) -> Found:
    """The largest score that it gets, as a share of the largest score there is."""
    shares = []
    for prompt in subject.prompts:
        place = len(prompt) // 2
        ids = [*prompt.input_ids[:place], subject.prompts[0].input_ids[0], *prompt.input_ids[place:]]
        scores = np.abs(subject.scores(ignoring(subject.lm, place), ids))
        if scores.max() > 0:
            shares.append(float(scores[place] / scores.max()))
    if not shares:
        return 0.0, False, "every score is 0"
    return max(shares), max(shares) <= NOTHING, f"it gets {max(shares):.2g} of the largest score"


@sanity_check("the token that is copied is found (an attention head built by hand)")
def copied_token(subject: Subject) -> Found:
    """How often it scores highest of all that stand before the query."""
    return _planted(subject, copy_circuit(), PAYLOADS, [QUERY])


@sanity_check("the word that decides is found (a lexical shortcut built by hand)")
def shortcut_word(subject: Subject) -> Found:
    """How often it scores highest."""
    return _planted(subject, shortcut(), [CUE], [])


@sanity_check("scores follow the weights (a linear model built by hand)")
def linear_truth(subject: Subject) -> Found:
    """Rank correlation of the sizes of scores and weights, mean over models."""
    found = []
    for trial in range(TRIES):
        weights = generator(subject.seed, "linear", trial).permutation(0.25 * 1.6 ** np.arange(6))
        scores = subject.scores(linear_model(weights.tolist()), [0] * len(weights))
        found.append(_correlation(np.abs(scores), weights))
    mean = float(np.mean(found))
    return mean, mean >= 0.8, f"rank correlation {mean:+.2f} with the weights"


@sanity_check("scores change when the weights are shuffled (your model; no more alike than permuted scores)")
def shuffled_weights(subject: Subject) -> Found:
    """Rank correlation before and after, mean over the prompts, against that with the tokens' scores permuted."""
    if "shuffled" not in subject.shared:
        subject.shared["shuffled"] = shuffled(subject.lm, subject.seed)
    other = [subject.scores(subject.shared["shuffled"], prompt) for prompt in subject.prompts]
    pairs = [(one.scores[0], two) for one, two in zip(subject.alone, other, strict=True)]
    if all(one.tobytes() == two.tobytes() for one, two in pairs):
        return 1.0, False, "they are the same to the last bit"
    mean = float(np.mean([_correlation(*pair) for pair in pairs]))
    drawn = generator(subject.seed, "permutation null")
    null = [np.mean([_correlation(one, drawn.permutation(two)) for one, two in pairs]) for _ in range(PERMUTATIONS)]
    p = (1 + sum(each >= mean - 1e-12 for each in null)) / (1 + PERMUTATIONS)
    return mean, bool(p > LEVEL), f"rank correlation {mean:+.2f}, p = {p:.3f} against permuted scores"


@sanity_check("another target gets other scores (your model; its second choice)")
def other_target(subject: Subject) -> Found:
    """Rank correlation of the scores of the two, mean over the prompts."""
    pairs = []
    for one, prompt in zip(subject.alone, subject.prompts, strict=True):
        (clean,) = subject.lm.clean([prompt])
        second = next(choice for choice in clean.probs.argsort(descending=True).tolist()[1:] if choice < subject.lm.tokens.size)
        pairs.append((one.scores[0], subject.scores(subject.lm, prompt, target=second)))
    differ = [not np.allclose(_direction(one), _direction(two), atol=1e-4) for one, two in pairs]
    mean = float(np.mean([_correlation(*pair) for pair in pairs]))
    said = f"rank correlation {mean:+.2f}" if any(differ) else "the same scores for either target"
    return mean, all(differ), said


@sanity_check("the same seed gives the same bytes")
def same_seed(subject: Subject) -> Found:
    """The largest difference between two runs."""
    again = [subject.explain(subject.lm, prompt) for prompt in subject.prompts]
    gap = max(float(np.abs(one.scores - two.scores).max()) for one, two in zip(subject.alone, again, strict=True))
    same = all(one.scores.tobytes() == two.scores.tobytes() for one, two in zip(subject.alone, again, strict=True))
    return gap, same, "the same bytes" if same else f"two runs differ by {gap:.2g}"


@sanity_check("alone, among others, in small batches, without reuse of the prefix: the same scores")
def batch_invariance(subject: Subject) -> Found:
    """The largest difference, as a share of the largest score."""
    lm = subject.lm
    ways = [LanguageModel(lm.model, lm.tokenizer, token_budget=64), LanguageModel(lm.model, lm.tokenizer, prefix=False)]
    gaps = []
    for way in ways:
        for one, two in zip(subject.alone, attribute_many(way, subject.prompts, subject.method, **subject.options), strict=True):
            assert isinstance(two, Attribution)
            gaps.append(float(np.abs(one.scores - two.scores).max()) / max(float(np.abs(one.scores).max()), 1e-12))
    limit = SAME if lm.model.dtype in (torch.float32, torch.float64) else COARSE
    return max(gaps), max(gaps) <= limit, f"they differ by {max(gaps):.2g} of the largest score at most"


def _planted(subject: Subject, lm: LanguageModel, cues: Sequence[int], ending: Sequence[int]) -> Found:
    """A cue at a random place among fillers: how often does it score highest of all but the ending?"""
    hits = 0
    for trial in range(TRIES):
        drawn = generator(subject.seed, lm.name, trial)
        ids = drawn.choice(list(FILLERS), 8, replace=False)
        place = int(drawn.integers(1, 7))
        ids[place] = drawn.choice(list(cues))
        scores = subject.scores(lm, [*ids.tolist(), *ending])[: len(ids)]
        hits += bool((scores[place] > np.delete(scores, place)).all())
    return hits / TRIES, hits >= 0.75 * TRIES, f"found in {hits} of {TRIES} prompts"


def _correlation(one: Float[np.ndarray, " seq"], other: Float[np.ndarray, " seq"]) -> float:
    """Spearman's; 0 where one of them ranks nothing."""
    return spearman(one[None], other[None], [len(one)]) or 0.0


def _direction(scores: Float[np.ndarray, " seq"]) -> Float[np.ndarray, " seq"]:
    """The scores with their size taken out."""
    length = np.linalg.norm(scores)
    return scores / length if length else scores


def checked_prompts(lm: LanguageModel, prompts: Sequence[Any]) -> list[Prompt]:
    """The prompts to check on, tokenised. Raises OptionError for fewer than two, or one of fewer than three tokens."""
    found = [lm.prompt(prompt) for prompt in prompts]
    if len(found) < 2 or min(map(len, found)) < 3:
        raise OptionError("checks want at least two prompts of at least three tokens")
    return found


__all__ = ["check"]
DEFAULT_METHODS = ("noiser", "occlusion", "integrated_gradients")
PROMPTS = ("Paris is the capital of", "My sister plays the violin and the", "In winter the lake is covered with", "The opposite of hot is")


def check(
    lm: LanguageModel,
    methods: Chosen = DEFAULT_METHODS,
    *,
    prompts: Sequence[Any] = PROMPTS,
    seed: int = 0,
    on_method: Callable[[str], None] | None = None,
) -> Checkup:
    """Do these methods pass the checks that any attribution has to pass, on this model?

    methods    as for `evaluate`: names, or names with options; methods of your own once they are registered.
    prompts    to run the model at hand on: at least two, of at least three tokens.
    seed       of the methods, and of what the checks draw themselves.
    on_method  called with each method's name when it is done.

    A check that a method or model does not allow (attention weights that cannot be had) is `not applicable`, and says why.
    Raises OptionError for what does not exist or fit. Returns a Checkup: `print` it, or read `.verdicts`.
    """
    chosen = method_rows(methods, (), seed, 0)
    tokenised = checked_prompts(lm, prompts)
    shared: dict[str, Any] = {}
    verdicts: list[Verdict] = []
    for each in chosen:
        subject = Subject(lm, tokenised, each.method, each.options, seed, shared)
        verdicts += [_verdict(name, each.label, subject) for name in CHECKS]
        if on_method is not None:
            on_method(each.label)
    wanted = {name: sentence for name, (sentence, _) in CHECKS.items()}
    return Checkup(lm.name, lm.revision, wanted, tuple(each.label for each in chosen), tuple(verdicts))


def _verdict(name: str, label: str, subject: Subject) -> Verdict:
    """A model that does not allow a check makes it not applicable; a method that breaks down in it fails it."""

    try:
        with unify_memory_errors():
            figure, good, said = CHECKS[name][1](subject)
    except (ModelError, DeviceMemoryError, PromptError) as error:
        return Verdict(name, label, "not applicable", None, str(error))
    except NoiserError as error:
        return Verdict(name, label, "fail", None, str(error))
    except Exception as error:  # noqa: BLE001  (a method of somebody's own may raise anything, and then has failed)
        return Verdict(name, label, "fail", None, f"{type(error).__name__}: {error}")
    return Verdict(name, label, "pass" if good else "fail", float(figure), said)
