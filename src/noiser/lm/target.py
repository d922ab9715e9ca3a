"""What is explained, resolved to numbers that are read from the model: one or two sequences, and a logit function for each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from noiser.errors import OptionError, PromptError
from noiser.lm.ahead import RowsAhead
from noiser.lm.explained_words import find_words
from noiser.lm.following import TokensLike, follow, token_ids
from noiser.lm.kv_cache import CleanRun
from noiser.lm.quantity import DISTANCES, LogitFn, contrast_logit_fn, custom_logit_fn, distance_logit_fn, token_logit_fn
from noiser.lm.requests import ForwardRequest, Generation, Requires, ScalarsOfLogits, Steps
from noiser.lm.tokenizer import Tokens
from noiser.results.attribution import Target
from noiser.text.prompt import Prompt


@dataclass(frozen=True)
class Question:
    """What to explain. By default it is the model's own next token. The constructor raises OptionError for a combination that
    makes no sense."""

    target: TokensLike | Callable[..., Any] | None = None
    """One token; several tokens as a whole; or a function from the next token's logits [vocab] to a scalar tensor."""
    foil: TokensLike | None = None
    """The alternative: why the target and not the foil?"""
    continuation: TokensLike | None = None
    """A text that follows the prompt. Each of its tokens is explained by all tokens before it."""
    generate: int | None = None
    """Explain this many tokens that the model generates greedily, instead of a given continuation."""
    span: tuple[int, int] | None = None
    """Explain these tokens of the continuation as a whole: from the first index up to, not including, the second."""
    quantity: str | None = None
    """What the scores are differences of; one of `allowed`. None: the first of them."""
    explain: str | None = None
    """The exact words of the continuation to explain as a whole, in place of `span`."""

    def __post_init__(self) -> None:
        given = [name for name in ("target", "continuation", "generate") if getattr(self, name) is not None]
        if len(given) > 1:
            raise OptionError(f"give one of target, continuation and generate; got {' and '.join(given)}")
        if self.foil is not None and (callable(self.target) or given not in ([], ["target"])):
            raise OptionError("a foil is compared with a target (by default the model's own next token), not with anything else")
        if self.generate is not None and (not isinstance(self.generate, int) or isinstance(self.generate, bool) or self.generate < 1):
            raise OptionError(f"generate wants a number of tokens, at least 1; got {self.generate!r}")
        if self.span is not None or self.explain is not None:
            self._check_part(given)
        if self.quantity is not None and self.quantity not in self.allowed:
            choices = " or ".join(self.allowed) if self.allowed else "none: the function says what is explained"
            why = f" (a distance of one next-token distribution, and {self.kind} is not one)" if self.quantity in DISTANCES else ""
            raise OptionError(f"the quantity of {self.kind} is {choices}; got {self.quantity!r}{why}")

    def _check_part(self, given: Sequence[str]) -> None:
        if self.span is not None and self.explain is not None:
            raise OptionError("give span or explain, not both: each names a part of the continuation")
        if not {"continuation", "generate"} & set(given):
            name = "a span is" if self.explain is None else "explain names"
            raise OptionError(f"{name} part of a continuation: give continuation or generate with it")
        if self.explain is not None and not (isinstance(self.explain, str) and self.explain.strip()):
            raise OptionError(f"explain wants words of the continuation, as text; got {self.explain!r}")
        if self.span is not None and not _is_span(self.span):
            raise OptionError(f"a span is (from, up to) with from < up to, counted from 0; got {self.span!r}")

    @property
    def kind(self) -> str:
        """The kind of target, in words."""
        if callable(self.target):
            return "a function"
        if self.foil is not None:
            return "a contrast"
        if self.span is not None or self.explain is not None:
            return "a span"
        return "a target" if self.continuation is None and self.generate is None else "a continuation"

    @property
    def allowed(self) -> tuple[str, ...]:
        """The quantities that this kind of target can have. The default is the first."""
        return {
            "a function": (),
            "a contrast": ("prob", "log_odds"),
            "a span": ("log_prob", "mean_prob", "prob"),
            "a target": ("prob", "log_prob", "mean_prob", *DISTANCES),
            "a continuation": ("prob", "log_prob", *DISTANCES),
        }[self.kind]

    @property
    def chosen_quantity(self) -> str:
        """The given quantity, or the default."""
        return self.quantity or self.allowed[0]


def _is_span(span: Any) -> bool:
    if not isinstance(span, tuple | list) or len(span) != 2 or not all(isinstance(end, int) for end in span):
        return False
    return 0 <= span[0] < span[1]


def check_token_ids(tokens: Tokens, question: Question) -> None:
    """Raises PromptError if a token of the question does not exist. It needs no run of the model."""
    for given in (question.foil, question.continuation, None if callable(question.target) else question.target):
        if given is not None:
            token_ids(tokens, given)


