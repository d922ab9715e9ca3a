"""Many prompts at once: each is a generator that asks the engine for something and waits for the answer."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar, cast

from noiser.errors import DeviceMemoryError, ForeignError, NoiserError, NonFiniteError, TimeLimitError
from noiser.lm.devices import TOO_LARGE, peak_bytes, reset_peak
from noiser.lm.model import LanguageModel
from noiser.lm.perturbation import PerturbedRows, Readout
from noiser.lm.requests import Answer, ExternalRequest, ForwardRequest, Generation, Request, Steps
from noiser.results.attribution import Cost

MAX_CONCURRENT = 32
"""How many prompts are worked on at a time, so that their rows can share batches."""
NOT_FINITE = "the model's logits for this prompt, as it is or with its tokens disturbed, hold NaN or infinity: it is not scored"

R = TypeVar("R")


@dataclass
class Job(Generic[R]):
    """One generator under way."""

    asking: Steps[R]
    request: Request | None = None
    result: R | None = None
    error: NoiserError | None = None
    seconds: float = 0.0
    forward_tokens: int = 0
    backward_tokens: int = 0
    peak_bytes: int = 0
    limit: float | None = None
    """Seconds after which it is given up, at the next request."""

    @property
    def cost(self) -> Cost:
        """What the job took; its share of the seconds is its share of the tokens."""
        return Cost(self.seconds, self.forward_tokens, self.backward_tokens, self.peak_bytes)

    def resume(self, answer: Answer | NoiserError | None) -> None:
        """Hand over an answer, or an error to raise at the request, and take the next request or the end."""
        self.request = None
        begin = time.perf_counter()
        try:
            self.request = self.asking.throw(answer) if isinstance(answer, NoiserError) else self.asking.send(cast(Answer, answer))
        except StopIteration as end:
            self.result = end.value
        except NoiserError as error:
            self.error = error
        if self.request is not None and (fault := _unfit(self.request)):
            self.request, self.error = None, ForeignError(fault)
            self.asking.close()
        self.seconds += time.perf_counter() - begin
        if self.request is not None and self.limit is not None and self.seconds > self.limit:
            self.request, self.error = None, TimeLimitError(f"given up after {self.limit:g} s")
            self.asking.close()


def schedule(lm: LanguageModel, work: Iterable[Steps[R]], at_once: int = MAX_CONCURRENT, limit: float | None = None) -> Iterator[Job[R]]:
    """Run every generator to its end, so many of them at a time; the finished jobs come in the order given. One that takes more
    than `limit` seconds (its share of what is shared) ends with a TimeLimitError, as soon as it asks for something again."""
    reset_peak(lm.devices)
    waiting = iter(work)
    jobs: list[Job[R]] = []
    while True:
        for asking in islice(waiting, at_once - len(jobs)):
            jobs.append(Job(asking, limit=limit))
            jobs[-1].resume(None)
        if not jobs:
            return
        while jobs and jobs[0].request is None:
            jobs[0].peak_bytes = peak_bytes(lm.devices)
            yield jobs.pop(0)
        for job in jobs:
            if isinstance(job.request, Generation):
                _generate(lm, job)
        _clean_round(lm, [job for job in jobs if isinstance(job.request, ForwardRequest)])
        _probe_round(lm, [job for job in jobs if isinstance(job.request, list)])
        _external_round(lm, [job for job in jobs if isinstance(job.request, ExternalRequest)])


def _generate(lm: LanguageModel, job: Job) -> None:
    """A continuation shares no batch."""
    assert isinstance(job.request, Generation)
    begin, spent = time.perf_counter(), lm.token_counter.forward_tokens
    answer: Answer | NoiserError
    try:
        answer = lm.generate(job.request.prompt, job.request.count)
    except NoiserError as error:
        answer = error
    job.seconds += time.perf_counter() - begin
    job.forward_tokens += lm.token_counter.forward_tokens - spent
    _resume(lm, job, answer)


def _clean_round(lm: LanguageModel, jobs: Sequence[Job]) -> None:
    """The clean runs that are asked for, in shared passes; one by one where they do not fit together."""
    if not jobs:
        return
    requests = [job.request for job in jobs if isinstance(job.request, ForwardRequest)]
    begin = time.perf_counter()
    try:
        found = lm.forward(requests)
    except NoiserError as error:
        if len(jobs) == 1:
            jobs[0].resume(error)
        else:
            for job in jobs:
                _clean_round(lm, [job])
        return
    spent = time.perf_counter() - begin
    total = sum(len(request.prompt) for request in requests)
    for job, request, cleans in zip(jobs, requests, found, strict=True):
        job.seconds += spent * len(request.prompt) / total
        job.forward_tokens += len(request.prompt)
        job.backward_tokens += sum(len(request.prompt) for clean in cleans if clean.gradient is not None)
        finite = all(bool(clean.logits.isfinite().all()) for clean in cleans)
        _resume(lm, job, cleans if finite else NonFiniteError(NOT_FINITE))


def _probe_round(lm: LanguageModel, jobs: Sequence[Job]) -> None:
    """Everything that the jobs ask for, in shared batches."""
    probes = [probe for job in jobs if isinstance(job.request, list) for probe in job.request]
    begin = time.perf_counter()
    try:
        readings = lm.run_perturbed(probes)
    except NoiserError as error:  # a user's function that fails for one prompt
        if len(jobs) == 1:
            jobs[0].resume(error)
        else:
            for job in jobs:
                _probe_round(lm, [job])
        return
    spent = time.perf_counter() - begin
    total = sum(reading.forward_tokens + reading.backward_tokens for reading in readings)
    answers = iter(readings)
    for job in jobs:
        assert isinstance(job.request, list)
        answer = list(islice(answers, len(job.request)))
        forward, backward = sum(reading.forward_tokens for reading in answer), sum(reading.backward_tokens for reading in answer)
        job.seconds += spent * (forward + backward) / max(1, total)
        job.forward_tokens += forward
        job.backward_tokens += backward
        _resume(lm, job, _fault(answer) or answer)


def _external_round(lm: LanguageModel, jobs: Sequence[Job]) -> None:
    """Resolve each source's requests in one call, so that a judge can work on all of them at the same time.

    Raises RunError if the source cannot be used at all: that is no single job's fault.
    """
    pending = [(job, job.request) for job in jobs if isinstance(job.request, ExternalRequest)]
    for source in {id(request.source): request.source for _, request in pending}.values():
        own = [(job, request) for job, request in pending if request.source is source]
        items = [item for _, request in own for item in request.items]
        begin = time.perf_counter()
        answers = iter(own[0][1].with_items(items).resolve())
        spent = time.perf_counter() - begin
        for job, request in own:
            job.seconds += spent * len(request.items) / max(1, len(items))
            _resume(lm, job, list(islice(answers, len(request.items))))


def _resume(lm: LanguageModel, job: Job, answer: Answer | NoiserError) -> None:
    """Resume the job; tokens that its method sends through the model by itself are the job's."""
    forward, backward = lm.token_counter.forward_tokens, lm.token_counter.backward_tokens
    job.resume(answer)
    job.forward_tokens += lm.token_counter.forward_tokens - forward
    job.backward_tokens += lm.token_counter.backward_tokens - backward


def _unfit(request: Any) -> str:
    """What is wrong with a request, which may come from anybody's method or metric; empty where nothing is."""
    if isinstance(request, ForwardRequest | Generation | ExternalRequest):
        return ""
    if not isinstance(request, list) or not all(isinstance(each, PerturbedRows) for each in request):
        return f"the engine is asked by yielding a list of probes; got {type(request).__name__}"
    outside = [
        each for each in request if each.perturbation.start < 0 or each.perturbation.start + each.perturbation.span > len(each.clean.prompt)
    ]
    return f"an edit reaches beyond the {len(outside[0].clean.prompt)} tokens of its sequence" if outside else ""


def _fault(readings: Sequence[Readout]) -> NoiserError | None:
    faults = {reading.fault for reading in readings}
    if "oom" in faults:
        return DeviceMemoryError(TOO_LARGE)
    if "nonfinite" in faults:
        return NonFiniteError(NOT_FINITE)
    return None
