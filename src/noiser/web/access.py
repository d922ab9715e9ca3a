"""Who may ask: the names this server answers to, where a page that asks comes from, and the token."""

import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from noiser.errors import OptionError
from noiser.web.refusal import Refusal

SHORTEST = 16
"""Characters of a token."""
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Access:
    """Checks a request's headers, before anything else of it is read."""

    names: frozenset[str] = frozenset()
    """Beside the loopback names and the address that a client reached: NAME, with our port or none; or NAME:PORT as it is."""
    token: str | None = field(default=None, repr=False)
    """What every /api/ request has to show; None: nothing."""

    def check(self, scope: dict[str, Any]) -> None:
        """Raises Refusal: 421 for a foreign Host, 403 for a foreign page, 401 without the token."""
        headers: Headers = scope["headers"]
        host = _only(headers, b"host")
        if host is None or host.lower() not in self._hosts(scope["server"]):
            raise Refusal(421, "HostError", "this server does not go by that name; noiser serve --allowed-host NAME lets it")
        api = scope["path"].startswith("/api/")
        _check_origin(headers, host, strict=api or scope["method"] not in ("GET", "HEAD"))
        if api and self.token is not None:
            self._check_token(headers)

    def _hosts(self, server: tuple[str, int]) -> set[str]:
        """A page of another name that resolves to us (DNS rebinding) sends that name; an address is only ever our own."""
        address, port = _plain(server[0]), server[1]
        own = {*LOOPBACK, f"[{address}]" if ":" in address else address, *self.names}
        with_port = {f"{name}:{port}" for name in own if not _has_port(name)}
        without = own if port == 80 else self.names
        return with_port | without

    def _check_token(self, headers: Headers) -> None:
        given = _only(headers, b"authorization") or ""
        kind, _, shown = given.partition(" ")
        assert self.token is not None
        if kind.lower() != "bearer" or not hmac.compare_digest(shown.strip().encode(), self.token.encode()):
            raise Refusal(401, "TokenError", "this server wants its token: Authorization: Bearer TOKEN")


def _check_origin(headers: Headers, host: str, *, strict: bool) -> None:
    """A browser says where the page comes from that asks; `strict`: links from elsewhere are refused too."""
    origin, site = _only(headers, b"origin"), _only(headers, b"sec-fetch-site")
    foreign = origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}")
    if foreign or (strict and site not in (None, "same-origin", "none")):
        raise Refusal(403, "OriginError", "only this server's own page may ask it")


def _only(headers: Headers, name: bytes) -> str | None:
    """The header's value; None where it is not there, and what fits nothing where it is there more than once."""
    found = [value.decode("latin-1") for key, value in headers if key == name]
    return None if not found else found[0] if len(found) == 1 else "\n"


def _plain(address: str) -> str:
    """An IPv4 address that came through an IPv6 socket as itself, and no zone."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(getattr(found, "ipv4_mapped", None) or found)


def _has_port(name: str) -> bool:
    return name.rpartition(":")[2].isdigit() and not name.endswith("]")


def allowed_name(name: str) -> str:
    """A name for `--allowed-host`. Raises OptionError where it is none."""
    found = name.strip().lower()
    bare = found.removeprefix("[").partition("]")[0] if found.startswith("[") else found
    if _is_address(bare) and ":" in bare:
        return found if found.startswith("[") else f"[{found}]"
    if not found or any(character in found for character in "/*@?# \t") or found.count(":") > 1:
        raise OptionError(f"--allowed-host wants NAME or NAME:PORT, as it stands in an address; got {name!r}")
    return found


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def checked_token(token: str) -> str:
    """A token that was set by hand. Raises OptionError where it is short or cannot be sent as it is."""
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise OptionError(f"NOISER_TOKEN wants at least {SHORTEST} printable ASCII characters without spaces")
    return token
