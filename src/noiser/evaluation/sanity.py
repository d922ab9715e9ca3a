"""Sanity checks of methods: checks with a known answer, on the given model and on models built by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

import noiser.methods
from noiser.attribution.attribute import attribute, attribute_many
from noiser.errors import DeviceMemoryError, ModelError, NoiserError, NonFiniteError, OptionError, PromptError
from noiser.evaluation.sanity_models import CUE, FILLERS, PAYLOADS, QUERY, copy_circuit, ignoring, linear_model, shortcut, shuffled
from noiser.lm.devices import unify_memory_errors
from noiser.lm.model import LanguageModel, check_language_model
from noiser.registry import DEFAULT_METHODS, MethodSpec, Selection
from noiser.results.attribution import Attribution
from noiser.results.sanity import Checkup, Verdict
from noiser.results.scores import spearman
from noiser.rng import generator
from noiser.text.prompt import Prompt

Finding = tuple[float, bool, str]
"""What was measured, whether the check passes, and the same in words."""
TRIES = 8
"""The number of prompts on each model built by hand."""
MAX_NULL_SHARE = 0.05
"""The largest share of the highest score that counts as 0: LIME's coefficients are estimates."""
FLOAT32_TOLERANCE, LOW_PRECISION_TOLERANCE = 1e-4, 0.1
"""How far scores may differ between batches, as a share of the largest score."""
PERMUTATIONS, LEVEL = 999, 0.01
"""The number of random orders of the null distribution, and the significance level."""


PROMPTS = ("Paris is the capital of", "My sister plays the violin and the", "In winter the lake is covered with", "The opposite of hot is")


def check(
    lm: LanguageModel,
    methods: Selection[MethodSpec] = DEFAULT_METHODS,
    *,
    prompts: Sequence[Any] = PROMPTS,
    seed: int = 0,
    on_method: Callable[[str], None] | None = None,
) -> Checkup:
    """Do these methods pass the checks that every attribution method should pass, on this model?

    methods    as for `evaluate`: names, names with options, or specifications. A method of your own must be registered.
    prompts    the prompts for the given model: at least two, with at least three tokens each.
    seed       the key of the methods' random draws and of the checks' own.
    on_method  called with each method's label when all its checks are done.

    A check is `not applicable`, with a reason, if the method or the model does not allow it (no attention weights, for example).
    Raises OptionError for arguments that do not exist or do not fit. Returns a Checkup: `print` it, or read `.verdicts`.
    """
    check_language_model(lm)
    specs = noiser.methods.parse_all(methods, seed=seed)
    prompts = _tokenize(lm, prompts)
    shared: dict[str, Any] = {}
    verdicts: list[Verdict] = []
    for spec in specs:
        subject = Subject(lm, prompts, spec, seed, shared)
        verdicts += [_verdict(name, subject) for name in CHECKS]
        if on_method is not None:
            on_method(spec.label)
    sentences = {name: sentence for name, (sentence, _) in CHECKS.items()}
    return Checkup(lm.name, lm.revision, sentences, tuple(spec.label for spec in specs), tuple(verdicts))


def _verdict(name: str, subject: "Subject") -> Verdict:
    """The check is not applicable if the model does not allow it. It fails if the method raises."""
    label = subject.spec.label
    try:
        with unify_memory_errors():
            figure, passed, sentence = CHECKS[name][1](subject)
    except (ModelError, DeviceMemoryError, PromptError) as error:
        return Verdict(name, label, "not applicable", None, str(error))
    except NoiserError as error:
        return Verdict(name, label, "fail", None, str(error))
    except Exception as error:  # noqa: BLE001  (a user's method may raise anything, and then fails)
        return Verdict(name, label, "fail", None, f"{type(error).__name__}: {error}")
    return Verdict(name, label, "pass" if passed else "fail", float(figure), sentence)


