"""Several generators that ask the engine, run as one, so that their rows share batches and nothing runs twice."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Literal, TypeVar, cast

from torch import Tensor

from noiser.lm.attention import AttentionReducer
from noiser.lm.kv_cache import CleanRun
from noiser.lm.perturbation import PerturbedRows, Readout
from noiser.text.prompt import Prompt

R = TypeVar("R")
Requires = Literal["margin", "objective"] | AttentionReducer | None
"""What a method has its clean runs take along: the gradient of the top-two margin, or of what is explained; or their
attention weights, folded."""
Slopes = Callable[[Tensor], Mapping[int, Tensor]]
"""From the logits at the ends [ends, vocab] to scalars whose gradients are wanted, each named by the end that it is kept with."""


@dataclass(frozen=True)
class ForwardRequest:
    """A sequence run unperturbed, once. Answered by a Clean for its beginning up to each of the ends."""

    prompt: Prompt
    ends: tuple[int, ...]
    """Positions, ascending; the last of the sequence among them."""
    slopes: Slopes | None = None
    """What gradients to take along with it."""
    fold: AttentionReducer | None = None
    """What to make of its attention weights."""


@dataclass(frozen=True)
class Generation:
    """The model's own continuation, greedy. Answered by its token ids, `count` at most."""

    prompt: Prompt
    count: int


class ExternalRequest(ABC):
    """A request that something other than the model answers: a judge, for example."""

    @property
    @abstractmethod
    def source(self) -> object:
        """Who answers. Requests with the same source are resolved in one call."""

    @property
    @abstractmethod
    def items(self) -> Sequence[Any]:
        """What is asked. The answer is a list with one entry for each item."""

    @abstractmethod
    def with_items(self, items: Sequence[Any]) -> "ExternalRequest":
        """The same request for other items."""

    @abstractmethod
    def resolve(self) -> list[Any]:
        """The answer to each item, in their order."""


Request = ForwardRequest | Generation | ExternalRequest | list[PerturbedRows]
Answer = list[CleanRun] | tuple[int, ...] | list[Readout] | list[Any]
Steps = Generator[Request, Answer, R]


def ask(probes: list[PerturbedRows]) -> Steps[list[Readout]]:
    """Send probes, receive readings."""
    readings = yield probes
    return cast(list[Readout], readings)


def gather(parts: Sequence[Steps[R]]) -> Steps[list[R]]:
    """Run several generators as one, so that their rows share batches. Returns their results, in the order of `parts`.

    All probes that the parts wait for become one request. Requests to a judge wait until no part needs the model, so that
    one call holds as many items as possible.
    """
    results: dict[int, R] = {}
    waiting: dict[int, Request] = {}

    def advance(part: int, answer: Any) -> None:
        request = next_request(parts[part], answer)
        if isinstance(request, Ended):
            waiting.pop(part, None)
            results[part] = request.result
        else:
            waiting[part] = request

    for part in range(len(parts)):
        advance(part, None)
    while waiting:
        single = next((part for part, request in waiting.items() if not isinstance(request, list | ExternalRequest)), None)
        if single is not None:
            advance(single, (yield waiting[single]))
            continue
        requests = {part: request for part, request in waiting.items() if isinstance(request, list)} or _of_one_source(waiting)
        answers = iter(cast(list[Any], (yield _joined(list(requests.values())))))
        for part, request in requests.items():
            advance(part, list(islice(answers, len(_items(request)))))
    return [results[part] for part in range(len(parts))]


def _of_one_source(waiting: Mapping[int, Request]) -> dict[int, Request]:
    external = {part: request for part, request in waiting.items() if isinstance(request, ExternalRequest)}
    source = next(iter(external.values())).source
    return {part: request for part, request in external.items() if request.source is source}


def _items(request: Request) -> Sequence[Any]:
    assert isinstance(request, list | ExternalRequest)
    return request.items if isinstance(request, ExternalRequest) else request


def _joined(requests: Sequence[Request]) -> Request:
    items = [item for request in requests for item in _items(request)]
    return requests[0].with_items(items) if isinstance(requests[0], ExternalRequest) else items


def deduplicate(asking: Steps[R]) -> Steps[R]:
    """The same, with every probe (this edit of this sequence, read this way) run only the first time that it is asked for."""
    known: dict[tuple[Any, ...], tuple[PerturbedRows, Readout]] = {}
    request = next_request(asking)
    while not isinstance(request, Ended):
        if isinstance(request, list):
            fresh = {_key(probe): probe for probe in request if _key(probe) not in known}
            readings = cast(list[Readout], (yield list(fresh.values()))) if fresh else []
            known |= {key: (probe, reading) for (key, probe), reading in zip(fresh.items(), readings, strict=True)}
            request = next_request(asking, [known[_key(probe)][1] for probe in request])
        else:
            request = next_request(asking, (yield request))
    return request.result


CleanRunCache = dict[tuple[Any, ...], Any]
"""One prompt's clean runs and continuation, by what was asked for."""


def cached(asking: Steps[R], cleans: CleanRunCache | None, requires: Requires) -> Steps[R]:
    """The same, with every clean run (of these tokens, read at these ends, with this taken along) and the continuation taken
    from `cleans` where they are there already, and put there where not. None: nothing is shared.

    Meant for `resolve_target`, whose slopes are the same for every method that takes the same along.
    """
    request = next_request(asking)
    while not isinstance(request, Ended):
        answer: Any
        if cleans is None or isinstance(request, list):
            answer = yield request
        else:
            key = _asked(request, requires)
            if key not in cleans:
                cleans[key] = yield request
            answer = cleans[key]
        request = next_request(asking, answer)
    return request.result


def _asked(request: ForwardRequest | Generation, requires: Requires) -> tuple[Any, ...]:
    if isinstance(request, Generation):
        return request.prompt.input_ids, request.count
    taken = requires if request.slopes is not None or request.fold is not None else None
    return request.prompt.input_ids, request.ends, taken


@dataclass(frozen=True)
class Ended(Generic[R]):
    """A generator's end."""

    result: R


def next_request(asking: Steps[R], answer: Any = None) -> Any:
    """What a generator asks for next, once it has that answer; or its Ended. A foreign one may ask for anything: see `Job.resume`."""
    try:
        return asking.send(answer)
    except StopIteration as end:
        return Ended(end.value)


def _key(probe: PerturbedRows) -> tuple[Any, ...]:
    """What tells probes apart: they hold what they are made of, so identities last as long as they do."""
    parts = (id(probe.clean), id(probe.perturbation), id(probe.logit_fn), id(probe.within))
    return *parts, probe.base, probe.anchor, probe.weights
