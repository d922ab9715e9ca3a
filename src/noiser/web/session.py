"""One served model. The queue's thread loads it, warms it up and runs its jobs. Slow modules are imported only when needed."""

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from noiser._version import __version__
from noiser.registry import DEFAULT_METHODS
from noiser.web.page import EXAMPLES
from noiser.web.queue import AnswerCache, Job, JobQueue
from noiser.web.requests import Limits

if TYPE_CHECKING:
    from noiser.lm.model import LanguageModel
    from noiser.registry import Method
    from noiser.web.requests import AttributionRequest

logger = logging.getLogger("noiser.web")
CACHE_BYTES = 64 * 2**20
"""Bytes of answers that are kept in memory."""


class Session:
    """A model and the queue of its jobs."""

    def __init__(self, load: "Callable[[], LanguageModel]", limits: Limits, *, warm: bool) -> None:
        self.limits = limits
        self.queue = JobQueue(limits.queue, AnswerCache(CACHE_BYTES), float(limits.time_limit))
        self._load_model = load
        self._warm = warm
        self._lm: LanguageModel | None = None
        self._estimates: Any = None
        self._imported = threading.Event()

    def start(self) -> None:
        """Begin to load the model."""
        self.queue.start(self._load, self.warm_up if self._warm else None)

    def _load(self) -> None:
        try:
            from noiser.web.queue import CostEstimates
        finally:
            self._imported.set()
        begin = time.perf_counter()
        self._lm, self._estimates = self._load_model(), CostEstimates()
        logger.info("%s is ready after %.1f s", self._lm.name, time.perf_counter() - begin)

    def parse_request(self, raw: bytes, *, streamed: bool) -> "AttributionRequest":
        """The checked request in a body. Raises HttpError or NoiserError."""
        if self.queue.status != "ready":
            raise self.queue.unavailable()
        from noiser.web.requests import parse_json, parse_request

        return parse_request(parse_json(raw), self.limits, streamed=streamed)

    def cache_key(self, request: "AttributionRequest", *, streamed: bool) -> str:
        """The key of the request's answer: everything that the answer depends on."""
        assert self._lm is not None
        return f"{'view' if streamed else 'json'} {self._lm.name} {self._lm.revision} {request.key}"

    def job_function(self, request: "AttributionRequest", *, streamed: bool) -> Callable[[Job], bytes]:
        """The function that computes the answer in the queue's thread."""
        from noiser.web.worker import job_function, to_json_bytes, to_view_bytes

        assert self._lm is not None
        return job_function(self._lm, request, self.limits, self._estimates, to_view_bytes if streamed else to_json_bytes)

    def warm_up(self) -> None:
        """Submit the first example, which gives way to any client. It fills the cache and the time estimates."""

        example = {name: value for name, value in EXAMPLES[0].items() if name != "title"}
        request = self.parse_request(json.dumps({**example, "methods": list(DEFAULT_METHODS)}).encode(), streamed=True)
        key, function = self.cache_key(request, streamed=True), self.job_function(request, streamed=True)
        self.queue.submit(key, function, lambda _: None, gives_way=True)

    def about(self) -> dict[str, Any]:
        """What the page needs to know: the model, the limits, the methods with their options, the examples. May wait for imports."""
        self._imported.wait()
        from noiser.methods import METHODS

        lm = self._lm
        ordered = sorted(METHODS.values(), key=lambda method: (method.family, method.name))
        return {
            "noiser": __version__,
            "model": lm.name if lm else None,
            "revision": lm.revision if lm else None,
            "status": self.queue.status,
            "message": self.queue.message,
            "limits": self.limits.to_dict(),
            "chat": bool(lm and getattr(lm.tokenizer, "chat_template", None)),
            "default_methods": list(DEFAULT_METHODS),
            "methods": [_describe(method) for method in ordered],
            "examples": EXAMPLES,
        }

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI description. May wait for imports."""
        self._imported.wait()
        from noiser.methods import METHODS
        from noiser.web.openapi import openapi

        return openapi(METHODS)


def _describe(method: "Method") -> dict[str, Any]:
    """A method for the page's form: what it computes, what it costs, and its options."""
    facts = {name: getattr(method, name) for name in ("name", "family", "summary", "cost", "source")}
    return {**facts, "options": [option.to_dict() for option in method.described_options]}