@dataclass(frozen=True, eq=False)
class Branch:
    """A sequence that begins with the prompt, the number that is read from it, and the number's sign."""

    clean: CleanRun
    logit_fn: LogitFn
    sign: float = 1.0


@dataclass(frozen=True, eq=False)
class Objective:
    """The explained quantity as a function of the prompt's embeddings: the signed sum over the branches."""

    target: Target
    branches: tuple[Branch, ...]

    @property
    def value(self) -> float:
        """The quantity on the clean run."""
        assert self.target.value is not None
        return self.target.value

    def logit_fn_on(self, clean: CleanRun) -> LogitFn | None:
        """The logit function, if the quantity is read from this sequence alone. Otherwise None."""
        return self.branches[0].logit_fn if len(self.branches) == 1 and self.branches[0].clean is clean else None


ResolvedTarget = tuple[CleanRun, Objective]
"""The clean run of the tokens to attribute to, and the objective."""


def resolve_target(tokens: Tokens, prompt: Prompt, question: Question, requires: Requires) -> Steps[list[ResolvedTarget]]:
    """Run what the question needs unperturbed. Returns one objective for each row of the scores.

    `requires` says what else the clean runs must provide: the gradient of the top-two margin after the explained tokens
    (`margin`), the gradient of each branch's number (`objective`), or the reduced attention weights of the first branch. Rows ahead
    run if the number is read at the end of the prompt and nowhere else.
    """
    if question.kind == "a continuation":
        return (yield from _resolve_continuation(tokens, prompt, question, requires))
    if question.kind == "a span":
        return [(yield from _resolve_span(tokens, prompt, question, requires))]
    if callable(question.target):
        return [(yield from _resolve_function(tokens, prompt, question.target, requires))]
    if question.foil is None and question.target is None:
        return [(yield from _resolve_prediction(tokens, prompt, question, requires))]
    ids = () if question.target is None else follow(tokens, prompt, cast(Any, question.target)).ids
    if question.foil is not None:
        return [(yield from _resolve_contrast(tokens, prompt, question, ids, requires))]
    return [(yield from _resolve_tokens(tokens, prompt, ids, question.chosen_quantity, requires))]


def target_warnings(tokens: Tokens, prompt: Prompt, question: Question, resolved: ResolvedTarget) -> list[str]:
    """Warnings about texts of the question that the tokenizer joins with the end of the prompt, and about missing spaces."""
    texts = [text for text in (question.target, question.foil, question.continuation) if isinstance(text, str)]
    joined = [follow(tokens, prompt, text).warning for text in texts]
    return [*filter(None, joined), *_missing_spaces(tokens, prompt, question, resolved)]


def _missing_spaces(tokens: Tokens, prompt: Prompt, question: Question, resolved: ResolvedTarget) -> Iterator[str]:
    """Warnings about words without a leading space that are one far more probable token with it."""
    clean, objective = resolved
    foil_prob = objective.target.foil.prob if objective.target.foil else 1.0
    for text, prob in ((question.target, objective.target.prob), (question.foil, foil_prob)):
        if isinstance(text, str) and not text[:1].isspace():
            spaced = follow(tokens, prompt, f" {text}").ids
            spaced_prob = float(clean.probs[spaced[0]])
            if len(spaced) == 1 and spaced_prob > 10 * prob:
                yield f"{text!r} has p = {prob:.2g} here, {' ' + text!r} with its leading space {spaced_prob:.2g}: was that meant?"


def _resolve_function(tokens: Tokens, prompt: Prompt, function: Callable[..., Any], requires: Requires) -> Steps[ResolvedTarget]:
    logit_fn = custom_logit_fn(function, len(prompt) - 1)
    clean = yield from _run_at_end(prompt, requires, lambda _: logit_fn)
    name = f"function {getattr(function, '__name__', 'of the logits')}"
    target = _make_target(tokens, [clean], (clean.prediction,), name, _clean_value(logit_fn, [clean]))
    return clean, Objective(target, (Branch(clean, logit_fn),))


def _resolve_prediction(tokens: Tokens, prompt: Prompt, question: Question, requires: Requires) -> Steps[ResolvedTarget]:
    end, quantity = len(prompt) - 1, question.chosen_quantity
    clean = yield from _run_at_end(prompt, requires, lambda logits: _logit_fn(quantity, (int(logits[0].argmax()),), (end,), logits))
    return _resolved(tokens, clean, [clean], (clean.prediction,), quantity)


