"""A judge by its name. What a judge needs is imported here, when one is opened, and not before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noiser.errors import JudgeError, OptionError
from noiser.judges.cache import ReplyCache
from noiser.judges.judge import AnyBackend, CachedJudge
from noiser.judges.protocol import CACHES, LOCAL, Judge, JudgeConfig, JudgePrompt, Reply

DEFAULT = "smollm2-135m"
"""The model of the judge `local`."""
KINDS = "openai:MODEL (behind an API), local or local:MODEL (loaded here), llama:FILE.gguf (served by llama.cpp for the run)"


def open_judge(name: str, how: JudgeConfig | None = None) -> Judge:
    """The judge of that name; no weights are read and no server is started before it is asked.

    `openai:MODEL` is asked at `how.url`, with the key that the environment holds; `local` is the default model, `local:MODEL` any
    that can be loaded; `llama:FILE.gguf` is served by llama.cpp. Raises OptionError for another name or a value outside its range.
    """
    how = JudgeConfig() if how is None else how
    kind, model = _parts(name)
    _check(name, kind, how)
    backend = _BACKENDS[kind](model, how)
    return CachedJudge(backend, None if how.cache == "off" else ReplyCache(backend.identity), how.cache)


def judge_name(name: str) -> str:
    """A judge's name as records show it: `local` is `local:smollm2-135m`, and of a path there is only the last part, as nothing of a
    machine belongs into a record. Raises OptionError where there is no such kind of judge."""
    kind, model = _parts(name)
    return f"{kind}:{model if kind == 'openai' else _without_folders(model)}"


@dataclass(frozen=True)
class Named:
    """A judge of whom no more is wanted than the name: nothing is read, nobody asked."""

    name: str
    """As records show it: of `judge_name`."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """The name."""
        return {"judge": self.name}

    @property
    def counts(self) -> Mapping[str, int]:
        """None."""
        return {}

    def check(self) -> None:
        """There is nothing to find out."""

    def answer(self, clues: Sequence[JudgePrompt]) -> list[Reply | JudgeError]:
        """It is never asked."""
        raise AssertionError(f"{self.name} is a name alone; asked {len(clues)} questions")


def _parts(name: str) -> tuple[str, str]:
    kind, _, model = name.partition(":")
    if name == LOCAL:
        model = DEFAULT
    elif kind in _BACKENDS and not model.strip():
        raise OptionError(f"judge {name!r} lacks its model. There are {KINDS}")
    if kind not in _BACKENDS:
        raise OptionError(f"there is no judge {name!r}. There are {KINDS}")
    return kind, model


def _without_folders(model: str) -> str:
    """A hub id has a slash too, and keeps it."""
    path = Path(model)
    local = path.is_absolute() or model[0] in ".~" or "\\" in model or path.suffix == ".gguf" or path.exists()
    return path.expanduser().absolute().name if local else model


def _check(name: str, kind: str, how: JudgeConfig) -> None:
    if how.url is not None and kind != "openai":
        raise OptionError(f"--judge-url is where an openai: judge is; {name} has none: leave it out")
    if how.cache not in CACHES:
        raise OptionError(f"--judge-cache is {', '.join(CACHES[:-1])} or {CACHES[-1]}; got {how.cache!r}")
    for option, value in (("at_once", how.at_once), ("timeout", how.timeout), ("budget", how.budget)):
        if not value > 0:
            raise OptionError(f"a judge's {option} has to be above 0; got {value}")


def _openai(model: str, how: JudgeConfig) -> AnyBackend:
    from noiser.judges.api import ApiBackend
    from noiser.judges.keys import judge_key, judge_url

    return ApiBackend(
        f"openai:{model}",
        model,
        url=judge_url(how.url),
        key=judge_key(how.url),
        identity={"judge": f"openai:{model}"},
        at_once=how.at_once,
        timeout=how.timeout,
        budget=how.budget,
    )


def _local(model: str, how: JudgeConfig) -> AnyBackend:
    from noiser.judges.local import LocalBackend

    return LocalBackend(model, device=how.device)


def _llama(model: str, how: JudgeConfig) -> AnyBackend:
    from noiser.judges.llama_server import LlamaBackend

    return LlamaBackend(model, at_once=how.at_once, timeout=how.timeout, budget=how.budget)


_BACKENDS: dict[str, Callable[[str, JudgeConfig], AnyBackend]] = {"openai": _openai, "local": _local, "llama": _llama}
