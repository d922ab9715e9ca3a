"""What an attribution costs, counted before its rows run: the method runs on made-up readouts."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from inspect import isgeneratorfunction, unwrap
from typing import Any, Literal

import torch

import noiser.methods
from noiser.attribution.explain import as_question
from noiser.errors import NoiserError, OptionError
from noiser.lm.devices import held_bytes
from noiser.lm.following import TokensLike
from noiser.lm.forward import layout_of
from noiser.lm.model import LanguageModel, check_language_model
from noiser.lm.perturbation import PerturbedRows, Readout
from noiser.lm.requests import Ended, Request, Steps, ask, next_request
from noiser.lm.scheduler import isolate_errors, model_errors, run_one
from noiser.lm.target import Objective, Question, ResolvedTarget, check_token_ids, resolve_target
from noiser.lm.tokenizer import Source
from noiser.registry import MethodSpec
from noiser.results.attribution import Cost
from noiser.rng import generator

Flips = Literal["none", "all", "random"]
"""Which made-up readouts flip the model's prediction."""
SAMPLE_TOKENS = 1024
"""Token-forwards of the rows that run for real, to measure how fast the model is."""


@dataclass(frozen=True)
class CostEstimate:
    """What one attribution takes."""

    tokens: int
    """Tokens of the prompt, with an explained continuation."""
    rows: int
    forward_tokens: int
    backward_tokens: int
    exact: bool
    """Whether the counts are exact. If not, the method decides by what it measures, as a search does, and nearly always takes more."""
    seconds: float
    """The forward and backward tokens, at the rate that a sample of the rows had on this machine."""
    peak_bytes: int
    """About the highest memory use: what the process holds after the clean run, and the largest batch of rows."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def estimate(
    lm: LanguageModel,
    prompt: Source,
    method: str | MethodSpec = "noiser",
    target: TokensLike | Callable[..., Any] | Question | None = None,
    *,
    foil: TokensLike | None = None,
    continuation: TokensLike | None = None,
    generate: int | None = None,
    span: tuple[int, int] | None = None,
    quantity: str | None = None,
    explain: str | None = None,
    **options: Any,
) -> CostEstimate:
    """What `attribute` with the same arguments would take: rows, token-forwards, seconds.

    The prompt runs once unperturbed, and about SAMPLE_TOKENS tokens of the first rows run to measure the rate. All other rows are
    counted only. A method that searches, or draws until it is precise enough, is counted as if no perturbation changed anything:
    nearly always that is the least that it takes, and `exact` is False.

    Raises what `attribute` raises before its rows run, and OptionError for a method that runs the model by itself (`inseq:...`).
    """
    check_language_model(lm)
    label = method.label if isinstance(method, MethodSpec) else method
    if label.startswith("inseq:"):
        raise OptionError(f"{label} runs inside Inseq, which does not say what it will run: there is no estimate")
    spec = noiser.methods.parse(method, options)
    lm.check_method(spec.method)
    question = as_question(target, foil, continuation, generate, span, quantity, explain)
    check_token_ids(lm.tokens, question)
    resolved, clean = resolve_clean(lm, prompt, spec, question)
    counts, held = count_rows(lm, spec, resolved), held_bytes(lm.devices)
    return CostEstimate(
        tokens=len(resolved[-1][0].prompt),
        rows=counts.rows,
        forward_tokens=clean.forward_tokens + counts.forward_tokens,
        backward_tokens=clean.backward_tokens + counts.backward_tokens,
        exact=is_exact(lm, spec, resolved, counts),
        seconds=clean.seconds + (counts.forward_tokens + counts.backward_tokens) * seconds_per_token(lm, counts.first),
        peak_bytes=held + counts.batch_bytes,
    )


def count_tokens(lm: LanguageModel, prompt: Source, spec: MethodSpec, question: Question) -> int:
    """The least token-forwards of an attribution; 0 if they cannot be counted. Nothing but the clean run takes place."""
    if spec.name.startswith("inseq:"):
        return 0
    resolved, _ = resolve_clean(lm, prompt, spec, question)
    return count_rows(lm, spec, resolved).forward_tokens


def resolve_clean(lm: LanguageModel, prompt: Source, spec: MethodSpec, question: Question) -> tuple[list[ResolvedTarget], Cost]:
    """The clean runs that the question needs, and their cost."""
    return run_one(lm, resolve_target(lm.tokens, lm.prompt(prompt), question, spec.method.requires))


@dataclass
class RowCounts:
    """Rows that were requested and not run."""

    rows: int = 0
    forward_tokens: int = 0
    backward_tokens: int = 0
    batch_bytes: int = 0
    """About what the largest batch takes."""
    first: list[PerturbedRows] = field(default_factory=list)
    """The first rows that were requested."""

    def add(self, lm: LanguageModel, requested: list[PerturbedRows]) -> None:
        """Count a request."""
        self.first = self.first or requested
        self.batch_bytes = max(self.batch_bytes, lm.batch_bytes(requested))
        for rows in requested:
            tokens = tokens_of(rows)
            self.rows += rows.rows
            self.forward_tokens += tokens
            self.backward_tokens += tokens if rows.weights is not None else 0


def tokens_of(rows: PerturbedRows) -> int:
    """The tokens that go forward for these rows."""
    return layout_of(rows).tokens(rows) * rows.rows


def is_exact(lm: LanguageModel, spec: MethodSpec, resolved: list[ResolvedTarget], counts: RowCounts) -> bool:
    """Whether the rows do not depend on what the method measures: they are those of `counts`, where nothing flips, if every prediction
    flips, and if each flips at random."""
    others = (count_rows(lm, spec, resolved, flips) for flips in ("all", "random"))
    return all((counts.rows, counts.forward_tokens) == (other.rows, other.forward_tokens) for other in others)


def count_rows(
    lm: LanguageModel, spec: MethodSpec, resolved: list[ResolvedTarget], flips: Flips = "none", most: float = math.inf
) -> RowCounts:
    """Count the rows of the method on every target, with made-up readouts. Unless nothing flips, each is another random one.

    Counting ends with the request that takes more than `most` token-forwards: on a long prompt the method's own work with the readouts,
    such as a regression, takes long.
    """
    counts = RowCounts()
    random = generator(0, (), "estimate")
    for clean, objective in resolved:
        if not isgeneratorfunction(unwrap(spec.method.function)):
            continue  # it reads its scores off the clean run
        readouts = _constant(objective) if flips == "none" else _varied(random, flips)
        steps = isolate_errors(spec.method.function)(lm, clean, objective, **spec.options)
        with suppress(NoiserError):  # made-up scores may have no sum, for example
            request = next_request(steps)
            while not isinstance(request, Ended):
                if isinstance(request, list):
                    counts.add(lm, request)
                    if counts.forward_tokens > most:
                        steps.close()
                        return counts
                    request = next_request(steps, [readouts(rows) for rows in request])
                else:
                    request = next_request(steps, run_one(lm, _request(request))[0])
    return counts


@contextmanager
def rows_counted(lm: LanguageModel) -> Iterator[None]:
    """Inside the block the model's perturbed rows are counted and not run: their readouts are made up, and nothing flips."""
    random = generator(0, (), "estimate")
    vars(lm)["run_perturbed"] = lambda perturbed: [_made_up(rows, random) for rows in perturbed]
    try:
        yield
    finally:
        del vars(lm)["run_perturbed"]


