"""`noiser serve`: the web app, on this machine unless told otherwise."""

import ipaddress
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from noiser.errors import OptionError

if TYPE_CHECKING:
    from noiser.lm.model import LanguageModel
    from noiser.web.queue import JobQueue

PATIENCE = 0.5
"""Seconds for the job under way to stop at its next batch, once the server has ended."""
AT_LAST = 1.5
"""Seconds after which the process ends in any case, once it was told to."""
INTERRUPTED, TERMINATED = 130, 143


@dataclass(frozen=True)
class Wanted:
    """Where to serve, and how much."""

    host: str
    port: int
    allowed_hosts: Sequence[str]
    max_tokens: int
    queue: int


def run(model: str, load_options: Mapping[str, Any], wanted: Wanted) -> NoReturn:
    """Serve until interrupted, which ends the process with status 130. Raises OptionError where the port or a name will not do."""
    from noiser.web.app import create_app
    from noiser.web.middleware import Access, parse_allowed_host
    from noiser.web.requests import Limits

    names = {parse_allowed_host(name) for name in wanted.allowed_hosts}
    listening = bound(wanted.host, wanted.port)
    loopback = ipaddress.ip_address(listening.getsockname()[0]).is_loopback
    token, made = _token(loopback)
    names |= set() if loopback else {parse_allowed_host(wanted.host), parse_allowed_host(socket.gethostname())}
    app = create_app(
        lambda: _load(model, load_options), Limits(max_tokens=wanted.max_tokens, queue=wanted.queue), Access(frozenset(names), token)
    )
    _log_to_stderr()
    print(f"noiser: {_url(wanted.host, listening)}{f'#token={token}' if made else ''}   Ctrl-C ends it", flush=True)  # noqa: T201  (what the command is for)
    _serve(app, listening)


def bound(host: str, port: int) -> socket.socket:
    """A socket at that address, not yet listening. Raises OptionError where there is no such address, or the port is taken."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise OptionError(f"--host wants an address of this machine; got {host!r} ({error})") from error
    family, kind, protocol, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(1)
    except OSError as error:
        made.close()
        raise OptionError(f"cannot serve at {host}, port {port}: {error.strerror or error}. Another --port may be free (0: any)") from error
    return made


def _url(host: str, listening: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"


def _token(loopback: bool) -> tuple[str | None, bool]:
    """The token, and whether it was made here; none on loopback, unless one was set."""
    from noiser.web.middleware import check_token

    given = os.environ.get("NOISER_TOKEN")
    if given is not None:
        return check_token(given), False
    return (None, False) if loopback else (secrets.token_urlsafe(32), True)


def _load(model: str, options: Mapping[str, Any]) -> "LanguageModel":
    from noiser.lm.load import load

    return load(model, **options)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name, level in (("noiser.web", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False


def _serve(app: Any, listening: socket.socket) -> NoReturn:
    from uvicorn import Server

    from noiser.web.server import config

    desk: JobQueue = app.state.session.queue

    class Closing(Server):
        """A server that lets go of its job as soon as it is told to end, so that the clients who wait for it are told too."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            desk.close()
            at_last = threading.Timer(AT_LAST, _leave, (TERMINATED if sig == signal.SIGTERM else INTERRUPTED,))
            at_last.daemon = True
            at_last.start()
            super().handle_exit(sig, frame)

    with suppress(KeyboardInterrupt):
        Closing(config(app)).run(sockets=[listening])
    desk.close()
    desk.join(PATIENCE)
    _leave(INTERRUPTED)


def _leave(status: int) -> NoReturn:
    """Without taking Python down first: with torch in it, and a job in the middle of a batch, that takes seconds or fails."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
