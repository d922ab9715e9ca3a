"""The protocol of a judge: it reads some words of an unseen prompt and says how the prompt continues."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from noiser.errors import JudgeError
from noiser.results.answerability import Form

Variant = Literal["paper", "official"]
ReplyStatus = Literal["ok", "refused", "invalid_answer"]
LOCAL = "local"
"""The judge that needs no server and no key: the default model."""
CACHE_MODES = ("use", "only", "off")


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """How judges are called. No field changes an answer.

    The former names `at_once` (now `max_connections`) and `budget` (now `total_timeout`) work until the next release, with a
    DeprecationWarning.
    """

    url: str | None = None
    """The address of an `openai:` judge. None: the value of OPENAI_BASE_URL, or OpenAI's own address."""
    cache: Literal["use", "only", "off"] = "use"
    """`use`: a question with a stored answer is not sent again. `only`: no question is sent. `off`: nothing is stored or looked up."""
    max_connections: int = 8
    """Calls that run at the same time."""
    timeout: float = 60.0
    """Seconds for one call."""
    total_timeout: float = 300.0
    """Seconds for one question, with all its retries and waits."""
    device: str = "auto"
    """Where a `local:` judge runs."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Read a field by its former name."""
            if name not in _FORMER_NAMES:
                raise AttributeError(f"JudgeConfig has no attribute {name!r}")
            _warn_of_former_name(name)
            return getattr(self, _FORMER_NAMES[name])


_FORMER_NAMES = {"at_once": "max_connections", "budget": "total_timeout"}


def _accept_former_names(cls: type[JudgeConfig]) -> None:
    """Let the constructor take the former field names too."""
    initialize = cls.__init__

    @wraps(initialize)
    def __init__(self: JudgeConfig, **options: Any) -> None:  # noqa: N807  (it is the constructor)
        for former in _FORMER_NAMES.keys() & options.keys():
            current = _FORMER_NAMES[former]
            if current in options:
                raise TypeError(f"JudgeConfig got both {former!r} and {current!r}: give {current!r} alone")
            _warn_of_former_name(former)
            options[current] = options.pop(former)
        initialize(self, **options)

    cls.__init__ = __init__


def _warn_of_former_name(name: str) -> None:
    warnings.warn(f"JudgeConfig.{name} is now {_FORMER_NAMES[name]}: use that name", DeprecationWarning, stacklevel=3)


_accept_former_names(JudgeConfig)
JudgeHow = JudgeConfig
"""The former name of JudgeConfig. It goes with the next release."""


@dataclass(frozen=True)
class JudgePrompt:
    """What a judge is asked: how does a prompt with these words continue? It has no field for the right answer."""

    words: tuple[str, ...]
    """The words in the order in which they are shown. No words: the judge has to guess."""
    form: Form
    """`top1`: the most probable word. `top5`: the five most probable words."""
    variant: Variant = "paper"
    """`official` asks as the released code does: for five words, whatever the form."""


@dataclass(frozen=True)
class Reply:
    """A judge's reply to a JudgePrompt."""

    status: ReplyStatus
    """`refused`: the judge declined. `invalid_answer`: it was asked twice, and its text holds no answer."""
    answers: tuple[str, ...]
    """The words that the judge named, most probable first. Empty unless the status is `ok`."""
    text: str
    """The judge's last completion, word for word."""
    model: str
    """The model id that came with the reply."""
    calls: int = 0
    """Calls that this reply took now. 0: it was in the cache."""


@runtime_checkable
class Judge(Protocol):
    """An object that answers JudgePrompts. One thread calls it at a time; it may use threads of its own."""

    @property
    def name(self) -> str:
        """The name by which it was opened: `openai:gpt-4o`, `local:smollm2-135m`, `llama:model.gguf`."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Plain values: everything that the answers depend on and that is known before the first call. No key, path or address."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """Counts of the work so far: `clues` (distinct prompts), `cached` (cached replies), `calls`, and each kind of failure."""
        ...

    def check(self) -> None:
        """Find out with a call whether the judge answers. Raises RunError if it does not: a wrong key, no server."""
        ...

    def answer(self, prompts: Sequence[JudgePrompt], /) -> list[Reply | JudgeError]:
        """Return a reply, or the reason why there is none, for each prompt, in order. Equal prompts are asked once.

        Raises RunError if more calls are of no use.
        """
        ...


def tally(name: str, counts: Mapping[str, int]) -> str:
    """Say in one sentence what a judge did: prompts, calls, and each kind of failure."""
    others = dict(counts)
    always = {"clues": "clues", "cached": "replies from the cache", "calls": "calls"}
    parts = [f"{others.pop(key, 0):,} {words}" for key, words in always.items()]
    parts += [f"{count:,} {key}" for key, count in sorted(others.items()) if count]
    return f"judge {name}: {', '.join(parts)}"
