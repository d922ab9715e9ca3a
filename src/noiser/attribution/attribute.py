"""The front door: a model, a prompt and a method in, an Attribution out."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import isgenerator
from typing import Any, Literal, cast

import numpy as np

import noiser.methods
from noiser.errors import ForeignError, NoiserError, OptionError
from noiser.lm.model import LanguageModel
from noiser.lm.requests import CleanRunCache, Steps, cached, gather
from noiser.lm.scheduler import Job, schedule
from noiser.lm.target import Question, ResolvedTarget, TokensLike, check_token_ids, missing_space_warnings, resolve_target
from noiser.lm.tokenizer import Source
from noiser.methods.base import MethodOutput
from noiser.registry import Method
from noiser.results.attribution import Attribution, Target
from noiser.text.prompt import Prompt


@dataclass(frozen=True)
class Failure:
    """A prompt that could not be explained, and why."""

    index: int
    """Its place among the prompts."""
    prompt: Source
    error: NoiserError


def attribute(
    lm: LanguageModel,
    prompt: Source,
    method: str = "noiser",
    target: TokensLike | Callable[..., Any] | None = None,
    *,
    foil: TokensLike | None = None,
    continuation: TokensLike | None = None,
    generate: int | None = None,
    span: tuple[int, int] | None = None,
    quantity: str | None = None,
    **options: Any,
) -> Attribution:
    """Which tokens of `prompt` made the model predict `target`?

    `prompt` is text, token ids, a Prompt, or a chat: a list of {"role": ..., "content": ...}. What is explained:

    target        the next token, as text with its leading space or as an id, the model's own prediction by default;
                  several tokens (text or ids) as a whole; or a function from the next token's logits [vocab] to a scalar.
    foil          what the target is held against: why the target and not the foil?
    continuation  a text or ids that follow the prompt: a row of scores for each token, attributed to all before it.
    generate      instead, so many tokens of the model's own, greedy.
    span          (from, up to): these tokens of the continuation as a whole, attributed to all before them.
    quantity      `prob` (the default), `log_prob`; of several tokens as a whole their joint probability, its logarithm
                  (the default for a span), or `mean_prob`; with a foil the difference in `prob` or the `log_odds`.

    `options` are the method's, `seed` among them. Raises PromptError, OptionError, ModelError, NonFiniteError or
    DeviceMemoryError, and leaves the model as it was in any case.
    """
    question = Question(target, foil, continuation, generate, span, quantity)
    (result,) = _in_order(lm, [prompt], method, question, options, "raise")
    assert isinstance(result, Attribution)
    return result


def attribute_many(
    lm: LanguageModel,
    prompts: Iterable[Source],
    method: str = "noiser",
    target: TokensLike | Callable[..., Any] | None = None,
    *,
    errors: Literal["raise", "return"] = "raise",
    foil: TokensLike | None = None,
    continuation: TokensLike | None = None,
    generate: int | None = None,
    span: tuple[int, int] | None = None,
    quantity: str | None = None,
    **options: Any,
) -> Iterator[Attribution | Failure]:
    """`attribute` for many prompts, in their order, whose rows share batches; results come as they are ready.

    Each result is what the prompt would get alone. A prompt that fails raises in its turn, or comes as a Failure with
    `errors="return"`; the others are not affected.
    """
    if errors not in ("raise", "return"):
        raise OptionError(f"errors must be raise or return; got {errors!r}")
    question = Question(target, foil, continuation, generate, span, quantity)
    return _in_order(lm, prompts, method, question, options, errors)


def _in_order(
    lm: LanguageModel, prompts: Iterable[Source], name: str, question: Question, given: Mapping[str, Any], errors: str
) -> Iterator[Attribution | Failure]:
    """What is wrong with the method, its options or the target is said at once, before the first result is asked for."""
    method = noiser.methods.find(name)
    options = method.resolve(given)
    check_token_ids(lm.tokens, question)
    return attribute_each(lm, ((prompt, question) for prompt in prompts), method, options, errors)


def attribute_each(
    lm: LanguageModel,
    asked: Iterable[tuple[Source, Question] | tuple[Source, Question, CleanRunCache]],
    method: Method,
    options: Mapping[str, Any],
    errors: str,
    limit: float | None = None,
) -> Iterator[Attribution | Failure]:
    """`attribute_many` where each prompt comes with a question of its own, and with the clean runs that others have made of
    it or will want of it; the options are complete. A prompt may take `limit` seconds."""
    under_way: deque[Source] = deque()

    def work() -> Iterator[Steps[_Explained]]:
        for source, question, *shared in asked:
            under_way.append(source)
            yield _explain(lm, source, method, question, options, *shared)

    for index, job in enumerate(schedule(lm, work(), limit=limit)):
        source = under_way.popleft()
        if job.result is not None:
            yield _attribution(lm, job, method, options)
        elif errors == "raise":
            raise job.error or AssertionError("a job ended with neither result nor error")
        elif job.error is not None:
            yield Failure(index, source, job.error)


@dataclass(frozen=True)
class _Explained:
    given: int
    prompt: Prompt
    """The last row's: the given one, and what of a continuation stands before its last token."""
    targets: tuple[Target, ...]
    scored: list[MethodOutput]
    advice: list[str]


