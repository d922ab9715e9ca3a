"""A judge of whatever completes chats: each question is asked once, and what was heard is kept as soon as it is there."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from noiser.errors import JudgeError, OptionError, RunError
from noiser.judges import prompting
from noiser.judges.backend import Backend, Call, Completion, Message
from noiser.judges.cache import Entry, ReplyCache
from noiser.judges.protocol import CACHES, JudgePrompt, Reply

Look = Callable[[Call], Entry | None]
THOUGHT = 4096
"""Tokens for the second reply of a model whose first one was cut off while it thought."""
if TYPE_CHECKING:
    AnyBackend = Backend
else:
    AnyBackend = object  # before Python 3.12 isinstance reads a Protocol's properties, and to read `structured` is to ask the server


@runtime_checkable
class Adapts(Protocol):
    """A backend that finds out by trying how its server wants to be asked."""

    @property
    def adapted(self) -> Mapping[str, Any]:
        """All that was found out and that `structured` and `parameters` depend on, as plain JSON; empty before anything was tried."""
        ...

    def adapt(self, found: Mapping[str, Any]) -> None:
        """Take this for what was found out, so that it is not tried again; empty: forget all of it."""
        ...


class CachedJudge:
    """A Judge. Who answers is looked up under the id that the server said last, until it says another one; from then on what the
    former one said counts no more, except with `only`, which takes whatever is there. Raises OptionError for an unknown mode."""

    def __init__(self, backend: AnyBackend, cache: ReplyCache | None, mode: str) -> None:
        if mode not in CACHES:
            raise OptionError(f"there is no judge cache {mode!r}; there are {', '.join(CACHES)}")
        assert cache is not None or mode == "off", "use and only need a cache"
        self._backend, self._mode = backend, mode
        self._cache = None if mode == "off" else cache
        self._model: str | None = None
        self._sure = False
        """Whether the server said so in this session."""
        self._found: Mapping[str, Any] = {}
        """What is known from trying; empty where it has to be tried."""
        self._tried = False
        """Whether it was tried in this session, not read from the cache."""
        self._heard: dict[str, Entry] = {}
        self._clues: dict[JudgePrompt, None] = {}
        self._replies: dict[JudgePrompt, Reply] = {}
        self._took: Counter[JudgePrompt] = Counter()

    @property
    def name(self) -> str:
        """The judge's, as it is shown."""
        return self._backend.name

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that its answers depend on and that is known before it is asked."""
        return self._backend.identity

    @property
    def counts(self) -> Mapping[str, int]:
        """So far: `clues`, equal ones once; of them `cached` (no call was made for it), `refused` and `invalid_answer`; `calls`, and
        each kind of failure."""
        status = Counter(reply.status for reply in self._replies.values())
        return {
            "clues": len(self._clues),
            "cached": sum(not self._took[clue] for clue in self._replies),
            "refused": status["refused"],
            "invalid_answer": status["invalid_answer"],
            "calls": 0,
            **self._backend.counts,
        }

    def check(self) -> None:
        """Raises RunError where it cannot be asked; with `only`, which asks nobody, where nothing was ever kept. Whoever has answered
        before is not asked now: all that is wanted may be there already."""
        if self._mode != "only" and not (self._cache is not None and len(self._cache)):
            self._backend.check()
        elif self._cache is not None and not len(self._cache):
            raise RunError(
                f"there are no replies of {self.name} in {self._cache.folder}, and --judge-cache only asks nobody. The same command "
                "with --judge-cache use asks and keeps them"
            )

    def answer(self, clues: Sequence[JudgePrompt]) -> list[Reply | JudgeError]:
        """A reply for each clue, in their order, or why there is none. Raises RunError where it is of no use to go on asking, and
        where a reply cannot be kept; what was heard before is."""
        wanted = dict.fromkeys(clues)
        self._clues |= wanted
        before = self._took.copy()
        found = self._replayed(wanted) if self._mode == "only" else self._asked(wanted)
        for clue, each in found.items():
            if isinstance(each, Reply):
                self._replies[clue] = found[clue] = replace(each, calls=self._took[clue] - before[clue])
        return [found[clue] for clue in clues]

    def close(self) -> None:
        """Close the file that replies are kept in, and whatever the backend holds open. Both open again when needed."""
        if self._cache is not None:
            self._cache.close()
        close = getattr(self._backend, "close", None)
        if close is not None:
            close()

    def _replayed(self, wanted: Collection[JudgePrompt]) -> dict[JudgePrompt, Reply | JudgeError]:
        """What the cache has, whoever said it and whatever it was taken for: of several models the one heard last."""
        assert self._cache is not None
        models, trials = self._cache.models, []
        for found in map(self._cache.trial, models):
            trials += [found] if found and found not in trials else []
        stands: dict[JudgePrompt, Reply | Call] = {}
        for found in trials:
            self._take(found)
            for clue in wanted:
                if not isinstance(stands.get(clue), Reply):
                    stands[clue] = self._follow(clue, lambda call: self._kept(call, models))
        told = {clue: each for clue in wanted if isinstance(each := stands.get(clue), Reply)}
        missing = JudgeError(
            f"{len(wanted) - len(told)} of {len(wanted)} questions, this one among them, have no reply of {self.name} in the cache, and "
            "--judge-cache only asks nobody. The same command with --judge-cache use asks what is missing"
        )
        return {clue: told.get(clue, missing) for clue in wanted}

    def _asked(self, wanted: Collection[JudgePrompt]) -> dict[JudgePrompt, Reply | JudgeError]:
        """What is known, and the rest asked in rounds: the first question alone where it is to show who answers, then all others,
        then once more those whose reply holds no answer. Each round looks up anew, as somebody else may have answered."""
        lost: dict[JudgePrompt, JudgeError] = {}
        alone = self._cache is not None
        while True:
            self._settle()
            stands = {clue: self._stand(clue) for clue in wanted if clue not in lost}
            due = {clue: call for clue, call in stands.items() if isinstance(call, Call)}
            if not due:
                return {**lost, **{clue: reply for clue, reply in stands.items() if isinstance(reply, Reply)}}
            groups: dict[str, list[JudgePrompt]] = {}
            for clue, call in due.items():
                groups.setdefault(_key(call), []).append(clue)
            now = list(groups.values())[: 1 if alone and not self._sure else None]
            alone = False  # if that one fails, the others need not wait for each other
            self._round([(due[group[0]], group) for group in now], lost)

    def _stand(self, clue: JudgePrompt) -> Reply | Call:
        """The reply that counts, or the call that is due. Of what other sessions kept only what leads to an answer counts."""
        if self._cache is not None and self._model is not None:
            models = [self._model]
            reply = self._follow(clue, lambda call: self._heard.get(_key(call)) or self._kept(call, models))
            if isinstance(reply, Reply) and reply.status == "ok":
                return reply
        return self._follow(clue, lambda call: self._heard.get(_key(call)))

    def _follow(self, clue: JudgePrompt, look: Look) -> Reply | Call:
        """The reply that the known completions lead to, or the call that they lack. One without an answer is asked again once."""
        structured = bool(self._found["structured"])
        call = self._call(clue, prompting.messages(clue, structured))
        entry = look(call)
        if entry is not None and self._read(entry, clue).status == "invalid_answer":
            call = self._call(clue, prompting.again(call.messages, entry.text, clue, structured))
            if prompting.thinking(entry.text, entry.finish):
                call = replace(call, tokens=THOUGHT)
            entry = look(call)
        return call if entry is None else self._read(entry, clue)

    def _call(self, clue: JudgePrompt, messages: tuple[Message, ...]) -> Call:
        structured = bool(self._found["structured"])
        return Call(messages, prompting.schema(clue) if structured else None, prompting.token_limit(clue, structured))

    def _read(self, entry: Entry, clue: JudgePrompt) -> Reply:
        """What was taken for no answer when it was heard stays one."""
        status, answers = entry.status, ()
        if status == "ok":
            status, answers = prompting.read(entry.text, entry.finish, clue, bool(self._found["structured"]))
        return Reply(status, answers, entry.text, entry.model)

    def _kept(self, call: Call, models: Sequence[str]) -> Entry | None:
        assert self._cache is not None
        parameters = self._backend.parameters(call)
        found = (self._cache.get(model, call.messages, parameters) for model in models)
        return next((entry for entry in found if entry is not None), None)

    def _round(self, due: Sequence[tuple[Call, Sequence[JudgePrompt]]], lost: dict[JudgePrompt, JudgeError]) -> None:
        """Make the calls, and keep each outcome as it is heard. Raises RunError where one cannot be kept."""
        failed: list[RunError] = []

        def heard(place: int, said: Completion | JudgeError) -> None:
            call, clues = due[place]
            self._took[clues[0]] += 1
            if isinstance(said, JudgeError):
                lost.update(dict.fromkeys(clues, said))
                return
            try:
                self._keep(call, said, clues[0])
            except RunError as error:
                failed.append(error)
                raise

        try:
            self._backend.complete([call for call, _ in due], heard)
        finally:
            if failed:  # whatever the backend made of it
                raise failed[0]
        silent = [clues for call, clues in due if _key(call) not in self._heard and clues[0] not in lost]
        assert not silent, f"{self.name} kept silent about {len(silent)} of {len(due)} calls"

    def _keep(self, call: Call, said: Completion, clue: JudgePrompt) -> None:
        status, _ = prompting.read(said.text, said.finish, clue, bool(self._found["structured"]))
        self._heard[_key(call)] = Entry(said.text, said.finish, said.model, status, "")
        if self._cache is not None:
            self._notice(said.model)
            self._cache.put(call.messages, self._backend.parameters(call), said, status)

    def _notice(self, model: str) -> None:
        """The server says who it is. What was tried in this session holds for it; what the cache says of another one does not."""
        assert self._cache is not None
        known = self._live()
        self._tried = self._tried or known != self._found
        if self._tried:
            self._found = known
            if self._cache.trial(model) != known:
                self._cache.put_trial(model, known)
        self._model, self._sure = model, True

    def _settle(self) -> None:
        """Know whose replies to look up and how it is asked: from the cache as long as nobody was asked, else by trying."""
        if self._cache is not None:
            if not self._sure:
                known = self._backend.model
                self._model, self._sure = (known, True) if known is not None else (self._model or self._cache.last_model, False)
            tried_elsewhere = not self._found and self._live()  # by check(), say
            if not self._tried and not tried_elsewhere and self._model is not None:
                self._take(self._cache.trial(self._model) or {})
        if not self._found:
            structured = self._backend.structured
            self._found, self._tried = {**self._live(), "structured": structured}, True
            model = self._backend.model or (self._model if self._sure else None)
            if self._cache is not None and model is not None:
                self._notice(model)

    def _live(self) -> Mapping[str, Any]:
        """What the backend knows of how it is to be asked; what it was told, where it never adapts."""
        return {**self._found, **self._backend.adapted} if isinstance(self._backend, Adapts) else self._found

    def _take(self, found: Mapping[str, Any]) -> None:
        if found != self._found and isinstance(self._backend, Adapts):
            self._backend.adapt(found)
        self._found = found


def _key(call: Call) -> str:
    """Equal calls have equal keys, whatever goes along with them."""
    return json.dumps([call.messages, call.schema, call.tokens], sort_keys=True, default=dict)
