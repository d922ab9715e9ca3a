"""Run many generators at once: each requests something from the engine and waits for the answer, and rows share batches."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import isgenerator
from itertools import islice
from typing import Any, Generic, TypeVar, cast

from noiser.errors import DeviceMemoryError, ForeignError, NoiserError, NonFiniteError, RunError, Stopped, TimeLimitError, checkpoint
from noiser.lm.devices import TOO_LARGE, peak_bytes, reset_peak, unify_memory_errors
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import PerturbedRows, Readout
from noiser.lm.requests import Answer, ExternalRequest, ForwardRequest, Generation, Request, Steps
from noiser.results.attribution import Cost

MAX_CONCURRENT = 32
"""The number of prompts that are worked on at a time, so that their rows can share batches."""
NOT_FINITE = "the model's logits for this prompt, clean or perturbed, hold NaN or infinity: it is not scored"

R = TypeVar("R")


@dataclass
class Job(Generic[R]):
    """One generator, its pending request, and what it has cost."""

    steps: Steps[R]
    request: Request | None = None
    result: R | None = None
    error: NoiserError | None = None
    seconds: float = 0.0
    forward_tokens: int = 0
    backward_tokens: int = 0
    peak_bytes: int = 0
    limit: float | None = None
    """Seconds after which the job is given up, at its next request."""

    @property
    def cost(self) -> Cost:
        """The job's cost. Its share of a batch's seconds is its share of the tokens."""
        return Cost(self.seconds, self.forward_tokens, self.backward_tokens, self.peak_bytes)

    def resume(self, answer: Answer | NoiserError | None) -> None:
        """Send an answer, or raise an error at the request, and take the next request or the result."""
        checkpoint()
        self.request = None
        begin = time.perf_counter()
        try:
            self.request = self.steps.throw(answer) if isinstance(answer, NoiserError) else self.steps.send(cast(Answer, answer))
        except StopIteration as end:
            self.result = end.value
        except NoiserError as error:
            self.error = error
        if self.request is not None and (fault := _invalid_request(self.request)):
            self._give_up(ForeignError(fault))
        self.seconds += time.perf_counter() - begin
        if self.request is not None and self.limit is not None and self.seconds > self.limit:
            self._give_up(TimeLimitError(f"given up after {self.limit:g} s"))

    def _give_up(self, error: NoiserError) -> None:
        self.request, self.error = None, error
        self.steps.close()


def schedule(lm: LanguageModel, work: Iterable[Steps[R]], at_once: int = MAX_CONCURRENT, limit: float | None = None) -> Iterator[Job[R]]:
    """Run every generator to its end, `at_once` of them at a time. Finished jobs come in the order of `work`.

    A job that takes more than `limit` seconds (with its share of what is shared) ends with a TimeLimitError at its next
    request.
    """
    reset_peak(lm.devices)
    waiting = iter(work)
    jobs: list[Job[R]] = []
    while True:
        for steps in islice(waiting, at_once - len(jobs)):
            jobs.append(Job(steps, limit=limit))
            jobs[-1].resume(None)
        if not jobs:
            return
        while jobs and jobs[0].request is None:
            jobs[0].peak_bytes = peak_bytes(lm.devices)
            yield jobs.pop(0)
        for job in jobs:
            if isinstance(job.request, Generation):
                _answer_generation(lm, job)
        _answer_forward(lm, [job for job in jobs if isinstance(job.request, ForwardRequest)])
        _answer_perturbed(lm, [job for job in jobs if isinstance(job.request, list)])
        _answer_external(lm, [job for job in jobs if isinstance(job.request, ExternalRequest)])


def run_one(lm: LanguageModel, steps: Steps[R]) -> tuple[R, Cost]:
    """Run one generator to its end: its result and its cost. Raises the NoiserError that it ended with."""
    (job,) = schedule(lm, [steps])
    if job.error is not None:
        raise job.error
    return cast(R, job.result), job.cost


@contextmanager
def model_errors(lm: LanguageModel, step: str) -> Iterator[None]:
    """Turn whatever the model raises inside the block into a ModelFailedError, so that one prompt does not cost the others."""
    try:
        yield
    except (NoiserError, Stopped):
        raise
    except Exception as error:
        raise lm.failure(step, error) from error


def isolate_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a method or metric as a generator. Exceptions that are not noiser's own become a ForeignError."""

    def run(*arguments: Any, **options: Any) -> Any:
        try:
            with unify_memory_errors():
                result = function(*arguments, **options)
                return (yield from result) if isgenerator(result) else result
        except (NoiserError, Stopped):
            raise
        except Exception as error:
            raise ForeignError(f"{type(error).__name__}: {error}") from error

    return run


def _answer_generation(lm: LanguageModel, job: Job) -> None:
    """Generate one continuation. It shares no batch."""
    assert isinstance(job.request, Generation)
    begin, tokens = time.perf_counter(), lm.token_counter.forward_tokens
    answer: Answer | NoiserError
    try:
        with model_errors(lm, "while it generates a continuation"):
            answer = lm.generate(job.request.prompt, job.request.count)
    except RunError:
        raise
    except NoiserError as error:
        answer = error
    job.seconds += time.perf_counter() - begin
    job.forward_tokens += lm.token_counter.forward_tokens - tokens
    _resume(lm, job, answer)