def _made_up(rows: PerturbedRows, random: Any) -> Readout:
    """Numbers as a model might give them, and the tokens that these rows take."""
    values, tokens = (0.4 + 0.1 * random.random(rows.draws)).tolist(), tokens_of(rows)
    backward = tokens if rows.weights is not None else 0
    anchor = 0.6 if rows.anchor else None
    return Readout(
        tuple(values), anchor, base=0.6, rival=0.2, forward_tokens=tokens, backward_tokens=backward, **_no_gradients(rows, random)
    )


def _request(request: Request) -> Steps[Any]:
    return (yield request)


def _constant(objective: Objective) -> Callable[[PerturbedRows], Readout]:
    """Readouts as if no perturbation changed anything."""
    value = objective.value
    return lambda rows: Readout((value,) * rows.draws, value, base=1.0, rival=0.0, **_no_gradients(rows))


def _varied(random: Any, flips: Flips) -> Callable[[PerturbedRows], Readout]:
    def readout(rows: PerturbedRows) -> Readout:
        values = tuple(random.random(rows.draws).tolist())
        base = 0.0 if flips == "all" else float(random.random())
        return Readout(values, float(random.random()), base=base, rival=1.0 - base, **_no_gradients(rows))

    return readout


def _no_gradients(rows: PerturbedRows, random: Any = None) -> dict[str, Any]:
    """Gradients of zeros, or with `random` each one number."""
    if rows.weights is None:
        return {}
    number = torch.tensor(0.0 if random is None else float(random.random()))
    zeros = number.expand(rows.rows, rows.perturbation.span, rows.clean.embeds.shape[1])
    return {"gradient": zeros[0], **({"row_gradients": zeros} if rows.row_gradients else {})}


def seconds_per_token(lm: LanguageModel, requested: list[PerturbedRows]) -> float:
    """Measured on some of the rows of the first request. 0 if there are none."""
    if not requested:
        return 0.0
    tokens = sum(map(tokens_of, requested))
    if len(requested) > 1:
        step = max(1, round(tokens / SAMPLE_TOKENS))
        cost = run_one(lm, ask(requested[min(step // 2, len(requested) - 1) :: step]))[1]
        return cost.seconds / (cost.forward_tokens + cost.backward_tokens)
    (rows,) = requested
    part = rows.rows if rows.model_context else max(1, min(rows.rows, rows.rows * SAMPLE_TOKENS // tokens))
    begin = time.perf_counter()
    with model_errors(lm, "on perturbed rows"):
        tokens = lm.run_some(rows, part)
    return (time.perf_counter() - begin) / tokens
