"""Requests to vLLM's server: many rows in one, several under way, each tried again until it is answered or refused."""

import json
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from noiser.errors import ModelError, ModelFailedError, RunError, require_extra
from noiser.http.connection import Connection
from noiser.http.keys import read_key
from noiser.http.retry import Failure, RetryPolicy, retry
from noiser.http.threads import results_of
from noiser.lm.served.address import KEY, Address
from noiser.lm.served.completions import Ask, Distribution, MalformedError, decode, encode, parameters

MAX_ROWS = 64
"""Rows in one request."""
MAX_TOKENS = 4096
"""Tokens in one request, unless `token_budget` says otherwise. A single row may be longer."""
WHOLE_ROWS = 8
"""Rows in one request for the whole vocabulary: each is megabytes of reply."""
MAX_BODY = 512 << 20
MAX_TRIES = 5
"""So often a row is sent that the server answers with an error of its own or with nonsense: that may be the row's fault."""
DIVIDED = ("400", "413", "422", "500")
"""Statuses that one row may cause for all rows of its request. Its halves are sent instead."""
POLICY = RetryPolicy(timeout=600.0, total_timeout=900.0)
CONNECT_TIMEOUT = 15.0
"""Seconds for which an unreachable server is tried before its first answer: it may not exist."""


@dataclass(frozen=True, eq=False)
class Row:
    """A row to be asked about. Its embeddings are made when it is sent, so that not all rows are in memory."""

    ask: Ask
    tokens: int
    embeds: Callable[[], Float[Tensor, "tokens dim"]]


