"""What is explained, as numbers read off the model: one or two sequences, and what to read off each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from noiser.errors import OptionError, PromptError
from noiser.lm.attention import AttentionReducer
from noiser.lm.kv_cache import CleanRun
from noiser.lm.perturbation import ModelContext, Perturbation, PerturbedRows, Readout
from noiser.lm.quantity import LogitFn, custom, difference, token_logit_fn
from noiser.lm.requests import ForwardRequest, Generation, Requires, Steps, ask
from noiser.lm.tokenizer import Tokens
from noiser.results.attribution import Target
from noiser.text.prompt import Prompt

TokensLike = str | SupportsIndex | Sequence[int]
"""Tokens, given as text (its leading space included), as an id, or as ids."""


@dataclass(frozen=True)
class Question:
    """Everything about the target, checked for sense; the model's own next token by default."""

    target: TokensLike | Callable[..., Any] | None = None
    """What to explain: one token, or several as a whole; or a function from the next token's logits [vocab] to a scalar."""
    foil: TokensLike | None = None
    """What to hold it against: why the target and not the foil?"""
    continuation: TokensLike | None = None
    """A text that follows the prompt, each of its tokens explained by all before it."""
    generate: int | None = None
    """So many tokens of the model's own, greedy, instead of a given continuation."""
    span: tuple[int, int] | None = None
    """Explain these tokens of the continuation (from, up to) as a whole instead of one by one."""
    quantity: str | None = None
    """What the scores are differences of, see `allowed`; the first there by default."""

    def __post_init__(self) -> None:
        several = [name for name in ("target", "continuation", "generate") if getattr(self, name) is not None]
        if len(several) > 1:
            raise OptionError(f"give one of target, continuation and generate; got {' and '.join(several)}")
        if self.foil is not None and (callable(self.target) or several not in ([], ["target"])):
            raise OptionError("a foil is held against a target (the model's own next token by default), not against anything else")
        if self.generate is not None and (not isinstance(self.generate, int) or isinstance(self.generate, bool) or self.generate < 1):
            raise OptionError(f"generate wants how many tokens, from 1 on; got {self.generate!r}")
        if self.span is not None:
            if not {"continuation", "generate"} & set(several):
                raise OptionError("a span is part of a continuation: give continuation or generate with it")
            if not _is_span(self.span):
                raise OptionError(f"a span is (from, up to) a later token, counted from 0; got {self.span!r}")
        if self.quantity is not None and self.quantity not in self.allowed:
            wanted = " or ".join(self.allowed) if self.allowed else "none: the function says what is explained"
            raise OptionError(f"the quantity of {self.kind} is {wanted}; got {self.quantity!r}")

    @property
    def kind(self) -> str:
        """What is asked for, in words."""
        if callable(self.target):
            return "a function"
        if self.foil is not None:
            return "a contrast"
        if self.span is not None:
            return "a span"
        return "a target" if self.continuation is None and self.generate is None else "a continuation"

    @property
    def allowed(self) -> tuple[str, ...]:
        """The quantities that make sense, the default first."""
        return {
            "a function": (),
            "a contrast": ("prob", "log_odds"),
            "a span": ("log_prob", "mean_prob", "prob"),
            "a target": ("prob", "log_prob", "mean_prob"),
            "a continuation": ("prob", "log_prob"),
        }[self.kind]

    @property
    def chosen_quantity(self) -> str:
        """The quantity asked for, or the default."""
        return self.quantity or self.allowed[0]


def _is_span(span: Any) -> bool:
    if not isinstance(span, tuple | list) or len(span) != 2 or not all(isinstance(end, int) for end in span):
        return False
    return 0 <= span[0] < span[1]


def to_token_ids(tokens: Tokens, words: TokensLike) -> tuple[int, ...]:
    """The ids of a target, foil or continuation. Raises PromptError where there are none, or an id that does not exist."""
    ids = tokens.ids(words)
    if not ids:
        raise PromptError(f"there are no tokens in {words!r}: give at least one character or id")
    return ids


