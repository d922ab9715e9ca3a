"""Answers one request in the queue's thread, and reports the progress."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch.nn.modules.module import register_module_forward_pre_hook

from noiser.attribution.attribute import attribute
from noiser.attribution.compare import compare
from noiser.attribution.curves import with_curves
from noiser.errors import OptionError
from noiser.lm.following import follow
from noiser.lm.model import LanguageModel
from noiser.registry import MethodSpec
from noiser.results.attribution import Attribution, Comparison
from noiser.views.viewer.data import view
from noiser.web.queue import CostEstimates, Job
from noiser.web.requests import AttributionRequest, Limits, prompt_too_long

CURVES = "removal curves"
REPORT_INTERVAL = 0.2
"""Least seconds between two reports of progress."""
MIN_SECONDS = 0.3
"""Seconds of work before its speed is trusted."""
MIN_SHARE = 0.2
"""Share of the work before its speed is trusted. Work begins with single rows and a generated answer, which are slow per token."""
Size = tuple[int, int]
"""Tokens of the prompt, and targets."""


def job_function(
    lm: LanguageModel, request: AttributionRequest, limits: Limits, estimates: CostEstimates, serialize: Callable[[Any], bytes]
) -> Callable[[Job], bytes]:
    """The function of one job: explain, then turn the result into bytes with `to_json_bytes` or `to_view_bytes`."""

    def run(job: Job) -> bytes:
        size = _checked_size(lm, request, limits)
        keys = {spec.label: _estimate_key(spec) for spec in request.methods}
        curves = [(CURVES, f"{CURVES} {len(keys)}")] if request.curves else []
        progress = ProgressReporter(job, [*keys.items(), *curves], size, estimates)
        with lm.progress_callback(progress.on_batch), _cancellable(job):
            progress.begin(next(iter(keys)))
            result = _explain(lm, request, progress)
            _observe(result, keys, size, estimates)
            if request.curves:
                progress.begin(CURVES)
                begin, before = time.perf_counter(), lm.token_counter.forward_tokens
                result = with_curves(lm, cast(Any, result))
                estimates.observe(curves[0][1], *size, time.perf_counter() - begin, lm.token_counter.forward_tokens - before)
        return serialize(result)

    return run


def to_json_bytes(result: Attribution | Comparison) -> bytes:
    """What the command line prints with --format json."""
    return result.to_json().encode()


def to_view_bytes(result: Attribution | Comparison) -> bytes:
    """What the viewer draws."""
    return json.dumps(view(result), allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


class ProgressReporter:
    """Writes into a job which method runs, how far it is, and when all will be done."""

    def __init__(self, job: Job, steps: list[tuple[str, str]], size: Size, estimates: CostEstimates) -> None:
        self._job = job
        self._steps = steps
        """Name and estimate key of each method, and of the curves."""
        self._size = size
        self._estimates = estimates
        self._step = 0
        self._step_started_at = self._reported_at = time.perf_counter()
        self._tokens_before = self._tokens = 0

    def begin(self, name: str) -> None:
        """The step of that name begins."""
        self._step = [step for step, _ in self._steps].index(name)
        self._step_started_at, self._tokens_before = time.perf_counter(), self._tokens
        self._report(0)

    def on_batch(self, done: int, remaining: int) -> None:
        """A batch is done; both counts are forward tokens. Raises Stopped if the client has left."""
        self._job.check()
        self._tokens = done
        if time.perf_counter() - self._reported_at >= REPORT_INTERVAL:
            self._report(remaining)

    def _report(self, remaining: int) -> None:
        self._reported_at = time.perf_counter()
        methods = len(self._steps) - (self._steps[-1][0] == CURVES)
        self._job.progress = {
            "method": self._steps[self._step][0],
            "methods_done": min(self._step, methods),
            "methods": methods,
            "forward_tokens": self._tokens,
            "ends_at": self._ends_at(remaining),
        }
        self._job.on_change(self._job)

    def _ends_at(self, remaining: int) -> float | None:
        """When all steps will be done, by `time.perf_counter`; None if that is not known."""
        now = time.perf_counter()
        later = [self._estimates.estimate(key, *self._size) for _, key in self._steps[self._step + 1 :]]
        current = self._seconds_left_in_step(remaining, now - self._step_started_at)
        known = [cost.seconds for cost in later if cost is not None]
        return None if current is None or len(known) < len(later) else now + current + sum(known)

    def _seconds_left_in_step(self, remaining: int, elapsed: float) -> float | None:
        """What the engine still has to do for its current call is exact; the calls after it are estimated."""
        expected = self._estimates.estimate(self._steps[self._step][1], *self._size)
        done = self._tokens - self._tokens_before
        if expected is None:
            return remaining * elapsed / done if done and remaining and elapsed > MIN_SECONDS else None
        left = max(expected.forward_tokens - done, remaining, 0)
        if elapsed > MIN_SECONDS and done > MIN_SHARE * (done + left):
            return left * elapsed / done
        return left * expected.seconds / expected.forward_tokens if expected.forward_tokens else expected.seconds


@contextmanager
def _cancellable(job: Job) -> Iterator[None]:
    """Check the job before every module of a forward pass: a whole batch may take seconds."""
    thread = threading.get_ident()
    hook = register_module_forward_pre_hook(lambda *_: job.check() if threading.get_ident() == thread else None)
    try:
        yield
    finally:
        hook.remove()


def _checked_size(lm: LanguageModel, request: AttributionRequest, limits: Limits) -> Size:
    """Tokens of the prompt, continuation included, and how many targets are explained. Raises HttpError or OptionError beyond a limit."""
    question = request.question
    prompt = lm.prompt(request.source, **request.named)
    length = len(prompt)
    following = 0 if question.continuation is None else len(follow(lm.tokens, prompt, question.continuation).ids)
    if question.continuation is None and question.target is not None and not callable(question.target):
        following = len(follow(lm.tokens, prompt, question.target).ids) - 1
    following = max(following, question.generate or 0)
    if following > limits.max_generate:
        raise OptionError(f"a continuation or target may have at most {limits.max_generate} tokens here; got {following:,}")
    length += following
    if length > limits.max_tokens:
        raise prompt_too_long(f"the prompt has {length:,} tokens", limits)
    for spec in request.methods:
        _check_options(spec, length, limits)
    several = question.target is None and question.kind != "a span"
    return length, max(1, following) if several else 1


def _check_options(spec: MethodSpec, length: int, limits: Limits) -> None:
    """Every whole number among the options multiplies rows of `length` tokens, draws or nodes; only the seed does not."""
    most = limits.max_draws // length
    for name, value in spec.options.items():
        if name != "seed" and type(value) is int and value > most:
            raise OptionError(f"{spec.label}: at most {most:,} {name} for {length:,} tokens here; got {value:,}")


def _explain(lm: LanguageModel, request: AttributionRequest, progress: ProgressReporter) -> Attribution | Comparison:
    if not request.single:
        return compare(lm, request.source, request.methods, request.question, **request.named, on_method=progress.begin)
    return attribute(lm, request.source, request.methods[0], request.question, **request.named)


def _estimate_key(spec: MethodSpec) -> str:
    """The seed is left out: it does not change the cost."""
    return f"{spec.name} {sorted((option, value) for option, value in spec.options.items() if option != 'seed')}"


def _observe(result: Attribution | Comparison, keys: dict[str, str], size: Size, estimates: CostEstimates) -> None:
    for attribution in result.attributions if isinstance(result, Comparison) else (result,):
        estimates.observe(keys[attribution.label], *size, attribution.cost.seconds, attribution.cost.forward_tokens)
