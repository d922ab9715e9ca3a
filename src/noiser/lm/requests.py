"""What a generator may request from the engine, and helpers that combine generators so that nothing runs twice.

A method is a generator: it yields requests and receives answers. So its rows can share batches with those of other prompts.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Generic, Literal, TypeVar, cast

from jaxtyping import Float
from torch import Tensor

from noiser.lm.ahead import RowsAhead
from noiser.lm.attention import AttentionReducer
from noiser.lm.kv_cache import CleanRun, KeysValues, LayoutName, RowGradients
from noiser.lm.perturbation import PerturbedRows, Readout
from noiser.text.prompt import Prompt

R = TypeVar("R")
Requires = Literal["margin", "objective"] | AttentionReducer | RowsAhead | None
"""What a method needs from the clean runs: the gradient of the top-two margin, the gradient of the explained quantity,
attention weights reduced by this function, or rows that may go through the model with a clean run."""
ScalarsOfLogits = Callable[[Tensor], Mapping[int, Tensor]]
"""From the logits at the ends [ends, vocab] to scalars. The key is the index of the end whose clean run keeps the gradient."""


@dataclass(frozen=True)
class ForwardRequest:
    """Run a sequence once, unperturbed. The answer is a list of clean runs, one truncated after each end."""

    prompt: Prompt
    ends: tuple[int, ...]
    """Positions, ascending. The last position of the sequence is the last of them."""
    scalars: ScalarsOfLogits | None = None
    """What to take gradients of."""
    attention_reducer: AttentionReducer | None = None
    ahead: RowsAhead | None = None
    """Rows that share the pass of the clean run, if no other prompt does and the memory allows it."""
    separate: bool = False
    """Whether each end closes a prompt of its own. Otherwise all ends are read from one sequence, whatever its length does."""

    def split(self, length_class: Callable[[int], int]) -> list["ForwardRequest"]:
        """Requests whose prompts have the same class up to each end. `length_class` maps a number of tokens to its class."""
        if not self.separate or len({length_class(end + 1) for end in self.ends}) == 1:
            return [self]
        return [
            replace(self, prompt=self.prompt.cropped(end + 1), ends=(end,), scalars=self._scalars_at(index))
            for index, end in enumerate(self.ends)
        ]

    def _scalars_at(self, index: int) -> ScalarsOfLogits | None:
        """The scalar of one end, from the logits at this end alone [1, vocab]."""
        scalars = self.scalars
        return None if scalars is None else lambda logits: {0: scalars(logits.expand(len(self.ends), -1))[index]}


@dataclass(frozen=True, eq=False)
class ForwardResult:
    """What the model returned for one request. Clean runs are made of it once the layout is known."""

    request: ForwardRequest
    embeds: Float[Tensor, "seq dim"]
    logits: Float[Tensor, "ends vocab"]
    layers: tuple[KeysValues, ...]
    gradients: Mapping[int, Tensor]
    """By the index of the end that each belongs to."""
    attention: Tensor | None
    choose_layout: Callable[[int], LayoutName]
    length_class: Callable[[int], int]
    ahead: RowGradients | None = None

    def clean_run(self) -> CleanRun:
        """The clean run of the whole sequence."""
        last = len(self.request.ends) - 1
        return CleanRun(
            self.request.prompt,
            self.embeds,
            self.logits[last],
            self.layers,
            self.gradients.get(last),
            self.attention,
            self.ahead,
            choose_layout=self.choose_layout,
            length_class=self.length_class,
        )

    def clean_runs(self) -> list[CleanRun]:
        """The clean run up to each end, the whole sequence last."""
        whole = self.clean_run()
        ends = enumerate(self.request.ends[:-1])
        return [*(whole.truncated(end + 1, self.logits[index], self.gradients.get(index)) for index, end in ends), whole]


@dataclass(frozen=True)
class Generation:
    """Generate a greedy continuation of at most `count` tokens. The answer is its token ids."""

    prompt: Prompt
    count: int


class ExternalRequest(ABC):
    """A request that something other than the model answers: a judge, for example."""

    @property
    @abstractmethod
    def source(self) -> object:
        """What answers. Requests with the same source are resolved in one call."""

    @property
    @abstractmethod
    def items(self) -> Sequence[Any]:
        """The questions. The answer is a list with one entry for each item."""

    @abstractmethod
    def with_items(self, items: Sequence[Any]) -> "ExternalRequest":
        """The same request for other items."""

    @abstractmethod
    def resolve(self) -> list[Any]:
        """The answer to each item, in the order of the items."""


Request = ForwardRequest | Generation | ExternalRequest | list[PerturbedRows]
Answer = list[CleanRun] | tuple[int, ...] | list[Readout] | list[Any]
Steps = Generator[Request, Answer, R]
"""A computation that yields requests, receives their answers and returns R."""


def ask(perturbed: list[PerturbedRows]) -> Steps[list[Readout]]:
    """Request perturbed rows and return their readouts."""
    readouts = yield perturbed
    return cast(list[Readout], readouts)


@dataclass(frozen=True)
class Ended(Generic[R]):
    """The end of a generator, with its result."""

    result: R


def next_request(steps: Steps[R], answer: Any = None) -> Any:
    """Send an answer to a generator. Returns its next request, or `Ended`.

    A generator from another package may yield anything; `Job.resume` checks it.
    """
    try:
        return steps.send(answer)
    except StopIteration as end:
        return Ended(end.value)


def gather(parts: Sequence[Steps[R]]) -> Steps[list[R]]:
    """Run several generators as one, so that their rows share batches. Returns their results, in the order of `parts`.

    All perturbed rows that the parts wait for become one request. Requests to a judge wait until no part needs the model,
    so that one call holds as many items as possible.
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