def check_token_ids(tokens: Tokens, question: Question) -> None:
    """Raises PromptError for tokens that do not exist, before any prompt is run."""
    for words in (question.foil, question.continuation, None if callable(question.target) else question.target):
        if words is not None:
            to_token_ids(tokens, words)


@dataclass(frozen=True, eq=False)
class Branch:
    """A sequence that begins with the prompt, the number read off it, and whether that counts for or against."""

    clean: CleanRun
    logit_fn: LogitFn
    sign: float = 1.0


@dataclass(frozen=True, eq=False)
class Objective:
    """The explained quantity as a function of the embeddings of the prompt: the signed sum over the branches."""

    target: Target
    branches: tuple[Branch, ...]

    @property
    def value(self) -> float:
        """The quantity on the clean run."""
        assert self.target.value is not None
        return self.target.value

    def on(self, clean: CleanRun) -> LogitFn | None:
        """The measure, where it is all read off this very sequence; else None."""
        return self.branches[0].logit_fn if len(self.branches) == 1 and self.branches[0].clean is clean else None


ResolvedTarget = tuple[CleanRun, Objective]
"""The tokens that a goal is attributed to, run clean, and the goal."""


def resolve_target(tokens: Tokens, prompt: Prompt, question: Question, requires: Requires) -> Steps[list[ResolvedTarget]]:
    """Run what the question needs unperturbed, and say what to read off it: one goal for each row of the scores.

    `requires` has the clean runs take something along: the gradient of the top-two margin after the explained tokens
    (`margin`), or of what each branch reads (`objective`); or the first branch's attention weights, folded.
    """
    if question.kind == "a continuation":
        return (yield from _rows(tokens, prompt, question, requires))
    if question.kind == "a span":
        return [(yield from _span(tokens, prompt, question, requires))]
    if question.foil is None and (question.target is None or callable(question.target)):
        return [(yield from _next(tokens, prompt, question, requires))]
    own = () if question.target is None else to_token_ids(tokens, cast(Any, question.target))
    if question.foil is not None:
        return [(yield from _contrast(tokens, prompt, question, own, requires))]
    return [(yield from _whole(tokens, prompt, own, question.chosen_quantity, requires))]


def missing_space_warnings(tokens: Tokens, question: Question, posed: ResolvedTarget) -> list[str]:
    """A warning where a word was likely meant with its leading space: with it, it is one token, and far more probable."""
    clean, goal = posed
    advice = []
    for words, prob in ((question.target, goal.target.prob), (question.foil, goal.target.foil.prob if goal.target.foil else 1.0)):
        if isinstance(words, str) and not words[:1].isspace():
            spaced = tokens.ids(f" {words}")
            meant = float(clean.probs[spaced[0]])
            if len(spaced) == 1 and meant > 10 * prob:
                advice.append(f"{words!r} has p = {prob:.2g} here, {' ' + words!r} with its leading space {meant:.2g}: was that meant?")
    return advice


def _next(tokens: Tokens, prompt: Prompt, question: Question, requires: Requires) -> Steps[ResolvedTarget]:
    end = len(prompt) - 1
    if callable(question.target):
        measure = custom(question.target, end)
        clean = yield from _run_one(prompt, requires, lambda _: measure)
        name = f"function {getattr(question.target, '__name__', 'of the logits')}"
        target = _target(tokens, [clean], (clean.prediction,), name, _value(measure, [clean]))
        return clean, Objective(target, (Branch(clean, measure),))
    quantity = question.chosen_quantity
    clean = yield from _run_one(prompt, requires, lambda logits: token_logit_fn(quantity, (int(logits[0].argmax()),), (end,)))
    return _posed(tokens, clean, [clean], (clean.prediction,), quantity)


def _rows(tokens: Tokens, prompt: Prompt, question: Question, requires: Requires) -> Steps[list[ResolvedTarget]]:
    ids = yield from _continuation(tokens, prompt, question)
    ends = tuple(range(len(prompt) - 1, len(prompt) + len(ids) - 1))
    each = [token_logit_fn(question.chosen_quantity, (own,), (end,)) for own, end in zip(ids, ends, strict=True)]

    def slopes(logits: Tensor) -> dict[int, Tensor]:
        return {row: _margin(at) if requires == "margin" else each[row].function(at[None, None])[0] for row, at in enumerate(logits)}

    cleans = yield from _run(
        ForwardRequest(tokens.extended(prompt, ids[:-1]), ends, slopes if isinstance(requires, str) else None, _fold(requires))
    )
    return [_posed(tokens, clean, [clean], (own,), question.chosen_quantity) for clean, own in zip(cleans, ids, strict=True)]


