"""Which rows of a data set does a model answer? Only those are worth explaining."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import cast

from noiser.data import MATCHES, Match, Row
from noiser.errors import DeviceMemoryError, NoiserError, NonFiniteError, OptionError, PromptError
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.requests import ForwardRequest, Steps
from noiser.lm.scheduler import schedule
from noiser.text.prompt import Prompt

OTHERWISE = "said otherwise"
NO_TARGET = "no target"
NONFINITE = "nonfinite"
OOM = "oom"


@dataclass(frozen=True)
class Screened:
    """What a model makes of a row."""

    row: Row
    answered: bool
    said: str
    """Its next token, or the tokens that were compared with the target; empty where it said nothing."""
    prob: float
    """Of what it said, in [0, 1]: the product over the tokens; 0 where it said nothing."""
    target_ids: tuple[int, ...] | None
    """The tokens to explain; None where it did not answer, or where the row names no target: then the model's own."""
    reason: str
    """Why it did not answer: `said otherwise`, `no target`, `nonfinite`, `oom`, or what is wrong with the prompt. Empty where it
    did."""


Said = tuple[tuple[int, ...], float]
"""Tokens, and how probable they are together."""


def screen(
    lm: LanguageModel,
    rows: Iterable[Row],
    match: str,
    limit: int | None = None,
    on_row: Callable[[Screened], None] | None = None,
) -> Iterator[Screened]:
    """What the model makes of each row, in their order, up to the row that is the `limit`th answered one.

    match    `token`: a row is answered where the most probable next token, without the spaces around it, is the target;
             among equals the lowest id counts. `word`: where the most probable next tokens one after the other, as many as
             the target has when written with a leading space, are. `none`: every row is that the model can read.
    limit    how many answered rows are wanted; None: all there are.
    on_row   called with each row's result.

    Rows share forward passes, which changes no result beyond rounding. A row that the model cannot take is not answered, and
    `reason` says why. Raises OptionError for a rule or limit that does not exist, at once.
    """
    if match not in MATCHES:
        raise OptionError(f"match must be one of {', '.join(MATCHES)}; got {match!r}")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise OptionError(f"limit is a whole number from 1 on; got {limit!r}")
    return _screened(lm, list(rows), cast(Match, match), limit, on_row)


def _screened(
    lm: LanguageModel, rows: list[Row], match: Match, limit: int | None, on_row: Callable[[Screened], None] | None
) -> Iterator[Screened]:
    answered = 0
    for row, job in zip(rows, schedule(lm, (_asking(lm, row, match) for row in rows)), strict=True):
        found = job.result or Screened(row, False, "", 0.0, None, _reason(job.error))
        answered += found.answered
        if on_row is not None:
            on_row(found)
        yield found
        if answered == limit:
            return


def _reason(error: NoiserError | None) -> str:
    """A status of the row alone. Raises what is wrong with the model itself."""
    if isinstance(error, NonFiniteError):
        return NONFINITE
    if isinstance(error, DeviceMemoryError):
        return OOM
    if isinstance(error, PromptError):
        return str(error)
    assert error is not None
    raise error


def _asking(lm: LanguageModel, row: Row, match: Match) -> Steps[Screened]:
    if row.error:
        raise PromptError(row.error)
    prompt = lm.prompt(row.prompt)
    target = (row.target or "").strip()
    own = lm.tokens.ids(f" {target}") if target and match != "token" else ()
    ids, prob = yield from _continued(lm, prompt, len(own) if match == "word" and own else 1)
    said = lm.tokens.text(ids)
    if match == "none":
        return Screened(row, True, said, prob, own or None, "")
    if not target:
        return Screened(row, False, said, prob, None, NO_TARGET)
    if said.strip() != target:
        return Screened(row, False, said, prob, None, OTHERWISE)
    return Screened(row, True, said, prob, ids, "")


def _continued(lm: LanguageModel, prompt: Prompt, count: int) -> Steps[Said]:
    """The most probable tokens one after the other, so many, or up to the end of the model's answer."""
    ids: list[int] = []
    prob = 1.0
    while len(ids) < count and lm.tokenizer.eos_token_id not in ids:
        sequence = lm.tokens.extended(prompt, ids)
        (clean,) = cast(list[CleanRun], (yield ForwardRequest(sequence, (len(sequence) - 1,))))
        ids.append(clean.prediction)
        prob *= float(clean.probs[clean.prediction])
    return tuple(ids), prob
