"""The name of a model behind a server: `vllm:http://HOST:PORT/NAME`."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from noiser.errors import ModelError
from noiser.http.keys import check_url

PREFIX = "vllm:"
KEY = "NOISER_MODEL_KEY"
"""The variable of the environment that holds the server's key (vllm serve --api-key)."""
EXAMPLE = "vllm:http://127.0.0.1:8000/NAME"


@dataclass(frozen=True)
class Address:
    """A server, and the model on it."""

    url: str
    """The API's address, which ends in /v1."""
    model: str
    """The model's name on the server. It may hold slashes, as hub ids do."""


def is_served(model: Any) -> bool:
    """Whether the name is that of a model behind a server."""
    return isinstance(model, str) and model.startswith(PREFIX)


def parse_address(name: str) -> Address:
    """Read `vllm:http://HOST:PORT/NAME`. A path before the model's name ends in /v1/: `vllm:https://HOST/llm/v1/NAME`.

    Raises ModelError without a model's name, and OptionError for an address that is none or holds a secret.
    """
    given = name.removeprefix(PREFIX)
    parts = urlsplit(given) if "://" in given else urlsplit("")
    before, found, after = parts.path.partition("/v1/")
    path, model = (before, after) if found else ("", parts.path.removeprefix("/"))
    url = check_url(f"{parts.scheme}://{parts.netloc}{path}/v1" if parts.netloc else given, f"--model {PREFIX}...", KEY)
    if not model or "?" in given or "#" in given:
        raise ModelError(f"a model behind a server is {EXAMPLE}, with the name under which the server has it; this address names none")
    return Address(url, model)