def _span(tokens: Tokens, prompt: Prompt, question: Question, requires: Requires) -> Steps[ResolvedTarget]:
    ids = yield from _continuation(tokens, prompt, question)
    start, stop = question.span or (0, 0)
    if stop > len(ids):
        raise OptionError(f"the span {start}:{stop} reaches beyond the continuation, which has {len(ids)} tokens")
    return (yield from _whole(tokens, tokens.extended(prompt, ids[:start]), ids[start:stop], question.chosen_quantity, requires))


def _whole(tokens: Tokens, context: Prompt, ids: tuple[int, ...], quantity: str, requires: Requires) -> Steps[ResolvedTarget]:
    """Several tokens as one target; they themselves are not attributed to."""
    ends = tuple(range(len(context) - 1, len(context) + len(ids) - 1))
    measure = token_logit_fn(quantity, ids, ends)

    def slopes(logits: Tensor) -> dict[int, Tensor]:
        return {0: _margin(logits[0])} if requires == "margin" else {len(ids) - 1: measure.function(logits[None])[0]}

    cleans = yield from _run(
        ForwardRequest(tokens.extended(context, ids[:-1]), ends, slopes if isinstance(requires, str) else None, _fold(requires))
    )
    return _posed(tokens, cleans[0], cleans, ids, quantity)


def _contrast(tokens: Tokens, prompt: Prompt, question: Question, own: tuple[int, ...], requires: Requires) -> Steps[ResolvedTarget]:
    foil, quantity, end = to_token_ids(tokens, cast(Any, question.foil)), question.chosen_quantity, len(prompt) - 1
    if own == foil:
        same = "".join(map(tokens.surface, foil))
        raise OptionError(f"target and foil are the same, {same!r}: there is nothing between them")
    if len(own) <= 1 and len(foil) == 1:

        def of(logits: Tensor) -> LogitFn:
            return difference(quantity, own[0] if own else int(logits[0].argmax()), foil[0], end)

        clean = yield from _run_one(prompt, requires, of)
        own = own or (clean.prediction,)
        measure = difference(quantity, own[0], foil[0], end)
        against = _target(tokens, [clean], foil, quantity, None)
        target = _target(tokens, [clean], own, quantity, _value(measure, [clean]), against)
        return clean, Objective(target, (Branch(clean, measure),))
    each = "log_prob" if quantity == "log_odds" else quantity
    if not own:
        own = ((yield from _run(ForwardRequest(prompt, (end,))))[0].prediction,)
    clean, first = yield from _whole(tokens, prompt, own, each, requires)
    _, second = yield from _whole(tokens, prompt, foil, each, "objective" if requires == "objective" else None)
    target = Target(**{**vars(first.target), "quantity": quantity, "value": first.value - second.value, "foil": second.target})
    return clean, Objective(target, (*first.branches, *(Branch(branch.clean, branch.logit_fn, -1.0) for branch in second.branches)))


def _continuation(tokens: Tokens, prompt: Prompt, question: Question) -> Steps[tuple[int, ...]]:
    if question.generate is None:
        assert question.continuation is not None
        return to_token_ids(tokens, question.continuation)
    if tokens.limit is not None and len(prompt) + question.generate - 1 > tokens.limit:
        raise PromptError(
            f"{len(prompt)} tokens of prompt and {question.generate} generated are more than the {tokens.limit:,} that the model takes"
        )
    ids = yield Generation(prompt, question.generate)
    assert isinstance(ids, tuple)
    return ids


def _run(run: ForwardRequest) -> Steps[list[CleanRun]]:
    cleans = yield run
    return cast(list[CleanRun], cleans)


