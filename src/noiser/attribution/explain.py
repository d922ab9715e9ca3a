"""Prompts explained together: their clean runs, a method on every target, and an Attribution of what it returns."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import isgenerator
from typing import Any, Literal, cast

import numpy as np

from noiser.errors import ForeignError, NoiserError, OptionError
from noiser.lm.following import TokensLike
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.requests import CleanRunCache, Steps, cached, gather
from noiser.lm.scheduler import isolate_errors, schedule
from noiser.lm.target import Question, ResolvedTarget, resolve_target, target_warnings
from noiser.lm.tokenizer import Source, unknown_id_warnings
from noiser.methods.base import MethodOutput
from noiser.registry import MethodSpec
from noiser.results.attribution import Attribution, Cost, Target
from noiser.text.prompt import Prompt

Task = tuple[Source, Question] | tuple[Source, Question, CleanRunCache]
"""A prompt, what to explain about it, and the clean runs that it shares with other tasks, if it shares any."""


@dataclass(frozen=True)
class Failure:
    """A prompt that could not be explained, and why."""

    index: int
    """Its position among the prompts."""
    prompt: Source
    error: NoiserError


def as_question(
    target: TokensLike | Callable[..., Any] | Question | None,
    foil: TokensLike | None = None,
    continuation: TokensLike | None = None,
    generate: int | None = None,
    span: tuple[int, int] | None = None,
    quantity: str | None = None,
    explain: str | None = None,
) -> Question:
    """The arguments about the target as one object, checked. Raises OptionError if they do not fit together."""
    if not isinstance(target, Question):
        return Question(target, foil, continuation, generate, span, quantity, explain)
    others = {"foil": foil, "continuation": continuation, "generate": generate, "span": span, "quantity": quantity, "explain": explain}
    extra = [name for name, value in others.items() if value is not None]
    if extra:
        raise OptionError(f"the target is a Question, which holds {', '.join(extra)} itself: set it there")
    return target


def attribute_each(
    lm: LanguageModel, tasks: Iterable[Task], spec: MethodSpec, errors: Literal["raise", "return"], limit: float | None = None
) -> Iterator[Attribution | Failure]:
    """`attribute_many` for prompts with a question each, and with everything checked already.

    With `errors="return"` an exception of the method's own is a Failure of its prompt. A task may carry the clean runs of its
    prompt: they are read from there and stored there. A prompt may take `limit` seconds.
    """
    started: deque[Source] = deque()
    if errors == "return":
        spec = replace(spec, method=replace(spec.method, function=isolate_errors(spec.method.function)))

    def work() -> Iterator[Steps[Explained]]:
        for source, question, *cleans in tasks:
            started.append(source)
            yield explain_steps(lm, source, spec, question, *cleans)

    for index, job in enumerate(schedule(lm, work(), limit=limit)):
        source = started.popleft()
        if job.result is not None:
            yield as_attribution(lm, job.result, job.cost, spec)
        elif errors == "raise":
            raise job.error or AssertionError("a job ended with neither result nor error")
        elif job.error is not None:
            yield Failure(index, source, job.error)


@dataclass(frozen=True)
class Explained:
    """What was computed for one prompt."""

    given: int
    """Tokens of the prompt as it was given."""
    prompt: Prompt
    """The tokens that the last target is attributed to: the given prompt, and a continuation up to its last token."""
    targets: tuple[Target, ...]
    outputs: list[MethodOutput]
    margins: list[float]
    """How far the most probable next token is ahead of the second, in probability, for each target."""
    advice: list[str]
    perturbed: bool
    """Whether rows ran that perturb the prompt. If not, their layout was never chosen."""


def explain_steps(
    lm: LanguageModel, source: Source, spec: MethodSpec, question: Question, cleans: CleanRunCache | None = None
) -> Steps[Explained]:
    """One prompt: the clean runs that the question needs, then the method on every target, all rows together."""
    lm.check_method(spec.method)
    prompt = lm.prompt(source)
    requires = spec.method.requires
    if spec.method.ahead is not None and cleans is None:  # clean runs that are shared with other methods come without one method's rows
        requires = spec.method.ahead(lm, prompt, spec.options)
    resolved = yield from cached(resolve_target(lm.tokens, prompt, question, requires), cleans, requires)
    advice = advice_on(lm, prompt, question, resolved[0])
    outputs = yield from gather([run_method(lm, spec, target) for target in resolved])
    targets = tuple(objective.target for _, objective in resolved)
    runs = [run for clean, objective in resolved for run in (clean, *(branch.clean for branch in objective.branches))]
    perturbed = any(run.has_rows for run in runs)
    margins = [_margin(clean) for clean, _ in resolved]
    return Explained(len(prompt), resolved[-1][0].prompt, targets, outputs, margins, advice, perturbed)


def advice_on(lm: LanguageModel, prompt: Prompt, question: Question, resolved: ResolvedTarget) -> list[str]:
    """Warnings about the model, the prompt and the target."""
    return [*lm.warnings, *prompt.warnings, *_given_id_warnings(lm, question), *target_warnings(lm.tokens, prompt, question, resolved)]


def _margin(clean: CleanRun) -> float:
    first, second = clean.probs.topk(2).values.tolist()
    return first - second


def _given_id_warnings(lm: LanguageModel, question: Question) -> list[str]:
    """Warnings about ids that are given as a target, foil or continuation."""
    given = [value for value in (question.target, question.foil, question.continuation) if not (value is None or callable(value))]
    ids = [token for value in given if not isinstance(value, str) for token in lm.tokens.ids(cast(Any, value))]
    return list(unknown_id_warnings(lm.tokens, ids))


def run_method(lm: LanguageModel, spec: MethodSpec, resolved: ResolvedTarget) -> Steps[MethodOutput]:
    """The method on one target, its output checked. Raises ForeignError for an output that is none."""
    clean, objective = resolved
    result = spec.method.function(lm, clean, objective, **spec.options)
    output = (yield from cast(Steps[MethodOutput], result)) if isgenerator(result) else result
    if not _is_valid(output, len(clean.prompt)):
        actual = f"scores of shape {np.shape(output.scores)}" if isinstance(output, MethodOutput) else type(output).__name__
        raise ForeignError(
            f"{spec.name} must return a MethodOutput with one score for each of {len(clean.prompt)} tokens; it returned {actual}"
        )
    if output.stderr is not None and not (
        _is_row(output.stderr, len(clean.prompt)) and (output.stderr >= 0).all() and np.isfinite(output.stderr).all()
    ):
        raise ForeignError(f"{spec.name}: stderr must be one number, at least 0, for each of {len(clean.prompt)} tokens, or None")
    return output


def _is_valid(output: Any, length: int) -> bool:
    """Whether it is a MethodOutput with a mapping of notes and `length` real scores."""
    if not isinstance(output, MethodOutput) or not isinstance(output.notes, Mapping):
        return False
    return _is_row(output.scores, length)


def _is_row(values: Any, length: int) -> bool:
    """Whether it is an array of `length` real numbers."""
    return isinstance(values, np.ndarray) and values.shape == (length,) and values.dtype.kind in "fiub"


def as_attribution(lm: LanguageModel, explained: Explained, cost: Cost, spec: MethodSpec) -> Attribution:
    """The result with what it cost."""
    stderr = [output.stderr for output in explained.outputs]
    drawn = any(row is not None for row in stderr)
    layout = _layout_note(lm, explained.prompt) if explained.perturbed else {}
    return Attribution(
        scores=_padded([output.scores for output in explained.outputs], len(explained.prompt)),
        prompt=explained.prompt,
        targets=explained.targets,
        method=spec.name,
        options={name: value for name, value in spec.options.items() if name != "seed"},
        model=lm.name,
        revision=lm.revision,
        seed=spec.options.get("seed"),
        cost=cost,
        notes=_notes(explained.outputs, explained.margins, explained.advice) | layout,
        unit=spec.options.get("unit", "token"),
        given=explained.given,
        label=spec.label,
        stderr=_padded(stderr, len(explained.prompt)) if drawn else None,
        dof=tuple(output.dof for output in explained.outputs) if drawn and any(output.dof for output in explained.outputs) else None,
    )


def _layout_note(lm: LanguageModel, prompt: Prompt) -> dict[str, str]:
    layout, reason = lm.layout(prompt)
    return {"layout": f"{layout.name}: {reason}" if reason else layout.name}


def _padded(rows: Sequence[np.ndarray | None], length: int) -> np.ndarray:
    """One row for each target, with 0 for tokens that do not come before it and for a row that has no numbers."""
    matrix = np.zeros((len(rows), length))
    for index, row in enumerate(rows):
        if row is not None:
            matrix[index, : len(row)] = row
    return matrix


def _notes(outputs: Sequence[MethodOutput], margins: Sequence[float], advice: list[str]) -> dict[str, Any]:
    """The notes of one row as they are; of several rows a list, and each warning once."""
    rows = [{"warnings": [], **output.notes, "margin": margin} for output, margin in zip(outputs, margins, strict=True)]
    warnings = list(dict.fromkeys([*advice, *(warning for row in rows for warning in row["warnings"])]))
    return {**rows[0], "warnings": warnings} if len(rows) == 1 else {"rows": rows, "warnings": warnings}
