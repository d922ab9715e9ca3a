"""A judge's address and key: which option and which variables of the environment they come from."""

import os

from noiser.http.keys import check_url, read_key

KEY, OPENAI_KEY, OPENAI_URL = "NOISER_JUDGE_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"
OPENAI = "https://api.openai.com/v1"


def judge_url(url: str | None) -> str:
    """Return the address to call: `url`, or OPENAI_BASE_URL, or OpenAI's own address. It has no slash at its end.

    Raises OptionError if it is no http(s) address, or if it holds a user name, a password, a query or a fragment.
    """
    source = "--judge-url" if url is not None else OPENAI_URL
    return check_url(url if url is not None else os.environ.get(OPENAI_URL) or OPENAI, source, KEY)


def judge_key(url: str | None) -> str | None:
    """Return the key from the environment: NOISER_JUDGE_KEY, or OPENAI_API_KEY if no url was given. None if neither is set.

    OpenAI's key therefore goes to no other server. Raises OptionError for a key that cannot be sent; the error does not show it.
    """
    return read_key((KEY,) if url is not None else (KEY, OPENAI_KEY))