def _run_one(prompt: Prompt, requires: Requires, measure: Callable[[Tensor], LogitFn]) -> Steps[CleanRun]:
    """A clean run read at its end only; `measure` may depend on the logits there [1, vocab], as the model's prediction does."""

    def slopes(logits: Tensor) -> dict[int, Tensor]:
        return {0: _margin(logits[0]) if requires == "margin" else measure(logits).function(logits[None])[0]}

    (clean,) = yield from _run(ForwardRequest(prompt, (len(prompt) - 1,), slopes if isinstance(requires, str) else None, _fold(requires)))
    return clean


def _fold(requires: str | AttentionReducer | None) -> AttentionReducer | None:
    return None if isinstance(requires, str) else requires


def _margin(logits: Tensor) -> Tensor:
    """log P(prediction) - log P(runner-up)."""
    top = logits.topk(2).values
    return top[0] - top[1]


def _posed(tokens: Tokens, context: CleanRun, cleans: Sequence[CleanRun], ids: tuple[int, ...], quantity: str) -> ResolvedTarget:
    measure = token_logit_fn(quantity, ids, [len(clean.prompt) - 1 for clean in cleans])
    target = _target(tokens, cleans, ids, quantity, _value(measure, cleans))
    return context, Objective(target, (Branch(cleans[-1], measure),))


def _value(measure: LogitFn, cleans: Sequence[CleanRun]) -> float:
    return float(measure.function(torch.stack([clean.logits for clean in cleans])[None])[0])


def _target(
    tokens: Tokens, cleans: Sequence[CleanRun], ids: tuple[int, ...], quantity: str, value: float | None, foil: Target | None = None
) -> Target:
    probs = [float(clean.probs[own]) for clean, own in zip(cleans, ids, strict=True)]
    joint = 1.0
    for prob in probs:
        joint *= prob
    surfaces = tuple(tokens.surface(own) for own in ids)
    return Target(ids, surfaces, joint, max(_ranks(cleans, ids)), quantity, joint if value is None else value, foil, len(cleans[0].prompt))


def _ranks(cleans: Sequence[CleanRun], ids: Sequence[int]) -> Iterator[int]:
    """How many tokens the model holds more probable at each step; among equals the lower ids count as more probable."""
    for clean, own in zip(cleans, ids, strict=True):
        prob = clean.probs[own]
        yield int((clean.probs > prob).sum() + (clean.probs[:own] == prob).sum())


@dataclass(frozen=True, eq=False)
class Measured:
    """An edit, and what became of the explained quantity."""

    values: Float[np.ndarray, " rows"]
    """In each edited row."""
    anchor: float | None
    """In an unedited row beside them, where one was wanted."""
    gradient: Float[np.ndarray, "span dim"] | None
    """Weighted sum over the rows of the gradient with respect to the edited embeddings."""


def measure(
    goal: Objective,
    edits: Sequence[Perturbation],
    *,
    anchor: bool = False,
    weights: tuple[float, ...] | None = None,
    within: ModelContext | None = None,
) -> Steps[list[Measured]]:
    """The goal's quantity under each edit, whatever sequences it is read off; with `weights`, its gradient too."""
    pairs = [(edit, branch) for edit in edits for branch in goal.branches]
    probes = [PerturbedRows(branch.clean, edit, branch.logit_fn, anchor=anchor, weights=weights, within=within) for edit, branch in pairs]
    readings = iter((yield from ask(probes)))
    return [_sum(goal.branches, [next(readings) for _ in goal.branches]) for _ in edits]


def _sum(branches: Sequence[Branch], readings: Sequence[Readout]) -> Measured:
    pairs = list(zip(branches, readings, strict=True))
    gradients = [branch.sign * _numpy(reading.gradient) for branch, reading in pairs if reading.gradient is not None]
    return Measured(
        values=np.sum([branch.sign * np.array(reading.values) for branch, reading in pairs], axis=0),
        anchor=None if readings[0].anchor is None else sum(branch.sign * (reading.anchor or 0.0) for branch, reading in pairs),
        gradient=np.sum(gradients, axis=0) if gradients else None,
    )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().double().numpy()
