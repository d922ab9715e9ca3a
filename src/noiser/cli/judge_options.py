"""The options of all commands that ask a judge."""

from math import isfinite
from typing import Annotated, cast
from urllib.parse import urlsplit

import typer

from noiser.errors import OptionError
from noiser.judges.protocol import CACHES, JudgeConfig

Judges = Annotated[
    str | None,
    typer.Option(
        "--judge", help="Whom answerability asks: local, local:MODEL, openai:MODEL, llama:GGUF; several with commas. (default: local)"
    ),
]
JudgeUrl = Annotated[
    str | None, typer.Option(help="Where an openai: judge is, e.g. http://localhost:8000/v1. (default: OPENAI_BASE_URL, else OpenAI's)")
]
JudgeCache = Annotated[str, typer.Option(help="use: ask only what was not asked before; only: ask nobody; off: keep nothing.")]
JudgeAtOnce = Annotated[int, typer.Option(min=1, help="Calls to a judge under way at a time.")]
JudgeTimeout = Annotated[float, typer.Option(help="Seconds that a call to a judge may take.")]
JudgeBudget = Annotated[float, typer.Option(help="Seconds that a question to a judge may take, with all its retries.")]


def judge_how(url: str | None, cache: str, at_once: int, timeout: float, budget: float, device: str) -> JudgeConfig:
    """How judges are asked. Raises OptionError for a value that does not exist or fit."""
    if cache not in CACHES:
        raise OptionError(f"--judge-cache must be one of {', '.join(CACHES)}; got {cache!r}")
    if at_once < 1:
        raise OptionError(f"--judge-at-once is a whole number from 1 on; got {at_once}")
    for name, seconds in (("timeout", timeout), ("budget", budget)):
        if not (isfinite(seconds) and seconds > 0):
            raise OptionError(f"--judge-{name} is a number of seconds above 0; got {seconds:g}")
    if url is not None:
        _check_url(url)
    return JudgeConfig(url=url, cache=cast("str", cache), at_once=at_once, timeout=timeout, budget=budget, device=device)  # pyright: ignore[reportArgumentType]


def _check_url(url: str) -> None:
    """What is wrong with an address is said without repeating it: it may hold a key."""
    try:
        parts = urlsplit(url)
        good, secret = parts.scheme in ("http", "https") and bool(parts.hostname), parts.username is not None or bool(parts.query)
        _ = parts.port
    except ValueError:
        good, secret = False, False
    if secret:
        raise OptionError("--judge-url takes no user, password or query: a key comes from the environment, as NOISER_JUDGE_KEY")
    if not good:
        raise OptionError("--judge-url wants an address that begins with http:// or https://, e.g. http://localhost:8000/v1")
