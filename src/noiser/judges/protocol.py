"""What a judge is: somebody who is given some words of an unseen prompt and says how it goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from noiser.errors import JudgeError, NoiserError
from noiser.results.answerability import Form

Variant = Literal["paper", "official"]
ReplyStatus = Literal["ok", "refused", "invalid_answer"]
LOCAL = "local"
"""The judge that needs nothing but what is installed: the default model."""
CACHES = ("use", "only", "off")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """How a judge is asked: nothing of it changes an answer."""

    url: str | None = None
    """Where an `openai:` judge is; None: as OPENAI_BASE_URL says, else OpenAI itself."""
    cache: Literal["use", "only", "off"] = "use"
    """`use`: what was answered once is not asked again; `only`: nobody is asked; `off`: nothing is kept nor looked up."""
    at_once: int = 8
    """Calls under way at a time."""
    timeout: float = 60.0
    """Seconds that a call may take."""
    budget: float = 300.0
    """Seconds that a question may take, with all its retries."""
    device: str = "auto"
    """Where a `local:` judge runs."""


@dataclass(frozen=True)
class JudgePrompt:
    """What a judge is asked: how does a prompt go on that has these words? There is no place in it for the right answer."""

    words: tuple[str, ...]
    """In the order in which they are shown; none at all asks for a guess out of the blue."""
    form: Form
    """`top1`: the most probable word; `top5`: the five most probable ones."""
    variant: Variant = "paper"
    """`official` asks as the released code does: for five words, whatever the form."""


@dataclass(frozen=True)
class Reply:
    """What a judge made of a clue."""

    status: ReplyStatus
    """`refused`: it would not say; `invalid_answer`: what it said, asked twice, holds no answer."""
    answers: tuple[str, ...]
    """The words that it named, most probable first; empty unless `ok`."""
    said: str
    """Its last reply, word for word."""
    model: str
    """Who it says it is: the model id that came with the reply."""
    calls: int = 0
    """How many calls this took now: 0 where all of it was in the cache."""


@runtime_checkable
class Judge(Protocol):
    """Whoever answers clues. Not safe for use by several threads at a time; what it does inside is its own affair."""

    @property
    def name(self) -> str:
        """As it was asked for: `openai:gpt-4o`, `local:smollm2-135m`, `llama:model.gguf`."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Plain values: all that its answers depend on and that is known before it is asked. No key, no path, no address."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """What it took so far: `clues`, `cached`, `calls`, and each kind of failure that there was."""
        ...

    def check(self) -> None:
        """Find out whether it can be asked at all, by asking. Raises RunError where it cannot: a wrong key, nobody there."""
        ...

    def answer(self, clues: Sequence[JudgePrompt]) -> list[Reply | JudgeError]:
        """A reply for each clue, in their order, or why there is none. Equal clues are asked once. Raises RunError where it is
        of no use to go on asking."""
        ...


def tally(name: str, counts: Mapping[str, int]) -> str:
    """What a judge took, in a sentence: clues, calls, and each kind of failure that there was."""
    counts = dict(counts)
    always = {"clues": "clues", "cached": "replies from the cache", "calls": "calls"}
    said = [f"{counts.pop(key, 0):,} {words}" for key, words in always.items()]
    said += [f"{count:,} {key}" for key, count in sorted(counts.items()) if count]
    return f"judge {name}: {', '.join(said)}"


def consulted(judge: Judge, clues: Sequence[JudgePrompt]) -> list[Reply | JudgeError]:
    """What a judge, who may be anybody's, says to each clue: what he may not say, and an exception of his own, becomes the JudgeError
    of those whom it concerns. Raises what noiser itself raises: RunError where going on asking is of no use."""
    try:
        found = judge.answer(clues)
    except NoiserError:
        raise
    except Exception as error:  # noqa: BLE001  (it is somebody else's, and costs no other metric anything)
        return [JudgeError(f"{judge.name} raised {type(error).__name__}: {error}") for _ in clues]
    if not isinstance(found, list) or len(found) != len(clues):
        came = f"{len(found)} of them" if isinstance(found, list) else type(found).__name__
        return [JudgeError(f"{judge.name} has to give a list of {len(clues)} replies, one for each clue; it gave {came}") for _ in clues]
    unfit = f"{judge.name} has to give a Reply or a JudgeError; it gave"
    return [each if _fit(each) else JudgeError(f"{unfit} {repr(each)[:200]}") for each in found]


def _fit(reply: Any) -> bool:
    if isinstance(reply, JudgeError):
        return True
    if not isinstance(reply, Reply) or reply.status not in get_args(ReplyStatus) or not isinstance(reply.answers, tuple):
        return False
    return all(isinstance(each, str) for each in (*reply.answers, reply.said, reply.model))