class VllmClient:
    """A server of one model. The key goes to that server, and into nothing that is returned, raised or logged.

    `counts` has `requests` (each was answered, or is counted under its failure: the HTTP status, `timeout`, `connection` or `malformed`),
    `rows` (rows that were answered) and `bytes` (sent).
    """

    def __init__(
        self, address: Address, vocab: int, *, max_connections: int = 8, max_tokens: int | None = None, policy: RetryPolicy = POLICY
    ) -> None:
        """Remember where to ask; nothing is sent. Raises MissingExtraError without the HTTP client, OptionError for a bad key."""
        require_extra("served", f"the model {address.model} behind a server")
        self.address, self.vocab, self.max_connections, self.max_tokens = address, vocab, max_connections, max_tokens or MAX_TOKENS
        self.counts: Counter[str] = Counter()
        self._policy, self._key, self._answered = policy, read_key((KEY,)), False
        self._count_lock, self._connect_lock = threading.Lock(), threading.Lock()
        self._connection: Connection | None = None
        self._stopped = threading.Event()

    def answer(self, rows: Sequence[Row]) -> Generator[tuple[int, Distribution], None, None]:
        """The distribution after each row, as soon as it is there: the row's index first. Closed before its end, it sends nothing more.

        Raises ModelFailedError for a row that the server refuses, and RunError if it does not answer any more. An answer that came
        is not asked for again.
        """
        groups = list(self._groups(rows))
        self._stopped = threading.Event()
        work = results_of(lambda index: self._ask([rows[row] for row in groups[index]]), len(groups), self.max_connections, self._stopped)
        with closing(work):
            for index, outcomes in work:
                for row, outcome in zip(groups[index], outcomes, strict=True):
                    if isinstance(outcome, Failure):
                        raise self._error(outcome, rows[row].tokens)
                    yield row, outcome

    def from_ids(self, ids: Sequence[int], ask: Ask) -> Distribution:
        """The distribution after tokens that the server embeds itself. Raises as `answer` does."""
        body = json.dumps({"prompt": list(ids), **parameters(self.address.model, ask)}).encode()
        outcome = self._post_rows(body, ask, 1)
        if isinstance(outcome, Failure):
            raise self._error(outcome, len(ids))
        return outcome[0]

    def continuation(self, ids: Sequence[int], count: int, end_ids: Sequence[int]) -> tuple[int, ...]:
        """The tokens that the server generates greedily after these, an end token included. Raises as `answer` does."""
        more = {"max_tokens": count, "return_token_ids": True, "stop_token_ids": sorted(end_ids), "prompt": list(ids)}
        body = json.dumps({**parameters(self.address.model, Ask()), **more}).encode()

        def read(reply: bytes) -> Any:
            try:
                return tuple(map(int, json.loads(reply)["choices"][0]["token_ids"]))
            except (ValueError, KeyError, IndexError, TypeError):
                return Failure("malformed", "its reply holds no token ids: it is too old a vLLM", retryable=True)

        outcome = self.post("/completions", body, read)
        if isinstance(outcome, Failure):
            raise self._error(outcome, len(ids))
        return outcome

    def post(self, path: str, body: bytes | None, read: Callable[[bytes], Any]) -> Any:
        """Call the server until it answers, and return what `read` makes of the reply, or the last Failure."""
        tries: Counter[str] = Counter()

        def attempt(seconds: float) -> Any:
            outcome = self._call(path, body, read, seconds)
            if isinstance(outcome, Failure) and outcome.kind in ("500", "malformed"):
                tries[outcome.kind] += 1
                return replace(outcome, retryable=outcome.retryable and tries[outcome.kind] < MAX_TRIES)
            return outcome

        policy = self._policy if self._answered else replace(self._policy, connect_timeout=CONNECT_TIMEOUT)
        return retry(attempt, policy, self._wait)

    def close(self) -> None:
        """Close the connections. The next call opens new ones."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _groups(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """Rows that share a request: those that ask for the same, in their order."""
        by_ask: dict[Ask, list[int]] = {}
        for index, row in enumerate(rows):
            by_ask.setdefault(row.ask, []).append(index)
        for ask, indices in by_ask.items():
            group: list[int] = []
            most, tokens = (WHOLE_ROWS if ask.top < 0 else MAX_ROWS), 0
            for index in indices:
                if group and (len(group) == most or tokens + rows[index].tokens > self.max_tokens):
                    yield group
                    group, tokens = [], 0
                group.append(index)
                tokens += rows[index].tokens
            if group:
                yield group

    def _ask(self, rows: Sequence[Row]) -> Sequence[Distribution | Failure]:
        """Send rows in one request; if it is refused because of one of them, its halves."""
        ask = rows[0].ask
        body = encode(self.address.model, ask, [row.embeds() for row in rows])
        outcome = self._post_rows(body, ask, len(rows))
        if not isinstance(outcome, Failure):
            with self._count_lock:
                self.counts["rows"] += len(rows)
            return outcome
        if len(rows) > 1 and outcome.kind in DIVIDED and not _flag(outcome):
            middle = len(rows) // 2
            return [*self._ask(rows[:middle]), *self._ask(rows[middle:])]
        return [outcome] * len(rows)

    def _post_rows(self, body: bytes, ask: Ask, rows: int) -> list[Distribution] | Failure:
        def read(reply: bytes) -> list[Distribution] | Failure:
            try:
                return decode(reply, ask, rows, self.vocab)
            except MalformedError as error:
                return Failure("malformed", f"its reply cannot be used: {error}", retryable=True)

        if rows == 1:
            return self.post("/completions", body, read)
        first = self._call("/completions", body, read, self._policy.timeout)
        if not isinstance(first, Failure) or first.kind in DIVIDED:
            return first
        if first.retryable and self._wait(self._policy.wait(1, first.retry_after)):
            return first
        return self.post("/completions", body, read) if first.retryable else first

    def _call(self, path: str, body: bytes | None, read: Callable[[bytes], Any], seconds: float) -> Any:
        method = "GET" if body is None else "POST"
        with self._count_lock:
            self.counts.update({"requests": 1, "bytes": len(body or b"")})
        outcome: Any = self._connected().call(method, f"{self.address.url}{path}", body, seconds)
        outcome = outcome if isinstance(outcome, Failure) else read(outcome)
        with self._count_lock:
            if isinstance(outcome, Failure):
                self.counts[outcome.kind] += 1
        self._answered = self._answered or not isinstance(outcome, Failure)
        return outcome

    def _wait(self, seconds: float) -> bool:
        return self._stopped.wait(seconds)

    def _connected(self) -> Connection:
        with self._connect_lock:
            if self._connection is None:
                local = any(f"//{host}" in self.address.url for host in ("127.0.0.1", "localhost", "[::1]"))
                self._connection = Connection(self._key, trust_env=not local, max_body=MAX_BODY)
                weakref.finalize(self, self._connection.close)
            return self._connection

    def _error(self, failure: Failure, tokens: int) -> Exception:
        """The error for a row that has no answer."""
        name, flag = f"{self.address.model} at {self.address.url}", _flag(failure)
        if flag:
            return ModelError(f"{name} cannot be explained as it was started: {failure.message}. Start vLLM with {flag}")
        if failure.kind in ("401", "403"):
            return RunError(f"{name} {'does not accept the key' if self._key else 'wants a key'}: set {KEY} to vLLM's --api-key")
        if failure.kind == "404":
            return RunError(f"{name}: {failure.message}. Is it still the same server? The same command goes on once it is")
        if failure.kind in ("400", "413", "422", "500", "malformed"):
            return ModelFailedError(f"{name} refuses a row of {tokens} tokens: {failure.message}")
        return RunError(f"{name} does not answer: {failure.message}. Start it again; the same command then goes on")

    def models(self) -> list[dict[str, Any]]:
        """The models that the server has. Raises RunError if it does not answer, and ModelError if it has no list."""

        def read(body: bytes) -> Any:
            try:
                return [model for model in json.loads(body)["data"] if isinstance(model["id"], str)]
            except (ValueError, KeyError, TypeError):
                return Failure("malformed", "its list of models cannot be read", retryable=True)

        outcome = self.post("/models", None, read)
        if not isinstance(outcome, Failure):
            return outcome
        if outcome.kind in ("404", "malformed"):
            raise ModelError(f"there is no vLLM at {self.address.url}: {outcome.message}")
        raise self._error(outcome, 0)


FLAGS = {"--enable-prompt-embeds": "--enable-prompt-embeds", "greater than max allowed": "--max-logprobs -1"}
"""What vLLM's refusals say, and the flag that it has to be started with."""


def _flag(failure: Failure) -> str:
    """The flag that the server lacks. Empty if that is not why it refused."""
    return next((flag for text, flag in FLAGS.items() if failure.kind == "400" and text in failure.message), "")
