"""The front door: a model, a prompt and a method in, an Attribution out."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from inspect import isgenerator
from typing import Any, Literal, cast

import noiser.methods
import noiser.views
from noiser.errors import NoiserError, OptionError
from noiser.lm.prefix import Clean
from noiser.lm.runner import LanguageModel
from noiser.lm.side_by_side import Asking, CleanRun, Job, side_by_side
from noiser.lm.tokens import Source
from noiser.methods.steps import Scored
from noiser.registry import Method
from noiser.types import Attribution, Prompt, Target


@dataclass(frozen=True)
class Failure:
    """A prompt that could not be explained, and why."""

    index: int
    """Its place among the prompts."""
    prompt: Source
    error: NoiserError


def attribute(lm: LanguageModel, prompt: Source, method: str = "noiser", target: str | int | None = None, **options: Any) -> Attribution:
    """Which tokens of `prompt` made the model predict `target`?

    `prompt` is text, chat messages, token ids, or a Prompt; `target` the next token to explain, as text with its leading space or as an
    id, the model's own prediction by default. `options` are the method's, `seed` among them. Raises PromptError,
    OptionError, NonFiniteError or DeviceMemoryError, and leaves the model as it was in any case.
    """
    (result,) = attribute_many(lm, [prompt], method, target, **options)
    assert isinstance(result, Attribution)
    return result


def attribute_many(
    lm: LanguageModel,
    prompts: Iterable[Source],
    method: str = "noiser",
    target: str | int | None = None,
    *,
    errors: Literal["raise", "return"] = "raise",
    **options: Any,
) -> Iterator[Attribution | Failure]:
    """`attribute` for many prompts, in their order, whose rows share batches; results come as they are ready.

    Each result is what the prompt would get alone. A prompt that fails raises in its turn, or comes as a Failure with
    `errors="return"`; the others are not affected.
    """
    if errors not in ("raise", "return"):
        raise OptionError(f"errors must be raise or return; got {errors!r}")
    found = noiser.methods.find(method)
    resolved = found.resolve(options)
    token = None if target is None else lm.tokens.target(target)
    return _in_order(lm, prompts, found, resolved, token, errors)


def _in_order(
    lm: LanguageModel, prompts: Iterable[Source], method: Method, options: Mapping[str, Any], target: int | None, errors: str
) -> Iterator[Attribution | Failure]:
    under_way: deque[Source] = deque()

    def work() -> Iterator[Asking["_Explained"]]:
        for source in prompts:
            under_way.append(source)
            yield _explain(lm, source, method, options, target)

    for index, job in enumerate(side_by_side(lm, work())):
        source = under_way.popleft()
        if job.result is not None:
            yield _attribution(lm, job, method, options)
        elif errors == "raise":
            raise job.error or AssertionError("a job ended with neither result nor error")
        elif job.error is not None:
            yield Failure(index, source, job.error)


@dataclass(frozen=True)
class _Explained:
    prompt: Prompt
    target: Target
    scored: Scored


def _explain(lm: LanguageModel, source: Source, method: Method, options: Mapping[str, Any], target: int | None) -> Asking[_Explained]:
    prompt = lm.prompt(source)
    clean = yield CleanRun(prompt, method.gradient)
    assert isinstance(clean, Clean)
    chosen = lm.target(clean, target)
    scored = method.function(lm, clean, chosen, **options)
    return _Explained(prompt, chosen, (yield from cast(Asking[Scored], scored)) if isgenerator(scored) else scored)


def _attribution(lm: LanguageModel, job: Job[_Explained], method: Method, options: Mapping[str, Any]) -> Attribution:
    assert job.result is not None
    explained = job.result
    layout, reason = lm.layout(explained.prompt)
    return Attribution(
        scores=explained.scored.scores[None],
        prompt=explained.prompt,
        target=explained.target,
        method=method.name,
        options={name: value for name, value in options.items() if name != "seed"},
        model=lm.name,
        revision=lm.revision,
        seed=options.get("seed"),
        cost=job.cost,
        notes={**explained.scored.notes, "layout": f"{layout.name}: {reason}" if reason else layout.name},
    )
