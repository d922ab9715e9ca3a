"""As many samples as a budget allows, chosen before anything is perturbed; and a computation that ends before it passes its budget."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import noiser.methods
from noiser.attribution.estimate import count_rows, resolve_clean, seconds_per_token, tokens_of
from noiser.attribution.explain import as_question
from noiser.errors import OptionError
from noiser.lm.following import TokensLike
from noiser.lm.model import LanguageModel, check_language_model
from noiser.lm.requests import Ended, ForwardRequest, Generation, Request, Steps, next_request
from noiser.lm.target import Question, check_token_ids
from noiser.lm.tokenizer import Source
from noiser.registry import MethodSpec, read_label

R = TypeVar("R")
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
FEWEST = 4
"""Samples that the smallest budget has to pay for: with fewer there are no standard errors worth the name."""
MOST = 10_000
"""No budget asks for more samples: their standard errors are a hundredth of one draw's spread."""
SHARE = 0.9
"""The share of a time that is planned. The rest is for what is not rows: Python, and a rate that was measured on few rows."""


def parse_budget(budget: int | str) -> tuple[float, bool]:
    """A number of token-forwards (50000), or of seconds (`30s`, `2m`, `1h`): the number, and whether it is a time."""
    text = str(budget).replace("_", "").replace(",", "").strip()
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([smh]?)", text, re.ASCII)
    if isinstance(budget, bool) or not match or float(match[1]) <= 0 or (not match[2] and "." in match[1]):
        raise OptionError(f"a budget is a number of token-forwards (50000) or a time (30s, 2m, 1h); got {budget!r}")
    return float(match[1]) * UNITS.get(match[2], 1.0), bool(match[2])


def fit_budget(
    lm: LanguageModel,
    prompt: Source,
    method: str | MethodSpec,
    budget: int | str,
    target: TokensLike | Callable[..., Any] | Question | None = None,
    *,
    foil: TokensLike | None = None,
    continuation: TokensLike | None = None,
    generate: int | None = None,
    span: tuple[int, int] | None = None,
    quantity: str | None = None,
    explain: str | None = None,
    **options: Any,
) -> MethodSpec:
    """The method with as many `samples` as `budget` pays for on this prompt; give it to `attribute`.

    The prompt runs once unperturbed, and all rows are only counted. A budget of token-forwards counts the clean run and all forward
    rows; it is kept exactly by a method that does not search. With a search (`bound=k_min`) the rows of the search come on top. A time is
    turned into token-forwards by the rate that about a thousand tokens of rows have at this moment.

    Raises OptionError for a method that draws no samples, and for a budget that does not pay for FEWEST.
    """
    check_language_model(lm)
    spec = noiser.methods.parse(method, options)
    amount, is_time = parse_budget(budget)
    if "samples" not in spec.options:
        raise OptionError(f"{spec.label} draws no samples that a budget could limit; noiser attribute --dry-run says what it takes")
    question = as_question(target, foil, continuation, generate, span, quantity, explain)
    check_token_ids(lm.tokens, question)
    resolved, clean = resolve_clean(lm, prompt, spec, question)

    def tokens(samples: int) -> int:
        counts = count_rows(lm, _with_samples(spec, samples), resolved)
        return clean.forward_tokens + counts.forward_tokens

    limit = amount
    if is_time:
        counts = count_rows(lm, _with_samples(spec, FEWEST), resolved)
        rate = seconds_per_token(lm, counts.first) * (1 + counts.backward_tokens / max(1, counts.forward_tokens))
        limit = (SHARE * amount - clean.seconds) / rate if rate > 0 else math.inf
    return _with_samples(spec, _most(tokens, limit, spec, budget))


def within(steps: Steps[R], tokens: float) -> Steps[R | None]:
    """The same computation, ended before the request with which it would take more than this many token-forwards. Then it has no result."""
    request = next_request(steps)
    while not isinstance(request, Ended):
        tokens -= _request_tokens(request)
        if tokens < 0:
            steps.close()
            return None
        request = next_request(steps, (yield request))
    return request.result


def _request_tokens(request: Request) -> int:
    """The token-forwards of a request; of a judge's none."""
    if isinstance(request, list):
        return sum(map(tokens_of, request))
    if isinstance(request, Generation):
        return len(request.prompt) + request.count
    return len(request.prompt) if isinstance(request, ForwardRequest) else 0


def _most(tokens: Callable[[int], int], limit: float, spec: MethodSpec, budget: int | str) -> int:
    """The largest even number of samples whose tokens are within the limit. The tokens hardly ever fall with the samples."""
    least = tokens(FEWEST)
    if least > limit:
        raise OptionError(f"{spec.label}: {FEWEST} samples take {least:,} token-forwards here, more than the budget of {budget}")
    per_sample = max(1.0, (tokens(2 * FEWEST) - least) / FEWEST)
    guess = min(FEWEST + (limit - least) / per_sample, MOST)
    while guess > FEWEST and tokens(_even(guess)) > limit:
        guess = min(0.98 * guess, guess - 2)
    return max(FEWEST, _even(guess))


def _even(samples: float) -> int:
    return 2 * int(samples / 2)


def _with_samples(spec: MethodSpec, samples: int) -> MethodSpec:
    """The specification with another number of samples. Its label says so."""
    auto = spec.options["samples"] == "auto"  # then these two say when to stop, which the budget does now
    options = {name: value for name, value in spec.options.items() if not (auto and name in ("tolerance", "max_samples"))}
    carried = {name: value for name, value in read_label(spec.label)[1].items() if name in options} | {"samples": samples}
    label = f"{spec.name}:{'+'.join(f'{name}={value}' for name, value in carried.items())}"
    return replace(noiser.methods.parse(spec.name, options | {"samples": samples}), label=label)