def _resolve_continuation(tokens: Tokens, prompt: Prompt, question: Question, requires: Requires) -> Steps[list[ResolvedTarget]]:
    ids = yield from _continuation_ids(tokens, prompt, question)
    ends = tuple(range(len(prompt) - 1, len(prompt) + len(ids) - 1))

    def scalar(row: int, at_end: Tensor) -> Tensor:
        if requires == "margin":
            return _margin(at_end)
        logit_fn = _logit_fn(question.chosen_quantity, (ids[row],), (ends[row],), at_end[None])
        return logit_fn.function(at_end[None, None])[0]

    def scalars(logits: Tensor) -> dict[int, Tensor]:
        return {row: scalar(row, at_end) for row, at_end in enumerate(logits)}

    request = replace(_forward_request(tokens.extended(prompt, ids[:-1]), ends, scalars, requires), separate=True)
    cleans = yield from _run(request)
    return [_resolved(tokens, clean, [clean], (token,), question.chosen_quantity) for clean, token in zip(cleans, ids, strict=True)]


def _resolve_span(tokens: Tokens, prompt: Prompt, question: Question, requires: Requires) -> Steps[ResolvedTarget]:
    ids = yield from _continuation_ids(tokens, prompt, question)
    if question.explain is not None:
        start, stop = find_words(tokens, ids, question.explain)
    else:
        start, stop = question.span or (0, 0)
    if stop > len(ids):
        raise OptionError(f"the span {start}:{stop} reaches beyond the continuation, which has {len(ids)} tokens")
    context = tokens.extended(prompt, ids[:start])
    return (yield from _resolve_tokens(tokens, context, ids[start:stop], question.chosen_quantity, requires))


def _resolve_tokens(tokens: Tokens, context: Prompt, ids: tuple[int, ...], quantity: str, requires: Requires) -> Steps[ResolvedTarget]:
    """One or several tokens as one target. The target's own tokens get no scores."""
    if len(ids) == 1:
        clean = yield from _run_at_end(context, requires, lambda logits: _logit_fn(quantity, ids, (len(context) - 1,), logits))
        return _resolved(tokens, clean, [clean], ids, quantity)
    ends = tuple(range(len(context) - 1, len(context) + len(ids) - 1))
    if quantity in DISTANCES:
        raise OptionError(
            f"{quantity} is a distance of one next-token distribution, and the target has {len(ids)} tokens: give it as continuation, "
            "which has a row for each token, or take prob, log_prob or mean_prob"
        )

    def scalars(logits: Tensor) -> dict[int, Tensor]:
        if requires == "margin":
            return {0: _margin(logits[0])}
        return {len(ids) - 1: _logit_fn(quantity, ids, ends, logits).function(logits[None])[0]}

    cleans = yield from _run(_forward_request(tokens.extended(context, ids[:-1]), ends, scalars, requires))
    return _resolved(tokens, cleans[0], cleans, ids, quantity)


def _resolve_contrast(
    tokens: Tokens, prompt: Prompt, question: Question, target_ids: tuple[int, ...], requires: Requires
) -> Steps[ResolvedTarget]:
    foil_ids, quantity = follow(tokens, prompt, cast(Any, question.foil)).ids, question.chosen_quantity
    if target_ids == foil_ids:
        text = "".join(map(tokens.surface, foil_ids))
        raise OptionError(f"target and foil are the same, {text!r}: there is nothing between them")
    if len(target_ids) <= 1 and len(foil_ids) == 1:
        return (yield from _resolve_token_contrast(tokens, prompt, quantity, target_ids, foil_ids, requires))
    requires = None if isinstance(requires, RowsAhead) else requires
    branch_quantity = "log_prob" if quantity == "log_odds" else quantity
    if not target_ids:
        target_ids = ((yield from _run(ForwardRequest(prompt, (len(prompt) - 1,))))[0].prediction,)
    clean, first = yield from _resolve_tokens(tokens, prompt, target_ids, branch_quantity, requires)
    foil_requires = "objective" if requires == "objective" else None
    _, second = yield from _resolve_tokens(tokens, prompt, foil_ids, branch_quantity, foil_requires)
    target = replace(first.target, quantity=quantity, value=first.value - second.value, foil=second.target)
    return clean, Objective(target, (*first.branches, *(replace(branch, sign=-1.0) for branch in second.branches)))


