"""Several generators that ask the engine, run as one, so that their rows share batches."""

from collections.abc import Sequence
from itertools import islice
from typing import Any, TypeVar, cast

from noiser.lm.asking import Asking, Request
from noiser.lm.probe import Probe, Reading

R = TypeVar("R")


def together(parts: Sequence[Asking[R]]) -> Asking[list[R]]:
    """Run every part to its end, the probes of all of them in one request; the results in the order of the parts."""
    results: dict[int, R] = {}
    waiting: dict[int, Request] = {}

    def advance(number: int, answer: Any) -> None:
        try:
            waiting[number] = parts[number].send(answer)
        except StopIteration as end:
            waiting.pop(number, None)
            results[number] = end.value

    for number in range(len(parts)):
        advance(number, None)
    while waiting:
        alone = next((number for number, request in waiting.items() if not isinstance(request, list)), None)
        if alone is not None:
            advance(alone, (yield waiting[alone]))
            continue
        requests = cast(dict[int, list[Probe]], dict(waiting))
        readings = iter(cast(list[Reading], (yield [probe for request in requests.values() for probe in request])))
        for number, request in requests.items():
            advance(number, list(islice(readings, len(request))))
    return [results[number] for number in range(len(parts))]
