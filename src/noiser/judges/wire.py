"""One call over HTTP: what goes out, which is what we want and nothing else, and what comes back, within its time and without the key."""

import importlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from noiser.judges.backend import Message, Said
from noiser.judges.completions import FILTERED, completion, excerpt, failure
from noiser.judges.keys import Redactor, redact_logs
from noiser.judges.retrying import Failure

LARGEST = 4 << 20
"""Bytes of a reply that are read."""
SENT = ("host", "accept", "connection", "user-agent", "content-type", "content-length", "x-stainless-raw-response")
"""The headers that go out besides the key. The client would add some of its own, and what it finds in the environment; by the last
one it knows that we read replies ourselves."""


class Wire:
    """A server that completes chats, and the one key that is sent to it and held nowhere else. Safe for threads."""

    def __init__(self, url: str, key: str | None, *, trust_env: bool) -> None:
        import openai

        def only_what_is_wanted(request: Any) -> None:
            for name in [name for name in request.headers if name.lower() not in SENT]:
                del request.headers[name]
            if key is not None:
                request.headers["Authorization"] = f"Bearer {key}"

        self.redact = Redactor(key)
        http = openai.DefaultHttpxClient(
            trust_env=trust_env,
            follow_redirects=False,
            event_hooks={"request": [only_what_is_wanted], "response": [_read_in_time]},
        )
        self._client = openai.OpenAI(api_key="sent by us", base_url=url, max_retries=0, http_client=http)
        self._leave_logs = redact_logs(self.redact)

    def send(self, model: str, messages: Sequence[Message], parameters: Mapping[str, Any], seconds: float) -> Said | Failure:
        """Make one call. It takes at most so many seconds to be let in, as many to be answered, and as many for the rest."""
        import openai

        create = self._client.chat.completions.with_raw_response.create
        try:
            reply = create(model=model, messages=cast(Any, list(messages)), extra_body=dict(parameters), timeout=seconds)
        except openai.APITimeoutError:
            return Failure("timeout", f"no whole reply within {seconds:.3g} s", again=True)
        except openai.APIStatusError as error:
            found = failure(error.status_code, error.response.content, error.response.headers, self.redact)
            filtered = found.kind == "400" and any(code in found.code for code in FILTERED)
            return Said(found.said, "refusal", model) if filtered else found
        except openai.APIConnectionError as error:
            return Failure("connection", f"no connection: {excerpt(str(error.__cause__ or error), self.redact)}", again=True)
        return completion(reply.http_response.content, model, self.redact)

    def close(self) -> None:
        """Close its connections, and leave the client's logs alone again."""
        self._client.close()
        self._leave_logs()


def _read_in_time(response: Any) -> None:
    """Read a body as a whole: the client's own limit is for each of its parts, so that one that drips would never end."""
    http = importlib.import_module(type(response).__module__.split(".")[0])  # httpx or its successor, whichever the client uses
    end = time.monotonic() + response.request.extensions["timeout"]["read"]
    parts, size = [], 0
    for part in response.stream:
        parts.append(part)
        size += len(part)
        if time.monotonic() > end:
            raise http.ReadTimeout("the body took too long", request=response.request)
        if size > LARGEST:  # and so is no completion
            break
    response.stream.close()
    response.stream = http.ByteStream(b"".join(parts))