def _answer_forward(lm: LanguageModel, jobs: Sequence[Job]) -> None:
    """Run the requested clean runs in shared passes. If that fails, run them one by one."""
    if not jobs:
        return
    requests = [job.request for job in jobs if isinstance(job.request, ForwardRequest)]
    begin = time.perf_counter()
    try:
        with model_errors(lm, f"on a prompt of {max(len(request.prompt) for request in requests)} tokens"):
            answers = lm.forward(requests)
    except RunError:  # a server that does not answer is no prompt's fault
        raise
    except NoiserError as error:
        if len(jobs) == 1:
            jobs[0].resume(error)
        else:
            for job in jobs:
                _answer_forward(lm, [job])
        return
    seconds = time.perf_counter() - begin
    total = sum(len(request.prompt) for request in requests)
    for job, request, cleans in zip(jobs, requests, answers, strict=True):
        job.seconds += seconds * len(request.prompt) / total
        rows_ahead = len(cleans[0].ahead.values) if cleans[0].ahead else 0
        job.forward_tokens += len(request.prompt) * (1 + rows_ahead)
        job.backward_tokens += len(request.prompt) * (sum(clean.gradient is not None for clean in cleans) + rows_ahead)
        finite = all(bool(clean.logits.isfinite().all()) for clean in cleans)
        _resume(lm, job, cleans if finite else NonFiniteError(NOT_FINITE))


def _answer_perturbed(lm: LanguageModel, jobs: Sequence[Job]) -> None:
    """Run the perturbed rows of all jobs in shared batches."""
    if not jobs:
        return
    perturbed = [rows for job in jobs if isinstance(job.request, list) for rows in job.request]
    begin = time.perf_counter()
    longest = max((len(rows.clean.prompt) for rows in perturbed), default=0)
    try:
        with model_errors(lm, f"on perturbed rows of a prompt of {longest} tokens"):
            readouts = lm.run_perturbed(perturbed)
    except RunError:
        raise
    except NoiserError as error:  # the model, or a user's function, fails for one prompt
        if len(jobs) == 1:
            jobs[0].resume(error)
        else:
            for job in jobs:
                _answer_perturbed(lm, [job])
        return
    seconds = time.perf_counter() - begin
    total = sum(readout.forward_tokens + readout.backward_tokens for readout in readouts)
    remaining = iter(readouts)
    for job in jobs:
        assert isinstance(job.request, list)
        answer = list(islice(remaining, len(job.request)))
        forward, backward = sum(readout.forward_tokens for readout in answer), sum(readout.backward_tokens for readout in answer)
        job.seconds += seconds * (forward + backward) / max(1, total)
        job.forward_tokens += forward
        job.backward_tokens += backward
        _resume(lm, job, _fault(answer) or answer)


def _answer_external(lm: LanguageModel, jobs: Sequence[Job]) -> None:
    """Resolve the requests of each source in one call, so that a judge can work on all of them at the same time.

    Raises RunError if the source cannot be used at all: that is no single job's fault.
    """
    pending = [(job, job.request) for job in jobs if isinstance(job.request, ExternalRequest)]
    for source in {id(request.source): request.source for _, request in pending}.values():
        of_source = [(job, request) for job, request in pending if request.source is source]
        items = [item for _, request in of_source for item in request.items]
        begin = time.perf_counter()
        answers = iter(of_source[0][1].with_items(items).resolve())
        seconds = time.perf_counter() - begin
        for job, request in of_source:
            job.seconds += seconds * len(request.items) / max(1, len(items))
            _resume(lm, job, list(islice(answers, len(request.items))))


def _resume(lm: LanguageModel, job: Job, answer: Answer | NoiserError) -> None:
    """Resume the job. Tokens that its method sends through the model by itself are added to the job's cost."""
    forward, backward = lm.token_counter.forward_tokens, lm.token_counter.backward_tokens
    job.resume(answer)
    job.forward_tokens += lm.token_counter.forward_tokens - forward
    job.backward_tokens += lm.token_counter.backward_tokens - backward


def _invalid_request(request: Any) -> str:
    """The fault of a request, which may come from another package's method or metric. Empty if it is valid."""
    if isinstance(request, ForwardRequest | Generation | ExternalRequest):
        return ""
    if not isinstance(request, list) or not all(isinstance(rows, PerturbedRows) for rows in request):
        return f"a request to the engine is a list of PerturbedRows; got {type(request).__name__}"
    for rows in request:
        start, seq = rows.perturbation.start, len(rows.clean.prompt)
        if start < 0 or start + rows.perturbation.span > seq:
            return f"a perturbation reaches beyond the {seq} tokens of its sequence"
    return ""


def _fault(readouts: Sequence[Readout]) -> NoiserError | None:
    faults = {readout.fault for readout in readouts}
    if "oom" in faults:
        return DeviceMemoryError(TOO_LARGE)
    if "nonfinite" in faults:
        return NonFiniteError(NOT_FINITE)
    return None
