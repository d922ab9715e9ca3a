"""Several generators that ask the engine, run as one, so that their rows share batches and nothing runs twice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar, cast

from noiser.lm.asking import Along, Asking, CleanRun, Consultation, Generation, Request
from noiser.lm.probe import Probe, Reading

R = TypeVar("R")


def together(parts: Sequence[Asking[R]]) -> Asking[list[R]]:
    """Run every part to its end, the probes of all of them in one request, and likewise all clues for one judge; the results in
    the order of the parts."""
    results: dict[int, R] = {}
    waiting: dict[int, Request] = {}

    def advance(number: int, answer: Any) -> None:
        request = next_request(parts[number], answer)
        if isinstance(request, Ended):
            waiting.pop(number, None)
            results[number] = request.result
        else:
            waiting[number] = request

    for number in range(len(parts)):
        advance(number, None)
    while waiting:
        alone = next((number for number, request in waiting.items() if not isinstance(request, list | Consultation)), None)
        if alone is not None:
            advance(alone, (yield waiting[alone]))
            continue
        requests = {number: request for number, request in waiting.items() if isinstance(request, list)} or _of_one_judge(waiting)
        sizes = {number: len(_items(request)) for number, request in requests.items()}
        answers = iter(cast(list[Any], (yield _joined(list(requests.values())))))
        for number, size in sizes.items():
            advance(number, list(islice(answers, size)))
    return [results[number] for number in range(len(parts))]


def _of_one_judge(waiting: Mapping[int, Request]) -> dict[int, Request]:
    """Once no more probes are wanted, so that as many clues as can be go to a judge together."""
    asked = {number: request for number, request in waiting.items() if isinstance(request, Consultation)}
    judge = next(iter(asked.values())).judge
    return {number: request for number, request in asked.items() if request.judge is judge}


def _items(request: Request) -> Sequence[Any]:
    assert isinstance(request, list | Consultation)
    return request.clues if isinstance(request, Consultation) else request


def _joined(requests: Sequence[Request]) -> Request:
    items = [item for request in requests for item in _items(request)]
    return Consultation(requests[0].judge, tuple(items)) if isinstance(requests[0], Consultation) else items


def once(asking: Asking[R]) -> Asking[R]:
    """The same, with every probe (this edit of this sequence, read this way) run only the first time that it is asked for."""
    known: dict[tuple[Any, ...], tuple[Probe, Reading]] = {}
    request = next_request(asking)
    while not isinstance(request, Ended):
        if isinstance(request, list):
            fresh = {_key(probe): probe for probe in request if _key(probe) not in known}
            readings = cast(list[Reading], (yield list(fresh.values()))) if fresh else []
            known |= {key: (probe, reading) for (key, probe), reading in zip(fresh.items(), readings, strict=True)}
            request = next_request(asking, [known[_key(probe)][1] for probe in request])
        else:
            request = next_request(asking, (yield request))
    return request.result


Cleans = dict[tuple[Any, ...], Any]
"""One prompt's clean runs and continuation, by what was asked for."""


def sharing(asking: Asking[R], cleans: Cleans | None, along: Along) -> Asking[R]:
    """The same, with every clean run (of these tokens, read at these ends, with this taken along) and the continuation taken
    from `cleans` where they are there already, and put there where not. None: nothing is shared.

    Meant for `pose`, whose slopes are the same for every method that takes the same along.
    """
    request = next_request(asking)
    while not isinstance(request, Ended):
        answer: Any
        if cleans is None or isinstance(request, list):
            answer = yield request
        else:
            key = _asked(request, along)
            if key not in cleans:
                cleans[key] = yield request
            answer = cleans[key]
        request = next_request(asking, answer)
    return request.result


def _asked(request: CleanRun | Generation, along: Along) -> tuple[Any, ...]:
    if isinstance(request, Generation):
        return request.prompt.input_ids, request.count
    taken = along if request.slopes is not None or request.fold is not None else None
    return request.prompt.input_ids, request.ends, taken


@dataclass(frozen=True)
class Ended(Generic[R]):
    """A generator's end."""

    result: R


def next_request(asking: Asking[R], answer: Any = None) -> Any:
    """What a generator asks for next, once it has that answer; or its Ended. A foreign one may ask for anything: see `Job.resume`."""
    try:
        return asking.send(answer)
    except StopIteration as end:
        return Ended(end.value)


def _key(probe: Probe) -> tuple[Any, ...]:
    """What tells probes apart: they hold what they are made of, so identities last as long as they do."""
    parts = (id(probe.clean), id(probe.edit), id(probe.measure), id(probe.within))
    return *parts, probe.base, probe.anchor, probe.weights
