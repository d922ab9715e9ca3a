"""Screening: which rows of a data set does a model answer? Only those are explained."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import cast

import numpy as np

from noiser.data import MATCHES, Match, Row
from noiser.errors import DeviceMemoryError, ModelFailedError, NoiserError, NonFiniteError, OptionError, PromptError
from noiser.experiments.schema import NO_TARGET, NONFINITE, OOM, OTHER_ANSWER
from noiser.lm.following import follow, with_space
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.requests import ForwardRequest, Steps
from noiser.lm.scheduler import schedule
from noiser.text.prompt import Prompt


@dataclass(frozen=True)
class ScreenedRow:
    """A row and the model's answer."""

    row: Row
    answered: bool
    answer: str
    """The model's next token, or the tokens that were compared with the target. Empty if it gave none."""
    prob: float
    """Probability of the answer, in [0, 1]: the product over its tokens. 0 without an answer."""
    target_ids: tuple[int, ...] | None
    """The tokens to explain. None if the row is not answered or has no target: then the model's own."""
    reason: str
    """Why the row is not answered: `said otherwise`, `no target`, `nonfinite`, `oom`, or the error of the prompt. Else empty."""
    rendered: tuple[int, ...] = ()
    """The ids that a chat was rendered to. Empty for other prompts."""


def screen(
    lm: LanguageModel,
    rows: Iterable[Row],
    match: str,
    limit: int | None = None,
    on_row: Callable[[ScreenedRow], None] | None = None,
) -> Iterator[ScreenedRow]:
    """Yield each row with the model's answer, in order, up to the `limit`th answered row.

    Args:
        lm: the model.
        rows: the rows of a data set.
        match: the rule. `token`: a row is answered if the most probable next token, without the spaces around it, is the target. Of
            equally probable tokens the lowest id counts. `word`: the greedy continuation, with as many tokens as the target has
            behind this prompt, is the target (see `noiser.lm.following.follow_word`; where that puts no space, the target with a
            space counts too). `none`: every row that the model can read is answered.
        limit: how many answered rows are wanted. None: all.
        on_row: called with each result.

    Rows share forward passes, which changes results only by rounding. A row that the model cannot read is not answered; `reason`
    says why. Raises OptionError at once for an unknown rule or a wrong limit.
    """
    if match not in MATCHES:
        raise OptionError(f"match must be one of {', '.join(MATCHES)}; got {match!r}")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise OptionError(f"limit must be a whole number from 1 on; got {limit!r}")
    return _screen(lm, list(rows), cast(Match, match), limit, on_row)


def _screen(
    lm: LanguageModel, rows: list[Row], match: Match, limit: int | None, on_row: Callable[[ScreenedRow], None] | None
) -> Iterator[ScreenedRow]:
    answered = 0
    for row, job in zip(rows, schedule(lm, (_screen_any(lm, row, match) for row in rows)), strict=True):
        result = job.result or ScreenedRow(row, False, "", 0.0, None, _reason(job.error))
        answered += result.answered
        if on_row is not None:
            on_row(result)
        yield result
        if answered == limit:
            return


def _reason(error: NoiserError | None) -> str:
    """The reason for an error of one row. Raises an error that is the model's."""
    if isinstance(error, NonFiniteError):
        return NONFINITE
    if isinstance(error, DeviceMemoryError):
        return OOM
    if isinstance(error, PromptError | ModelFailedError):
        return str(error)
    assert error is not None
    raise error


def _screen_any(lm: LanguageModel, row: Row, match: Match) -> Steps[ScreenedRow]:
    """A row whose target is text, or ids: then its greedy continuation must be these ids."""
    if not row.target_ids or row.error:
        return (yield from _screen_row(lm, row, match))
    lm.tokens.ids(row.target_ids)
    count = 1 if match == "none" else len(row.target_ids)
    ids, probs = yield from _continue_greedily(lm, lm.prompt(row.prompt), count)
    answered = match == "none" or ids == row.target_ids
    reason = "" if answered else OTHER_ANSWER
    return ScreenedRow(row, answered, lm.tokens.text(ids), float(np.prod(probs)), row.target_ids if answered else None, reason)


def _screen_row(lm: LanguageModel, row: Row, match: Match) -> Steps[ScreenedRow]:
    if row.error:
        raise PromptError(row.error)
    prompt = lm.prompt(row.prompt)
    screened = yield from _screen_prompt(lm, row, prompt, match)
    return replace(screened, rendered=prompt.input_ids) if prompt.turns else screened


def _screen_prompt(lm: LanguageModel, row: Row, prompt: Prompt, match: Match) -> Steps[ScreenedRow]:
    target = (row.target or "").strip()
    readings = _readings(lm, prompt, target) if target and match != "token" else []
    count = max(map(len, readings), default=1) if match == "word" else 1
    ids, probs = yield from _continue_greedily(lm, prompt, count)
    if match == "none":
        return ScreenedRow(row, True, lm.tokens.text(ids), prod(probs), readings[0] if readings else None, "")
    if not target:
        return ScreenedRow(row, False, lm.tokens.text(ids), prod(probs), None, NO_TARGET)
    lengths = list(map(len, readings)) or [1]
    for length in lengths:
        if lm.tokens.text(ids[:length]).strip() == target:
            return ScreenedRow(row, True, lm.tokens.text(ids[:length]), prod(probs[:length]), ids[:length], "")
    first = lengths[0]
    return ScreenedRow(row, False, lm.tokens.text(ids[:first]), prod(probs[:first]), None, OTHER_ANSWER)


def _readings(lm: LanguageModel, prompt: Prompt, word: str) -> list[tuple[int, ...]]:
    """The tokens of a word that follows the prompt. Where no space is put before it, also those with a space: a model may say it so."""
    texts = dict.fromkeys([with_space(prompt, word), f" {word}"])
    return [follow(lm.tokens, prompt, text).ids for text in texts]


def _continue_greedily(lm: LanguageModel, prompt: Prompt, count: int) -> Steps[tuple[tuple[int, ...], list[float]]]:
    """The `count` most probable next tokens, one after the other, and their probabilities. Ends at the end token."""
    ids: list[int] = []
    probs: list[float] = []
    while len(ids) < count and lm.tokenizer.eos_token_id not in ids:
        sequence = lm.tokens.extended(prompt, ids)
        (clean,) = cast(list[CleanRun], (yield ForwardRequest(sequence, (len(sequence) - 1,))))
        ids.append(clean.prediction)
        probs.append(float(clean.probs[clean.prediction]))
    return tuple(ids), probs
