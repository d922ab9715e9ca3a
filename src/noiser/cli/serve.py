"""`noiser serve`: the web app, on this machine unless the user says otherwise."""

import ipaddress
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from noiser.cli.options import ADVANCED, WHAT, ModelOptions, expand_options
from noiser.errors import OptionError, require_extra

if TYPE_CHECKING:
    from noiser.web.queue import JobQueue

JOB_TIMEOUT = 0.5
"""Seconds that the current job has to stop at its next batch after the server has ended."""
EXIT_TIMEOUT = 1.5
"""Seconds after a signal until the process ends in any case."""
INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses after SIGINT and SIGTERM."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where the app listens, and how much it accepts."""

    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any free port.", rich_help_panel=WHAT)] = 7860
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on. Any other than this machine's own needs a token: NOISER_TOKEN, or a generated one.",
            rich_help_panel=ADVANCED,
        ),
    ] = "127.0.0.1"
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:PORT]", help="A further name under which browsers reach the app. Repeat it for more.", rich_help_panel=ADVANCED
        ),
    ] = None
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of a prompt with its continuation.", rich_help_panel=ADVANCED)] = (
        2048
    )
    queue: Annotated[
        int, typer.Option(min=1, help="The most requests that wait. The app answers one at a time.", rich_help_panel=ADVANCED)
    ] = 16
    time_limit: Annotated[int, typer.Option(min=1, help="The most seconds that one request may run.", rich_help_panel=ADVANCED)] = 600


@expand_options
def serve(*, options: ServeOptions, model: ModelOptions) -> None:
    """Start the web app: ask in a browser and look at the results. It listens on this machine only, unless you say otherwise."""
    run(model, options)


def run(model: ModelOptions, options: ServeOptions) -> NoReturn:
    """Serve until interrupted; the process then exits with status 130. Raises OptionError for a port or name that cannot be used."""
    require_extra("web", "noiser serve")
    from noiser.web.app import create_app
    from noiser.web.middleware import Access, parse_allowed_host
    from noiser.web.requests import Limits

    names = {parse_allowed_host(name) for name in options.allowed_host or []}
    listening = bind(options.host, options.port)
    is_loopback = ipaddress.ip_address(listening.getsockname()[0]).is_loopback
    token, is_generated = _token(is_loopback)
    if not is_loopback:
        names |= {parse_allowed_host(options.host), parse_allowed_host(socket.gethostname())}
    app = create_app(
        model.load,
        Limits(max_tokens=options.max_tokens, queue=options.queue, time_limit=options.time_limit),
        Access(frozenset(names), token),
    )
    _log_to_stderr()
    fragment = f"#token={token}" if is_generated else ""
    print(f"noiser: {_url(options.host, listening)}{fragment}   Ctrl-C ends it", flush=True)  # noqa: T201  (the output of the command)
    _serve(app, listening)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OptionError if the address does not exist or the port is taken."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise OptionError(f"--host wants an address of this machine; got {host!r} ({error})") from error
    family, kind, protocol, _, address = min(addresses, key=lambda info: info[0] != socket.AF_INET)
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1)
    except OSError as error:
        listening.close()
        raise OptionError(
            f"cannot serve at {host}, port {port}: {error.strerror or error}. Try another --port (0: any free port)"
        ) from error
    return listening


def _url(host: str, listening: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"


def _token(is_loopback: bool) -> tuple[str | None, bool]:
    """The token, and whether it was generated here. On loopback there is a token only if NOISER_TOKEN sets one."""
    from noiser.web.middleware import check_token

    token = os.environ.get("NOISER_TOKEN")
    if token is not None:
        return check_token(token), False
    return (None, False) if is_loopback else (secrets.token_urlsafe(32), True)


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

    queue: JobQueue = app.state.session.queue

    class ClosingServer(Server):
        """A server that closes the job queue at the first signal, so that waiting clients are told at once."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            queue.close()
            timer = threading.Timer(EXIT_TIMEOUT, _exit, (TERMINATED if sig == signal.SIGTERM else INTERRUPTED,))
            timer.daemon = True
            timer.start()
            super().handle_exit(sig, frame)

    with suppress(KeyboardInterrupt):
        ClosingServer(config(app)).run(sockets=[listening])
    queue.close()
    queue.join(JOB_TIMEOUT)
    _exit(INTERRUPTED)


def _exit(status: int) -> NoReturn:
    """End the process at once. A normal exit with torch in the middle of a batch takes seconds, or fails."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