def _explain(
    lm: LanguageModel, source: Source, method: Method, question: Question, options: Mapping[str, Any], cleans: CleanRunCache | None = None
) -> Steps[_Explained]:
    """One prompt: the clean runs that the question needs, then the method on every row's goal, all rows at a time."""
    prompt = lm.prompt(source)
    posed = yield from cached(resolve_target(lm.tokens, prompt, question, method.requires), cleans, method.requires)
    advice = missing_space_warnings(lm.tokens, question, posed[0])
    scored = yield from gather([_scored(lm, method, row, options) for row in posed])
    return _Explained(len(prompt), posed[-1][0].prompt, tuple(goal.target for _, goal in posed), scored, advice)


def _scored(lm: LanguageModel, method: Method, posed: ResolvedTarget, options: Mapping[str, Any]) -> Steps[MethodOutput]:
    clean, goal = posed
    found = method.function(lm, clean, goal, **options)
    scored = (yield from cast(Steps[MethodOutput], found)) if isgenerator(found) else found
    if not isinstance(scored, MethodOutput) or not isinstance(scored.notes, Mapping) or not _fits(scored.scores, len(clean.prompt)):
        came = f"scores of shape {np.shape(scored.scores)}" if isinstance(scored, MethodOutput) else type(scored).__name__
        raise ForeignError(f"{method.name} has to return a Scored with one score for each of {len(clean.prompt)} tokens; it gave {came}")
    return scored


def _fits(scores: Any, length: int) -> bool:
    return isinstance(scores, np.ndarray) and scores.shape == (length,) and scores.dtype.kind in "fiub"


def _attribution(lm: LanguageModel, job: Job[_Explained], method: Method, options: Mapping[str, Any]) -> Attribution:
    assert job.result is not None
    found = job.result
    scores = np.zeros((len(found.scored), len(found.prompt)))
    for row, scored in enumerate(found.scored):
        scores[row, : len(scored.scores)] = scored.scores
    layout, reason = lm.layout(found.prompt)
    how = {"layout": f"{layout.name}: {reason}" if reason else layout.name}
    return Attribution(
        scores=scores,
        prompt=found.prompt,
        targets=found.targets,
        method=method.name,
        options={name: value for name, value in options.items() if name != "seed"},
        model=lm.name,
        revision=lm.revision,
        seed=options.get("seed"),
        cost=job.cost,
        notes={**_notes(found.scored, found.advice), **how},
        unit=options.get("unit", "token"),
        given=found.given,
    )


def _notes(scored: Sequence[MethodOutput], advice: list[str]) -> dict[str, Any]:
    """One row's notes as they are; of several, each row's, and their warnings once each."""
    rows = [{"warnings": [], **one.notes} for one in scored]
    warnings = list(dict.fromkeys([*advice, *(sentence for row in rows for sentence in row["warnings"])]))
    return {**rows[0], "warnings": warnings} if len(rows) == 1 else {"rows": rows, "warnings": warnings}