def deduplicate(steps: Steps[R]) -> Steps[R]:
    """The same computation, but equal perturbed rows run only once: later requests get the first readout."""
    known: dict[tuple[Any, ...], tuple[PerturbedRows, Readout]] = {}
    request = next_request(steps)
    while not isinstance(request, Ended):
        if isinstance(request, list):
            fresh = {_rows_key(rows): rows for rows in request if _rows_key(rows) not in known}
            readouts = cast(list[Readout], (yield list(fresh.values()))) if fresh else []
            known |= {key: (rows, readout) for (key, rows), readout in zip(fresh.items(), readouts, strict=True)}
            request = next_request(steps, [known[_rows_key(rows)][1] for rows in request])
        else:
            request = next_request(steps, (yield request))
    return request.result


def _rows_key(rows: PerturbedRows) -> tuple[Any, ...]:
    """Equal for equal rows. The rows hold their parts, so the ids stay valid as long as the rows are kept."""
    parts = (id(rows.clean), id(rows.perturbation), id(rows.logit_fn), id(rows.model_context))
    return *parts, rows.base, rows.anchor, rows.weights, rows.row_gradients


CleanRunCache = dict[tuple[Any, ...], Any]
"""The clean runs and continuations of one prompt, by request."""


def cached(steps: Steps[R], clean_runs: CleanRunCache | None, requires: Requires) -> Steps[R]:
    """The same computation, but clean runs and continuations are taken from `clean_runs`, and stored there if missing.

    With `clean_runs=None` nothing is shared. It is meant for `resolve_target`, which takes the same gradients for every
    method with the same `requires`.
    """
    request = next_request(steps)
    while not isinstance(request, Ended):
        answer: Any
        if clean_runs is None or isinstance(request, list):
            answer = yield request
        else:
            key = _request_key(request, requires)
            if key not in clean_runs:
                clean_runs[key] = yield request
            answer = clean_runs[key]
        request = next_request(steps, answer)
    return request.result


def _request_key(request: ForwardRequest | Generation, requires: Requires) -> tuple[Any, ...]:
    if isinstance(request, Generation):
        return request.prompt.input_ids, request.count
    needs_more = request.scalars is not None or request.attention_reducer is not None
    return request.prompt.input_ids, request.ends, requires if needs_more else None