@dataclass(frozen=True, eq=False)
class Subject:
    """The method under test, on the given model."""

    lm: LanguageModel
    prompts: Sequence[Prompt]
    spec: MethodSpec
    seed: int
    shared: dict[str, Any] = field(default_factory=dict)
    """What the checks of all methods share: the shuffled model."""

    def explain(self, lm: LanguageModel, prompt: Any, target: int | None = None) -> Attribution:
        """One attribution by the method."""
        try:
            attribution = attribute(lm, prompt, self.spec, target)
        except ModelError as error:
            if lm is self.lm:
                raise
            reason = "it gives no attention weights" if "attention weights" in str(error) else str(error)
            raise ModelError(f"the model made for this check does not allow it: {reason}") from error
        if not np.isfinite(attribution.scores).all():
            raise NonFiniteError(f"{self.spec.name} gave scores that are NaN or infinite")
        return attribution

    @cached_property
    def alone(self) -> list[Attribution]:
        """Each prompt explained by itself."""
        return [self.explain(self.lm, prompt) for prompt in self.prompts]

    def scores(self, lm: LanguageModel, prompt: Any, target: int | None = None) -> Float[np.ndarray, " seq"]:
        """One row of scores."""
        return self.explain(lm, prompt, target).scores[0]


CHECKS: dict[str, tuple[str, Callable[[Subject], Finding]]] = {}


def sanity_check(sentence: str) -> Callable[[Callable[[Subject], Finding]], Callable[[Subject], Finding]]:
    """Register a function in CHECKS under its name, with the sentence that says what it expects."""

    def register(function: Callable[[Subject], Finding]) -> Callable[[Subject], Finding]:
        CHECKS[function.__name__] = sentence, function
        return function

    return register


@sanity_check("a token that the model never sees gets 0 (your model, blind to one position)")
def null_token(subject: Subject) -> Finding:
    """Its largest score, as a share of the largest score of all tokens."""
    shares = []
    for prompt in subject.prompts:
        position = len(prompt) // 2
        ids = [*prompt.input_ids[:position], subject.prompts[0].input_ids[0], *prompt.input_ids[position:]]
        scores = np.abs(subject.scores(ignoring(subject.lm, position), ids))
        if scores.max() > 0:
            shares.append(float(scores[position] / scores.max()))
    if not shares:
        return 0.0, False, "every score is 0"
    return max(shares), max(shares) <= MAX_NULL_SHARE, f"it gets {max(shares):.2g} of the largest score"


@sanity_check("the token that is copied is found (an attention head built by hand)")
def copied_token(subject: Subject) -> Finding:
    """How often it scores highest of all tokens before the query."""
    return _cue_found(subject, copy_circuit(), PAYLOADS, [QUERY])


@sanity_check("the word that decides is found (a lexical shortcut built by hand)")
def shortcut_word(subject: Subject) -> Finding:
    """How often it scores highest."""
    return _cue_found(subject, shortcut(), [CUE], [])


@sanity_check("scores follow the weights (a linear model built by hand)")
def linear_truth(subject: Subject) -> Finding:
    """Rank correlation of the sizes of scores and weights, mean over models."""
    correlations = []
    for trial in range(TRIES):
        weights = generator(subject.seed, "linear", trial).permutation(0.25 * 1.6 ** np.arange(6))
        scores = subject.scores(linear_model(weights.tolist()), [0] * len(weights))
        correlations.append(_correlation(np.abs(scores), weights))
    mean = float(np.mean(correlations))
    return mean, mean >= 0.8, f"rank correlation {mean:+.2f} with the weights"


@sanity_check("scores change when the weights are shuffled (your model; no more alike than permuted scores)")
def shuffled_weights(subject: Subject) -> Finding:
    """Rank correlation of the scores before and after, mean over the prompts; compared with that of permuted scores."""
    if "shuffled" not in subject.shared:
        subject.shared["shuffled"] = shuffled(subject.lm, subject.seed)
    other = [subject.scores(subject.shared["shuffled"], prompt) for prompt in subject.prompts]
    pairs = [(one.scores[0], two) for one, two in zip(subject.alone, other, strict=True)]
    if all(one.tobytes() == two.tobytes() for one, two in pairs):
        return 1.0, False, "they are the same to the last bit"
    mean = float(np.mean([_correlation(*pair) for pair in pairs]))
    rng = generator(subject.seed, "permutation null")
    null = [np.mean([_correlation(one, rng.permutation(two)) for one, two in pairs]) for _ in range(PERMUTATIONS)]
    p = (1 + sum(value >= mean - 1e-12 for value in null)) / (1 + PERMUTATIONS)
    return mean, bool(p > LEVEL), f"rank correlation {mean:+.2f}, p = {p:.3f} against permuted scores"


