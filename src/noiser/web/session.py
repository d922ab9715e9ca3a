"""The model behind the desk: read, warmed up, and asked. Nothing slow is imported before it is needed."""

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from noiser._version import __version__
from noiser.web.page import EXAMPLES
from noiser.web.queue import Cache, Job, JobQueue
from noiser.web.requests import Limits

if TYPE_CHECKING:
    from noiser.lm.model import LanguageModel
    from noiser.registry import Method
    from noiser.web.requests import Asked

logger = logging.getLogger("noiser.web")
CACHED = 64 * 2**20
"""Bytes of answers that are kept."""


class Session:
    """A desk, and the model it is there for."""

    def __init__(self, load: "Callable[[], LanguageModel]", limits: Limits, *, warm: bool) -> None:
        self.limits = limits
        self.desk = JobQueue(limits.queue, Cache(CACHED))
        self._load = load
        self._warm = warm
        self._lm: LanguageModel | None = None
        self._estimates: Any = None
        self._imported = threading.Event()

    def open(self) -> None:
        """Begin to read the model."""
        self.desk.start(self._open, self.warm_up if self._warm else None)

    def _open(self) -> None:
        try:
            from noiser.web.worker import Estimates
        finally:
            self._imported.set()
        begin = time.perf_counter()
        self._lm, self._estimates = self._load(), Estimates()
        logger.info("%s is ready after %.1f s", self._lm.name, time.perf_counter() - begin)

    def read(self, raw: bytes, *, streamed: bool) -> "Asked":
        """A request's body, checked. Raises Refusal or NoiserError."""
        if self.desk.status != "ready":
            raise self.desk.not_ready()
        from noiser.web.requests import parsed, read

        return read(parsed(raw), self.limits, streamed=streamed)

    def key(self, asked: "Asked", *, streamed: bool) -> str:
        """What an answer is kept under."""
        assert self._lm is not None
        return f"{'view' if streamed else 'json'} {self._lm.name} {self._lm.revision} {asked.key}"

    def work(self, asked: "Asked", *, streamed: bool) -> Callable[[Job], bytes]:
        """What the desk does for it."""
        from noiser.web.worker import answer, as_json, as_view

        assert self._lm is not None
        return answer(self._lm, asked, self.limits, self._estimates, as_view if streamed else as_json)

    def warm_up(self) -> None:
        """Ask the first example, as the page would, until somebody asks: the answer is kept, and what it took a measure for others."""
        from noiser.attribution.compare import DEFAULT_METHODS

        question = {name: value for name, value in EXAMPLES[0].items() if name != "title"}
        asked = self.read(json.dumps({**question, "methods": list(DEFAULT_METHODS)}).encode(), streamed=True)
        self.desk.submit(self.key(asked, streamed=True), self.work(asked, streamed=True), lambda _: None, yields=True)

    def about(self) -> dict[str, Any]:
        """What the page needs to know: the model, the limits, the methods with their options, the examples. May wait for imports."""
        self._imported.wait()
        from noiser.attribution.compare import DEFAULT_METHODS
        from noiser.methods import METHODS

        lm = self._lm
        return {
            "noiser": __version__,
            "model": lm.name if lm else None,
            "revision": lm.revision if lm else None,
            "status": self.desk.status,
            "message": self.desk.message,
            "limits": self.limits.to_dict(),
            "chat": bool(lm and getattr(lm.tokenizer, "chat_template", None)),
            "default_methods": list(DEFAULT_METHODS),
            "methods": [_described(method) for method in sorted(METHODS.values(), key=lambda method: (method.family, method.name))],
            "examples": EXAMPLES,
        }

    def openapi(self) -> dict[str, Any]:
        """The interface's description. May wait for imports."""
        self._imported.wait()
        from noiser.methods import METHODS
        from noiser.web.openapi import openapi

        return openapi(METHODS)


def _described(method: "Method") -> dict[str, Any]:
    """A method for the page's form: what it computes, what it costs, and its options."""
    facts = {name: getattr(method, name) for name in ("name", "family", "summary", "cost", "source")}
    return {**facts, "options": [option.to_dict() for option in method.described_options]}
