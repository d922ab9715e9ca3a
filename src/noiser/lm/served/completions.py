"""Completions of one token: what is read of a distribution, how it is asked for, and how a reply is read."""

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

WHOLE = -1
"""As `Ask.top`: all tokens."""
MOST_IDS = 128
"""The most tokens that vLLM takes by their ids in one request (MAX_LOGPROB_TOKEN_IDS)."""
NOTHING = -9999.0
"""What vLLM writes for the logarithm of 0."""
_TOKEN = "token_id:"  # noqa: S105  (how vLLM names a token by its id)


@dataclass(frozen=True)
class Ask:
    """What is read of the distribution of a next token."""

    ids: tuple[int, ...] = ()
    """Tokens whose probabilities are wanted."""
    top: int = 0
    """So many of the most probable tokens; WHOLE: all of them."""

    def parameters(self) -> dict[str, Any]:
        """The parameters of a request.

        A token that has to come is returned with its probability under the model, whether or not it is among the most probable. So one
        request reads both; of several ids beside the most probable tokens, the others may have to be asked for by themselves.
        """
        if self.top == 0 and len(self.ids) > 1:
            return {"logprobs": 1, "logprob_token_ids": list(self.ids[:MOST_IDS])}
        forced = {"allowed_token_ids": [self.ids[0]]} if self.ids and self.top != WHOLE else {}
        return {"logprobs": self.top, **forced}


@dataclass
class Distribution:
    """What is known of the distribution of a next token."""

    logprobs: dict[int, float] = field(default_factory=dict)
    """Logarithms of the probabilities of some tokens."""
    bound: float = math.inf
    """No token outside `logprobs` has a larger one."""
    whole: Float[Tensor, " vocab"] | None = None
    """All of them, if all are known."""

    def add(self, other: "Distribution") -> None:
        """Learn what another reply says about the same row."""
        self.logprobs |= other.logprobs
        self.bound = min(self.bound, other.bound)
        self.whole = self.whole if other.whole is None else other.whole

    def logprob(self, token: int) -> float | None:
        """The logarithm of a token's probability. None if it is not known."""
        return float(self.whole[token]) if self.whole is not None else self.logprobs.get(token)

    @property
    def finite(self) -> bool:
        """Whether no known number is NaN."""
        return not (any(map(math.isnan, self.logprobs.values())) or (self.whole is not None and bool(self.whole.isnan().any())))

    def logits(self, vocab: int) -> Float[Tensor, " vocab"]:
        """Logits whose softmax has the known probabilities. One of the tokens that are not known has all the rest.

        So the softmax adds up few numbers: equal shares of the rest would cost it digits.
        """
        if self.whole is not None:
            return self.whole
        known = torch.tensor(list(self.logprobs.values()), dtype=torch.float64)
        logits = torch.full((vocab,), -math.inf)
        logits[list(self.logprobs)] = known.float()
        other = next((token for token in range(len(self.logprobs) + 1) if token not in self.logprobs), vocab)
        if other < vocab:
            logits[other] = math.log(max(1.0 - float(known.exp().sum()), 1e-30))
        return logits


def encode(model: str, ask: Ask, rows: Sequence[Float[Tensor, "_ dim"]]) -> bytes:
    """The body of a request for the next token of each row."""
    return json.dumps({"prompt_embeds": [_base64(row) for row in rows], **parameters(model, ask)}).encode()


def parameters(model: str, ask: Ask) -> dict[str, Any]:
    """What a request says besides its rows. Nothing is left to the server's defaults, which a model may bring with it."""
    plain = {"temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
    return {"model": model, "max_tokens": 1, "return_tokens_as_token_ids": True, **plain, **ask.parameters()}


def _base64(row: Tensor) -> str:
    content = io.BytesIO()
    torch.save(row.contiguous().clone(), content)  # a view would take all that it is a view of along
    return base64.b64encode(content.getvalue()).decode()


class MalformedError(Exception):
    """A reply that is not what was asked for. The text says why."""


def decode(body: bytes, ask: Ask, rows: int, vocab: int) -> list[Distribution]:
    """The distributions in a reply, one for each row. Raises MalformedError for anything else."""
    try:
        choices = sorted(json.loads(body)["choices"], key=lambda choice: choice["index"])
        if [choice["index"] for choice in choices] != list(range(rows)):
            raise MalformedError(f"it holds {len(choices)} completions of {rows} rows")
        return [_read(choice["logprobs"]["top_logprobs"][0], ask, vocab) for choice in choices]
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise MalformedError(f"it is no completion with log-probabilities by token ids ({type(error).__name__})") from error


def _read(top: dict[str, float], ask: Ask, vocab: int) -> Distribution:
    logprobs = {int(token.removeprefix(_TOKEN)): float(value) for token, value in top.items()}
    if not all(0 <= token < vocab for token in logprobs):
        raise MalformedError(f"it has token {max(logprobs)}, and the table has {vocab}")
    logprobs = {token: -math.inf if value <= NOTHING else value for token, value in logprobs.items()}  # NaN stays
    missing = set(_certain(ask)) - set(logprobs)
    if missing or len(logprobs) < (vocab if ask.top == WHOLE else min(ask.top, vocab)):
        raise MalformedError(f"it lacks tokens that were asked for: {len(logprobs)} came")
    if ask.top == WHOLE:
        whole = torch.empty(vocab)
        whole[torch.tensor(list(logprobs))] = torch.tensor(list(logprobs.values()))
        return Distribution(whole=whole, bound=-math.inf)
    bound = sorted(logprobs.values(), reverse=True)[ask.top - 1] if ask.top else math.inf
    return Distribution(logprobs, bound)


def _certain(ask: Ask) -> Sequence[int]:
    """The ids that a reply has to hold."""
    return ask.ids[:1] if ask.top else ask.ids[:MOST_IDS]