@sanity_check("another target gets other scores (your model; its second choice)")
def other_target(subject: Subject) -> Finding:
    """Rank correlation of the scores for the two targets, mean over the prompts."""
    pairs = []
    for one, prompt in zip(subject.alone, subject.prompts, strict=True):
        (clean,) = subject.lm.clean([prompt])
        second = next(choice for choice in clean.probs.argsort(descending=True).tolist()[1:] if choice < subject.lm.tokens.size)
        pairs.append((one.scores[0], subject.scores(subject.lm, prompt, target=second)))
    differ = [not np.allclose(_direction(one), _direction(two), atol=1e-4) for one, two in pairs]
    mean = float(np.mean([_correlation(*pair) for pair in pairs]))
    sentence = f"rank correlation {mean:+.2f}" if any(differ) else "the same scores for either target"
    return mean, all(differ), sentence


@sanity_check("the same seed gives the same bytes")
def same_seed(subject: Subject) -> Finding:
    """The largest difference between two runs."""
    again = [subject.explain(subject.lm, prompt) for prompt in subject.prompts]
    gap = max(float(np.abs(one.scores - two.scores).max()) for one, two in zip(subject.alone, again, strict=True))
    same = all(one.scores.tobytes() == two.scores.tobytes() for one, two in zip(subject.alone, again, strict=True))
    return gap, same, "the same bytes" if same else f"two runs differ by {gap:.2g}"


@sanity_check("alone, among others, in small batches, without reuse of the prefix: the same scores")
def batch_invariance(subject: Subject) -> Finding:
    """The largest difference, as a share of the largest score."""
    lm = subject.lm
    models = [LanguageModel(lm.model, lm.tokenizer, token_budget=64), LanguageModel(lm.model, lm.tokenizer, prefix=False)]
    gaps = []
    for model in models:
        for one, two in zip(subject.alone, attribute_many(model, subject.prompts, subject.spec), strict=True):
            assert isinstance(two, Attribution)
            gaps.append(float(np.abs(one.scores - two.scores).max()) / max(float(np.abs(one.scores).max()), 1e-12))
    limit = FLOAT32_TOLERANCE if lm.model.dtype in (torch.float32, torch.float64) else LOW_PRECISION_TOLERANCE
    return max(gaps), max(gaps) <= limit, f"they differ by {max(gaps):.2g} of the largest score at most"


def _cue_found(subject: Subject, lm: LanguageModel, cues: Sequence[int], ending: Sequence[int]) -> Finding:
    """A cue at a random position among fillers: how often does it score highest of all tokens before the ending?"""
    hits = 0
    for trial in range(TRIES):
        rng = generator(subject.seed, lm.name, trial)
        ids = rng.choice(list(FILLERS), 8, replace=False)
        position = int(rng.integers(1, 7))
        ids[position] = rng.choice(list(cues))
        scores = subject.scores(lm, [*ids.tolist(), *ending])[: len(ids)]
        hits += bool((scores[position] > np.delete(scores, position)).all())
    return hits / TRIES, hits >= 0.75 * TRIES, f"found in {hits} of {TRIES} prompts"


def _correlation(one: Float[np.ndarray, " seq"], other: Float[np.ndarray, " seq"]) -> float:
    """Spearman's rank correlation; 0 if all scores of one side are equal."""
    return spearman(one[None], other[None], [len(one)]) or 0.0


def _direction(scores: Float[np.ndarray, " seq"]) -> Float[np.ndarray, " seq"]:
    """The scores divided by their Euclidean norm."""
    length = np.linalg.norm(scores)
    return scores / length if length else scores


def _tokenize(lm: LanguageModel, prompts: Sequence[Any]) -> list[Prompt]:
    """Raises OptionError for fewer than two prompts, and for a prompt with fewer than three tokens."""
    tokenized = [lm.prompt(prompt) for prompt in prompts]
    if len(tokenized) < 2 or min(map(len, tokenized)) < 3:
        raise OptionError("checks need at least two prompts of at least three tokens")
    return tokenized
