"""A judge on top of a backend: each question is asked once, and each reply is stored as soon as it arrives."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from noiser.errors import JudgeError, OptionError, RunError
from noiser.judges.backend import Backend, Call, Completion, Message
from noiser.judges.cache import Entry, ReplyCache
from noiser.judges.parsing import parse_reply, was_cut_while_reasoning
from noiser.judges.prompting import build_messages, reply_schema, retry_messages, token_limit
from noiser.judges.protocol import CACHE_MODES, JudgePrompt, Reply

Lookup = Callable[[Call], Entry | None]
REASONING_TOKENS = 4096
"""Tokens for the second completion of a model whose first one was cut off while it reasoned."""
if TYPE_CHECKING:
    AnyBackend = Backend
else:
    AnyBackend = object  # before Python 3.12 isinstance reads a Protocol's properties, and `structured` may call the server


@runtime_checkable
class HasCapabilities(Protocol):
    """A backend that finds out with a trial call what its server accepts."""

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """Everything that `structured` and `parameters` depend on, as plain JSON. Empty before the trial call."""
        ...

    def set_capabilities(self, capabilities: Mapping[str, Any]) -> None:
        """Use these capabilities without a trial call. Empty: forget them."""
        ...


class CachedJudge:
    """A Judge that calls a backend and keeps the replies.

    Replies are looked up under the model id that the server returned last. When the server returns another id, entries of the former
    one do not count any more. The mode `only` takes entries of any model. Raises OptionError for an unknown mode.
    """

    def __init__(self, backend: AnyBackend, cache: ReplyCache | None, mode: str) -> None:
        if mode not in CACHE_MODES:
            raise OptionError(f"there is no judge cache {mode!r}; there are {', '.join(CACHE_MODES)}")
        assert cache is not None or mode == "off", "use and only need a cache"
        self._backend, self._mode = backend, mode
        self._cache = None if mode == "off" else cache
        self._model: str | None = None
        self._model_is_certain = False
        """Whether the server returned this id in this session."""
        self._capabilities: Mapping[str, Any] = {}
        """Empty: a trial call is needed."""
        self._tried = False
        """Whether the capabilities are from a trial call in this session, not from the cache."""
        self._completions: dict[str, Entry] = {}
        self._prompts: dict[JudgePrompt, None] = {}
        self._replies: dict[JudgePrompt, Reply] = {}
        self._calls: Counter[JudgePrompt] = Counter()

    @property
    def name(self) -> str:
        """The judge's name, as it is shown."""
        return self._backend.name

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that the answers depend on and that is known before the first call."""
        return self._backend.identity

    @property
    def counts(self) -> Mapping[str, int]:
        """Work so far: `clues` (different prompts), `cached` (prompts without a call), `refused`, `invalid_answer`, `calls`, and each
        kind of failure."""
        status = Counter(reply.status for reply in self._replies.values())
        return {
            "clues": len(self._prompts),
            "cached": sum(not self._calls[prompt] for prompt in self._replies),
            "refused": status["refused"],
            "invalid_answer": status["invalid_answer"],
            "calls": 0,
            **self._backend.counts,
        }

    def check(self) -> None:
        """Raises RunError if the judge does not answer, or in mode `only`, which makes no call, if the cache is empty.

        A judge with stored replies is not called: the cache may hold everything that is needed.
        """
        if self._mode != "only" and not (self._cache is not None and len(self._cache)):
            self._backend.check()
        elif self._cache is not None and not len(self._cache):
            raise RunError(
                f"there are no replies of {self.name} in {self._cache.folder}, and --judge-cache only makes no call. The same command "
                "with --judge-cache use makes the calls and stores the replies"
            )

    def answer(self, prompts: Sequence[JudgePrompt]) -> list[Reply | JudgeError]:
        """Return a reply, or the reason why there is none, for each prompt, in order.

        Raises RunError if more calls are of no use, or if a reply cannot be stored. Replies before that are stored.
        """
        unique = dict.fromkeys(prompts)
        self._prompts |= unique
        calls_before = self._calls.copy()
        replies = self._replay(unique) if self._mode == "only" else self._ask(unique)
        for prompt, reply in replies.items():
            if isinstance(reply, Reply):
                self._replies[prompt] = replies[prompt] = replace(reply, calls=self._calls[prompt] - calls_before[prompt])
        return [replies[prompt] for prompt in prompts]

    def close(self) -> None:
        """Close the cache's file and the backend. Both open again when needed."""
        if self._cache is not None:
            self._cache.close()
        close = getattr(self._backend, "close", None)
        if close is not None:
            close()

    def _replay(self, prompts: Collection[JudgePrompt]) -> dict[JudgePrompt, Reply | JudgeError]:
        """Answer from the cache alone, with entries of any model and any status. Of several models the most recent one counts."""
        assert self._cache is not None
        models, variants = self._cache.models, []
        for capabilities in map(self._cache.capabilities, models):
            variants += [capabilities] if capabilities and capabilities not in variants else []
        states: dict[JudgePrompt, Reply | Call] = {}
        for capabilities in variants:
            self._use_capabilities(capabilities)
            for prompt in prompts:
                if not isinstance(states.get(prompt), Reply):
                    states[prompt] = self._reply_or_call(prompt, lambda call: self._cached(call, models))
        replies = {prompt: state for prompt in prompts if isinstance(state := states.get(prompt), Reply)}
        missing = JudgeError(
            f"{len(prompts) - len(replies)} of {len(prompts)} questions, this one among them, have no reply of {self.name} in the cache, "
            "and --judge-cache only makes no call. The same command with --judge-cache use asks what is missing"
        )
        return {prompt: replies.get(prompt, missing) for prompt in prompts}

    def _ask(self, prompts: Collection[JudgePrompt]) -> dict[JudgePrompt, Reply | JudgeError]:
        """Look up what is known, and ask the rest in rounds.

        The first round is one question alone if it has to show which model answers. The next round asks all others, and a last one
        repeats the questions whose reply holds no answer. Each round looks up again, because another model may have answered.
        """
        errors: dict[JudgePrompt, JudgeError] = {}
        first_alone = self._cache is not None
        while True:
            self._prepare()
            states = {prompt: self._state(prompt) for prompt in prompts if prompt not in errors}
            pending = {prompt: call for prompt, call in states.items() if isinstance(call, Call)}
            if not pending:
                return {**errors, **{prompt: reply for prompt, reply in states.items() if isinstance(reply, Reply)}}
            groups: dict[str, list[JudgePrompt]] = {}
            for prompt, call in pending.items():
                groups.setdefault(_call_key(call), []).append(prompt)
            batch = list(groups.values())[: 1 if first_alone and not self._model_is_certain else None]
            first_alone = False  # if that one fails, the others need not wait for each other
            self._run_batch([(pending[group[0]], group) for group in batch], errors)

    def _state(self, prompt: JudgePrompt) -> Reply | Call:
        """Return the reply that counts, or the next call to make. Of other sessions' entries only those that lead to an answer count."""
        if self._cache is not None and self._model is not None:
            models = [self._model]
            reply = self._reply_or_call(prompt, lambda call: self._completions.get(_call_key(call)) or self._cached(call, models))
            if isinstance(reply, Reply) and reply.status == "ok":
                return reply
        return self._reply_or_call(prompt, lambda call: self._completions.get(_call_key(call)))

    def _reply_or_call(self, prompt: JudgePrompt, lookup: Lookup) -> Reply | Call:
        """Return the reply from the known completions, or the call that is missing. A completion without an answer is repeated once."""
        structured = bool(self._capabilities["structured"])
        call = self._call(prompt, build_messages(prompt, structured))
        entry = lookup(call)
        if entry is not None and self._reply(entry, prompt).status == "invalid_answer":
            call = self._call(prompt, retry_messages(call.messages, entry.text, prompt, structured))
            if was_cut_while_reasoning(entry.text, entry.finish):
                call = replace(call, max_tokens=REASONING_TOKENS)
            entry = lookup(call)
        return call if entry is None else self._reply(entry, prompt)

    def _call(self, prompt: JudgePrompt, messages: tuple[Message, ...]) -> Call:
        structured = bool(self._capabilities["structured"])
        return Call(messages, reply_schema(prompt) if structured else None, token_limit(prompt, structured))

    def _reply(self, entry: Entry, prompt: JudgePrompt) -> Reply:
        """Parse a completion. One that held no answer when it arrived stays without an answer."""
        status, answers = entry.status, ()
        if status == "ok":
            status, answers = parse_reply(entry.text, entry.finish, prompt, bool(self._capabilities["structured"]))
        return Reply(status, answers, entry.text, entry.model)

    def _cached(self, call: Call, models: Sequence[str]) -> Entry | None:
        assert self._cache is not None
        parameters = self._backend.parameters(call)
        entries = (self._cache.get(model, call.messages, parameters) for model in models)
        return next((entry for entry in entries if entry is not None), None)

    def _run_batch(self, batch: Sequence[tuple[Call, Sequence[JudgePrompt]]], errors: dict[JudgePrompt, JudgeError]) -> None:
        """Make the calls, and store each outcome as it arrives. Raises RunError if one cannot be stored."""
        write_errors: list[RunError] = []

        def on_completion(index: int, outcome: Completion | JudgeError) -> None:
            call, prompts = batch[index]
            self._calls[prompts[0]] += 1
            if isinstance(outcome, JudgeError):
                errors.update(dict.fromkeys(prompts, outcome))
                return
            try:
                self._store(call, outcome, prompts[0])
            except RunError as error:
                write_errors.append(error)
                raise

        try:
            self._backend.complete([call for call, _ in batch], on_completion)
        finally:
            if write_errors:  # even if the backend swallowed it
                raise write_errors[0]
        silent = [prompts for call, prompts in batch if _call_key(call) not in self._completions and prompts[0] not in errors]
        assert not silent, f"{self.name} reported nothing for {len(silent)} of {len(batch)} calls"

    def _store(self, call: Call, completion: Completion, prompt: JudgePrompt) -> None:
        status, _ = parse_reply(completion.text, completion.finish, prompt, bool(self._capabilities["structured"]))
        self._completions[_call_key(call)] = Entry(completion.text, completion.finish, completion.model, status, "")
        if self._cache is not None:
            self._confirm_model(completion.model)
            self._cache.put(call.messages, self._backend.parameters(call), completion, status)

    def _confirm_model(self, model: str) -> None:
        """The server returned this model id. The session's own trial call holds for it; the cache's entry for another model does not."""
        assert self._cache is not None
        current = self._current_capabilities()
        self._tried = self._tried or current != self._capabilities
        if self._tried:
            self._capabilities = current
            if self._cache.capabilities(model) != current:
                self._cache.put_capabilities(model, current)
        self._model, self._model_is_certain = model, True

    def _prepare(self) -> None:
        """Find out which model's replies to look up and what the server accepts: from the cache before the first call, else by trial."""
        if self._cache is not None:
            if not self._model_is_certain:
                known = self._backend.model
                self._model, self._model_is_certain = (known, True) if known is not None else (self._model or self._cache.last_model, False)
            tried_elsewhere = not self._capabilities and self._current_capabilities()  # for example by check()
            if not self._tried and not tried_elsewhere and self._model is not None:
                self._use_capabilities(self._cache.capabilities(self._model) or {})
        if not self._capabilities:
            structured = self._backend.structured
            self._capabilities, self._tried = {**self._current_capabilities(), "structured": structured}, True
            model = self._backend.model or (self._model if self._model_is_certain else None)
            if self._cache is not None and model is not None:
                self._confirm_model(model)

    def _current_capabilities(self) -> Mapping[str, Any]:
        """The backend's capabilities; of a backend that has none the known ones."""
        return {**self._capabilities, **self._backend.capabilities} if isinstance(self._backend, HasCapabilities) else self._capabilities

    def _use_capabilities(self, capabilities: Mapping[str, Any]) -> None:
        if capabilities != self._capabilities and isinstance(self._backend, HasCapabilities):
            self._backend.set_capabilities(capabilities)
        self._capabilities = capabilities


def _call_key(call: Call) -> str:
    """Return a key that is equal for equal calls."""
    return json.dumps([call.messages, call.schema, call.max_tokens], sort_keys=True, default=dict)
