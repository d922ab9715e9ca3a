"""Options of methods and metrics: what help texts say about one, and how that checks a value."""

import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from noiser.errors import OptionError


@dataclass(frozen=True)
class Range:
    """The values that a number may take, both ends included. Use it as `Annotated[int, Range(1, 1000)]`."""

    low: int | float
    high: int | float


SEED_HELP = "Key of the random draws: equal seeds give equal results."


@dataclass(frozen=True)
class Option:
    """One option as help texts and forms show it."""

    name: str
    annotation: Any
    default: Any
    help: str
    """One or a few sentences, from the function's docstring."""

    def to_dict(self) -> dict[str, Any]:
        """`name`, `type` (int, float, str, bool or choice), `default`, `optional`, `help`; `choices`, or `low` and `high`, if the type
        has them. A number or one of some words: the number's type, and the words as `choices`. KeyError for other annotations.
        """
        members = list(_members(self.annotation))
        words = [word for member in members if get_origin(member) is Literal for word in get_args(member)]
        numbers = [member for member in members if get_origin(member) is not Literal and member is not type(None)]
        kind = _number_or_text(numbers[0]) if numbers else {}
        choices = {"type": "choice", **kind, "choices": words} if words else kind
        return {"name": self.name, **choices, "optional": type(None) in members, "default": self.default, "help": self.help}


def option_lines(doc: str) -> dict[str, str]:
    """The help of each option from docstring lines `name  text`; the text goes on in indented lines."""
    helps: dict[str, list[str]] = {}
    name = None
    for line in doc.splitlines():
        start = re.match(r"(\w+) {2,}(\S.*)", line)
        if start:
            name = start[1]
            helps[name] = [start[2]]
        elif name and line.startswith(" "):
            helps[name].append(line.strip())
        else:
            name = None
    return {name: " ".join(lines) for name, lines in helps.items()}


_TYPE_NAMES: dict[type, str] = {bool: "bool", int: "int", float: "float", str: "str"}


def _members(annotation: Any) -> Iterator[Any]:
    """The types of a union, nested unions included; any other annotation alone."""
    if get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _number_or_text(annotation: Any) -> dict[str, Any]:
    """The type's name, with the bounds of an annotated number."""
    if get_origin(annotation) is Annotated:
        kind, *extras = get_args(annotation)
        bounds = next((extra for extra in extras if isinstance(extra, Range)), None)
        return {"type": _TYPE_NAMES[kind], **({"low": bounds.low, "high": bounds.high} if bounds else {})}
    return {"type": _TYPE_NAMES[annotation]}


def read_values(owner: str, described: Mapping[str, Callable[[], Mapping[str, Any]]], options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of some options of `owner`. `described` gives each option that exists as `Option.to_dict` does, when it is asked.

    Raises OptionError for an option that does not exist, and as `read_value` does.
    """
    unknown = sorted(set(options) - set(described))
    if unknown:
        raise OptionError(f"{owner} has no option {', '.join(map(repr, unknown))}; it has {', '.join(described) or 'no options'}")
    return {name: read_value(f"{owner}: {name}", described[name](), value) for name, value in options.items()}


def read_value(where: str, described: Mapping[str, Any], value: Any) -> Any:
    """`value`, or the value that its text stands for, as an option takes it that is described by `Option.to_dict`.

    Raises OptionError for a value of another type or outside the range; the error begins with `where`.
    """
    refusals: list[str] = []
    for read in _readers(described):
        try:
            return read(value)
        except _RefusalError as refusal:
            refusals.append(str(refusal))
    raise OptionError(f"{where} {', or '.join(refusals)}; got {value!r}")


class _RefusalError(Exception):
    """The value does not fit. The message says what would, as the end of a sentence."""


def _readers(described: Mapping[str, Any]) -> Iterator[Callable[[Any], Any]]:
    """What a value may be, in turn: a number or a text, one of some words, none."""
    if described["type"] != "choice":
        yield lambda value: _read_type(described, value)
    if "choices" in described:
        yield lambda value: _one_of(described["choices"], value)
    if described["optional"]:
        yield _read_none


def _read_type(described: Mapping[str, Any], value: Any) -> Any:
    try:
        read = _READERS[described["type"]](value)
    except (TypeError, ValueError, KeyError) as error:
        raise _RefusalError(f"wants {described['type']}") from error
    if "low" in described and not described["low"] <= read <= described["high"]:
        raise _RefusalError(f"must be from {described['low']} to {described['high']}")
    return read


def _one_of(choices: Sequence[Any], value: Any) -> Any:
    for choice in choices:
        if value == choice or (isinstance(value, str) and value == str(choice)):
            return choice
    raise _RefusalError(f"must be one of {', '.join(map(str, choices))}")


def _read_none(value: Any) -> None:
    if value not in (None, "none"):
        raise _RefusalError("wants none")


def _read_int(value: Any) -> int:
    if isinstance(value, bool | float):
        raise TypeError
    return int(value)


def _read_float(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _read_bool(value: Any) -> bool:
    return {True: True, False: False, "true": True, "false": False}[value]


_READERS: dict[str, Callable[[Any], Any]] = {"int": _read_int, "float": _read_float, "str": str, "bool": _read_bool}