def _resolve_token_contrast(
    tokens: Tokens, prompt: Prompt, quantity: str, target_ids: tuple[int, ...], foil_ids: tuple[int, ...], requires: Requires
) -> Steps[ResolvedTarget]:
    """The model's prediction (no `target_ids`) or one token against one foil token: both are read at the same position."""
    end = len(prompt) - 1

    def logit_fn_of(logits: Tensor) -> LogitFn:
        return contrast_logit_fn(quantity, target_ids[0] if target_ids else int(logits[0].argmax()), foil_ids[0], end)

    clean = yield from _run_at_end(prompt, requires, logit_fn_of)
    ids = target_ids or (clean.prediction,)
    logit_fn = contrast_logit_fn(quantity, ids[0], foil_ids[0], end)
    foil = _make_target(tokens, [clean], foil_ids, quantity, None)
    target = _make_target(tokens, [clean], ids, quantity, _clean_value(logit_fn, [clean]), foil)
    return clean, Objective(target, (Branch(clean, logit_fn),))


def _continuation_ids(tokens: Tokens, prompt: Prompt, question: Question) -> Steps[tuple[int, ...]]:
    if question.generate is None:
        assert question.continuation is not None
        return follow(tokens, prompt, question.continuation).ids
    if tokens.limit is not None and len(prompt) + question.generate - 1 > tokens.limit:
        raise PromptError(
            f"{len(prompt)} tokens of prompt and {question.generate} generated are more than the {tokens.limit:,} that the model takes"
        )
    ids = yield Generation(prompt, question.generate)
    assert isinstance(ids, tuple)
    return ids


def _run(request: ForwardRequest) -> Steps[list[CleanRun]]:
    cleans = yield request
    return cast(list[CleanRun], cleans)


def _run_at_end(prompt: Prompt, requires: Requires, logit_fn_of: Callable[[Tensor], LogitFn]) -> Steps[CleanRun]:
    """A clean run that is read at its last position. `logit_fn_of` gets the logits there, [1, vocab]."""

    def scalars(logits: Tensor) -> dict[int, Tensor]:
        return {0: _margin(logits[0]) if requires == "margin" else logit_fn_of(logits).function(logits[None])[0]}

    request = _forward_request(prompt, (len(prompt) - 1,), scalars, requires)
    if isinstance(requires, RowsAhead) and requires.perturbation.span == len(prompt):
        request = replace(request, ahead=replace(requires, logit_fn_of=logit_fn_of))
    (clean,) = yield from _run(request)
    return clean


def _forward_request(prompt: Prompt, ends: tuple[int, ...], scalars: ScalarsOfLogits, requires: Requires) -> ForwardRequest:
    if isinstance(requires, str):
        return ForwardRequest(prompt, ends, scalars)
    return ForwardRequest(prompt, ends, attention_reducer=None if isinstance(requires, RowsAhead) else requires)


def _margin(logits: Tensor) -> Tensor:
    """log P(prediction) - log P(runner-up)."""
    top = logits.topk(2).values
    return top[0] - top[1]


def _logit_fn(quantity: str, ids: Sequence[int], ends: Sequence[int], logits: Float[Tensor, "ends vocab"]) -> LogitFn:
    """The quantity of the tokens. `logits` are those of the clean run at the ends; a distance is measured from them."""
    return distance_logit_fn(quantity, logits[-1], ends[-1]) if quantity in DISTANCES else token_logit_fn(quantity, ids, ends)


def _resolved(tokens: Tokens, context: CleanRun, cleans: Sequence[CleanRun], ids: tuple[int, ...], quantity: str) -> ResolvedTarget:
    logits = torch.stack([clean.logits for clean in cleans])
    logit_fn = _logit_fn(quantity, ids, [len(clean.prompt) - 1 for clean in cleans], logits)
    target = _make_target(tokens, cleans, ids, quantity, _clean_value(logit_fn, cleans))
    return context, Objective(target, (Branch(cleans[-1], logit_fn),))


def _clean_value(logit_fn: LogitFn, cleans: Sequence[CleanRun]) -> float:
    return float(logit_fn.function(torch.stack([clean.logits for clean in cleans])[None])[0])


def _make_target(
    tokens: Tokens, cleans: Sequence[CleanRun], ids: tuple[int, ...], quantity: str, value: float | None, foil: Target | None = None
) -> Target:
    joint_prob = 1.0
    for clean, token in zip(cleans, ids, strict=True):
        joint_prob *= float(clean.probs[token])
    return Target(
        token_ids=ids,
        tokens=tuple(tokens.surface(token) for token in ids),
        prob=joint_prob,
        rank=max(_ranks(cleans, ids)),
        quantity=quantity,
        value=joint_prob if value is None else value,
        foil=foil,
        context=len(cleans[0].prompt),
    )


def _ranks(cleans: Sequence[CleanRun], ids: Sequence[int]) -> Iterator[int]:
    """The number of more probable tokens at each step. Of two equal tokens the lower id counts as more probable."""
    for clean, token in zip(cleans, ids, strict=True):
        prob = clean.probs[token]
        yield int((clean.probs > prob).sum() + (clean.probs[:token] == prob).sum())
