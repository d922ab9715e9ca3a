"""A checked request to the bytes of its answer, in the desk's thread, with word of how it goes."""

import json
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch.nn.modules.module import register_module_forward_pre_hook

from noiser.attribution.attribute import attribute
from noiser.attribution.compare import compare
from noiser.attribution.curves import with_curves
from noiser.errors import OptionError
from noiser.lm.model import LanguageModel
from noiser.results.attribution import Attribution, Comparison
from noiser.views.viewer.data import view
from noiser.web.queue import Job
from noiser.web.requests import Asked, Limits, too_long

MOST = 500
"""Methods with options that are remembered."""
KEPT = 12
"""Observations of a method with certain options."""
REACH = 3.0
"""How many times longer or shorter than what was seen a prompt may be, for a guess to be worth saying."""


@dataclass(frozen=True)
class Seen:
    """What one method took for one prompt."""

    length: int
    """Tokens."""
    seconds: float
    """For one target."""
    forward_tokens: float
    """For one target."""


class Estimates:
    """What methods took, by method and options. Threads may share it."""

    def __init__(self) -> None:
        self._seen: defaultdict[str, deque[Seen]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._lock = threading.Lock()

    def learn(self, key: str, length: int, targets: int, seconds: float, forward_tokens: int) -> None:
        """One observation: `targets` rows of scores for `length` tokens."""
        with self._lock:
            if key not in self._seen and len(self._seen) >= MOST:
                self._seen.pop(next(iter(self._seen)))
            self._seen[key].append(Seen(length, seconds / targets, forward_tokens / targets))

    def expected(self, key: str, length: int, targets: int) -> Seen | None:
        """What so many targets will take in all; None where nothing comparable was seen.

        From the observation of the nearest length, scaled by a power of the length: the one that fits what was seen, at least
        1 and at most 2, and 2 (what most methods cost) where only one length was.
        """
        with self._lock:
            seen = list(self._seen.get(key, ()))
        nearest = min(reversed(seen), key=lambda each: abs(math.log(length / each.length)), default=None)
        if nearest is None or not 1 / REACH <= length / nearest.length <= REACH:
            return None
        scale = targets * (length / nearest.length) ** _power(seen)
        return Seen(length, nearest.seconds * scale, nearest.forward_tokens * scale)


def _power(seen: list[Seen]) -> float:
    usable = [each for each in seen if each.forward_tokens > 0]
    if len({each.length for each in usable}) < 2:
        return 2.0
    lengths, tokens = (np.log([float(getattr(each, name)) for each in usable]) for name in ("length", "forward_tokens"))
    return float(np.clip(np.polyfit(lengths, tokens, 1)[0], 1.0, 2.0))


EVERY = 0.2
"""Seconds between two words of progress, at least."""
CURVES = "removal curves"
BRIEF = 0.3
"""Seconds of work before a speed is believed."""
BELIEVED = 0.2
"""And the share of the work that has to be done: it begins with single rows and a generated answer, which are slow for their tokens."""


class Watch:
    """What is said about a job while it runs: which method, how far, how long yet."""

    def __init__(self, job: Job, steps: list[tuple[str, str]], size: tuple[int, int], estimates: Estimates) -> None:
        self._job = job
        self._steps = steps
        """Name and what it is learned under, of each method and the curves."""
        self._size = size
        self._estimates = estimates
        self._step = 0
        self._begun = self._spoken = time.perf_counter()
        self._before = self._done = 0

    def begin(self, name: str) -> None:
        """The next step."""
        self._step = [step for step, _ in self._steps].index(name)
        self._begun, self._before = time.perf_counter(), self._done
        self._say(0)

    def batch(self, done: int, asked: int) -> None:
        """A batch is through. Raises Stopped where the client has left."""
        self._job.check()
        self._done = done
        if time.perf_counter() - self._spoken >= EVERY:
            self._say(asked)

    def _say(self, asked: int) -> None:
        self._spoken = time.perf_counter()
        name = self._steps[self._step][0]
        methods = len(self._steps) - (self._steps[-1][0] == CURVES)
        self._job.progress = {
            "method": name,
            "methods_done": min(self._step, methods),
            "methods": methods,
            "forward_tokens": self._done,
            "ends": self._ends(asked),
        }
        self._job.heard(self._job)

    def _ends(self, asked: int) -> float | None:
        """When all will be done, by `time.perf_counter`; None where that is not known."""
        now = time.perf_counter()
        later = [self._estimates.expected(key, *self._size) for _, key in self._steps[self._step + 1 :]]
        current = self._current(self._steps[self._step][1], asked, now - self._begun)
        known = [each.seconds for each in later if each is not None]
        return None if current is None or len(known) < len(later) else now + current + sum(known)

    def _current(self, key: str, asked: int, spent: float) -> float | None:
        """Seconds left of the step under way. What the engine still has to do for its request is exact; what follows was learned."""
        expected = self._estimates.expected(key, *self._size)
        done = self._done - self._before
        if expected is None:
            return asked * spent / done if done and asked and spent > BRIEF else None
        left = max(expected.forward_tokens - done, asked, 0)
        if spent > BRIEF and done > BELIEVED * (done + left):
            return left * spent / done
        return left * expected.seconds / expected.forward_tokens if expected.forward_tokens else expected.seconds


def answer(lm: LanguageModel, asked: Asked, limits: Limits, estimates: Estimates, form: Callable[[Any], bytes]) -> Callable[[Job], bytes]:
    """The work of one job: explain, and put the result into its form (`as_json`, `as_view`)."""

    def work(job: Job) -> bytes:
        size = _size(lm, asked, limits)
        steps = [(name, _learned_under(name, options)) for name, options in asked.methods.items()]
        curves = [(CURVES, f"{CURVES} {len(steps)}")] if asked.curves else []
        watch = Watch(job, [*steps, *curves], size, estimates)
        with lm.progress_callback(watch.batch), _stoppable(job):
            watch.begin(steps[0][0])
            result = _explained(lm, asked, watch)
            _learn(result, dict(steps), size, estimates)
            if asked.curves:
                watch.begin(CURVES)
                begin, before = time.perf_counter(), lm.token_counter.forward_tokens
                result = with_curves(lm, cast(Any, result))
                estimates.learn(curves[0][1], *size, time.perf_counter() - begin, lm.token_counter.forward_tokens - before)
        return form(result)

    return work


def _learned_under(name: str, options: Mapping[str, Any]) -> str:
    """Another seed takes as long."""
    return f"{name} {sorted((option, value) for option, value in options.items() if option != 'seed')}"


@contextmanager
def _stoppable(job: Job) -> Iterator[None]:
    """A batch may take seconds, so that somebody who leaves is noticed before every module that a forward pass goes through."""
    here = threading.get_ident()
    hook = register_module_forward_pre_hook(lambda *_: job.check() if threading.get_ident() == here else None)
    try:
        yield
    finally:
        hook.remove()


def as_json(result: Attribution | Comparison) -> bytes:
    """What the command line prints with --format json."""
    return result.to_json().encode()


def as_view(result: Attribution | Comparison) -> bytes:
    """What the viewer draws."""
    return json.dumps(view(result), allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def _size(lm: LanguageModel, asked: Asked, limits: Limits) -> tuple[int, int]:
    """Tokens of the prompt, and how many targets are explained. Raises Refusal or OptionError where it is too much."""
    question = asked.question
    length = len(lm.prompt(asked.source))
    following = 0 if question.continuation is None else len(lm.tokens.ids(question.continuation))
    if question.continuation is None and question.target is not None and not callable(question.target):
        following = len(lm.tokens.ids(question.target)) - 1
    following = max(following, question.generate or 0)
    if following > limits.max_generate:
        raise OptionError(f"a continuation or target has at most {limits.max_generate} tokens here; got {following:,}")
    length += following
    if length > limits.max_tokens:
        raise too_long(f"the prompt has {length:,} tokens", limits)
    for name, options in asked.methods.items():
        draws = options.get("samples", 0)
        if isinstance(draws, int) and draws * length > limits.max_draws:
            most = limits.max_draws // length
            raise OptionError(f"{name}: at most {most:,} samples for {length:,} tokens here; got {draws:,}")
    several = question.target is None and question.span is None
    return length, max(1, following) if several else 1


def _explained(lm: LanguageModel, asked: Asked, watch: Watch) -> Attribution | Comparison:
    question = vars(asked.question)
    if not asked.single:
        return compare(lm, asked.source, asked.methods, **question, on_method=watch.begin)
    ((name, options),) = asked.methods.items()
    return attribute(lm, asked.source, name, **question, **options)


def _learn(result: Attribution | Comparison, keys: dict[str, str], size: tuple[int, int], estimates: Estimates) -> None:
    for each in result.attributions if isinstance(result, Comparison) else (result,):
        estimates.learn(keys[each.label], *size, each.cost.seconds, each.cost.forward_tokens)
