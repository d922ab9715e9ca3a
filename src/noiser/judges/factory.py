"""Open a judge by its name. A judge's own module is imported only when a judge of that kind is opened."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noiser.errors import JudgeError, OptionError, require_extra
from noiser.judges.cache import ReplyCache
from noiser.judges.judge import AnyBackend, CachedJudge
from noiser.judges.protocol import CACHE_MODES, LOCAL, Judge, JudgeConfig, JudgePrompt, Reply

DEFAULT_MODEL = "smollm2-135m"
"""The model of the judge `local`."""
KINDS = "openai:MODEL (behind an API), local or local:MODEL (loaded here), llama:FILE.gguf (served by llama.cpp for the run)"


def open_judge(name: str, config: JudgeConfig | None = None) -> Judge:
    """Return the judge of that name. No weights are read and no server starts before its first call.

    `openai:MODEL` is called at `config.url` with a key from the environment. `local` is the default model, `local:MODEL` any
    model that can be loaded. `llama:FILE.gguf` is served by llama.cpp. Raises OptionError for another name or a value out of range.
    """
    config = JudgeConfig() if config is None else config
    kind, model = _split(name)
    _check(name, kind, config)
    backend = _BACKENDS[kind](model, config)
    cache = None if config.cache == "off" else ReplyCache(backend.identity)
    return CachedJudge(backend, cache, config.cache)


def judge_name(name: str) -> str:
    """Return a judge's name as records show it. Raises OptionError for a kind of judge that does not exist.

    `local` becomes `local:smollm2-135m`. Only the last part of a path stays, because a record holds nothing of one machine.
    """
    kind, model = _split(name)
    return f"{kind}:{model if kind == 'openai' else _without_folders(model)}"


@dataclass(frozen=True)
class NamedJudge:
    """A judge that is only a name: it stands in a plan, loads nothing and cannot answer."""

    name: str
    """The name as records show it, from `judge_name`."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """The name."""
        return {"judge": self.name}

    @property
    def counts(self) -> Mapping[str, int]:
        """Nothing."""
        return {}

    def check(self) -> None:
        """Do nothing."""

    def answer(self, prompts: Sequence[JudgePrompt]) -> list[Reply | JudgeError]:
        """Fail: a name cannot answer."""
        raise AssertionError(f"{self.name} is only a name; it got {len(prompts)} prompts")


def _split(name: str) -> tuple[str, str]:
    kind, _, model = name.partition(":")
    if name == LOCAL:
        model = DEFAULT_MODEL
    elif kind in _BACKENDS and not model.strip():
        raise OptionError(f"judge {name!r} lacks its model. There are {KINDS}")
    if kind not in _BACKENDS:
        raise OptionError(f"there is no judge {name!r}. There are {KINDS}")
    return kind, model


def _without_folders(model: str) -> str:
    """Return the last part of a path. A hub id has a slash too, and keeps it."""
    path = Path(model)
    is_path = path.is_absolute() or model[0] in ".~" or "\\" in model or path.suffix == ".gguf" or path.exists()
    return path.expanduser().absolute().name if is_path else model


def _check(name: str, kind: str, config: JudgeConfig) -> None:
    if config.url is not None and kind != "openai":
        raise OptionError(f"--judge-url is the address of an openai: judge; {name} has no address: leave the option out")
    if config.cache not in CACHE_MODES:
        raise OptionError(f"--judge-cache is {', '.join(CACHE_MODES[:-1])} or {CACHE_MODES[-1]}; got {config.cache!r}")
    for option in ("max_connections", "timeout", "total_timeout"):
        if not getattr(config, option) > 0:
            raise OptionError(f"a judge's {option} has to be above 0; got {getattr(config, option)}")


def _open_openai(model: str, config: JudgeConfig) -> AnyBackend:
    if config.cache != "only":
        require_extra("judge", f"the judge openai:{model}")
    from noiser.judges.api import ApiBackend
    from noiser.judges.keys import judge_key, judge_url

    return ApiBackend(
        f"openai:{model}",
        model,
        url=judge_url(config.url),
        key=judge_key(config.url),
        identity={"judge": f"openai:{model}"},
        max_connections=config.max_connections,
        timeout=config.timeout,
        total_timeout=config.total_timeout,
    )


def _open_local(model: str, config: JudgeConfig) -> AnyBackend:
    from noiser.judges.local import LocalBackend

    return LocalBackend(model, device=config.device)


def _open_llama(model: str, config: JudgeConfig) -> AnyBackend:
    from noiser.judges.llama_server import LlamaBackend

    return LlamaBackend(model, max_connections=config.max_connections, timeout=config.timeout, total_timeout=config.total_timeout)


_BACKENDS: dict[str, Callable[[str, JudgeConfig], AnyBackend]] = {"openai": _open_openai, "local": _open_local, "llama": _open_llama}
