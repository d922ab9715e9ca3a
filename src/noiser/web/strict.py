"""Strict JSON from strangers: no NaN, no name twice, no number that has no end."""

import json
import reprlib
from collections.abc import Sequence
from typing import Any

from noiser.web.refusal import Refusal

DIGITS = 18
"""Of a whole number; what is larger is no token id and no count."""
_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother, _short.maxlist, _short.maxdict = 2, 60, 60, 4, 4


def parsed(raw: bytes) -> dict[str, Any]:
    """The object in a request's body. Raises Refusal (400) where it is none."""
    try:
        found = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_no_constant, parse_int=_whole, parse_float=_finite
        )
    except RecursionError as error:
        raise _bad("the JSON is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise _bad(f"the body is not UTF-8: byte 0x{raw[error.start]:02x} at {error.start}") from error
    except ValueError as error:
        raise _bad(f"the body is not JSON as it should be: {error}") from error
    if not isinstance(found, dict):
        raise _bad(f"the body is a JSON object; got {shown(found)}")
    return found


def shown(value: Any) -> str:
    """A value from a request as a message quotes it: short, however long or deep it is."""
    return _short.repr(value)


def _bad(message: str) -> Refusal:
    return Refusal(400, "RequestError", message)


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{shown(name)} is there twice")
        found[name] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > DIGITS:
        raise ValueError(f"a whole number of {len(digits.lstrip('-'))} digits is too long")
    return int(digits)


def _finite(digits: str) -> float:
    found = float(digits)
    if found in (float("inf"), float("-inf")):
        raise ValueError(f"{shown(digits)} is too large")
    return found
