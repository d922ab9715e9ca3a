"""The tables of methods and metrics. An option is a keyword-only parameter of the function; its annotation is its check."""

import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from noiser.errors import OptionError


@dataclass(frozen=True)
class Range:
    """The values a number may take, both ends included; used as `Annotated[int, Range(1, 1000)]`."""

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
        """`name`, `type`, `default`, `optional`, `help`; `choices`, or `low` and `high`, if the type has them.

        `type` is int, float, str, bool or choice. An option that takes a number or one of some words has the number's type,
        and the words as its `choices`. Raises KeyError for an annotation of another kind.
        """
        members = list(_members(self.annotation))
        words = [word for member in members if get_origin(member) is Literal for word in get_args(member)]
        numbers = [member for member in members if get_origin(member) is not Literal and member is not type(None)]
        kind = _number_or_text(numbers[0]) if numbers else {}
        choices = {"type": "choice", **kind, "choices": words} if words else kind
        return {"name": self.name, **choices, "optional": type(None) in members, "default": self.default, "help": self.help}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a method and a metric have in common: a name, a source, a function and its options."""

    name: str
    source: str
    function: Callable[..., Any]
    check: Callable[..., None] | None = None
    version: int = 1
    """Raised whenever its numbers change: results of another version are not mixed with these."""

    @property
    def options(self) -> dict[str, Any]:
        """Every option with its default, `seed` included where something is drawn at random."""
        return {name: parameter.default for name, parameter in _keyword_only(self.function).items()}

    @property
    def summary(self) -> str:
        """The first paragraph of the function's docstring, in one line."""
        return " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())

    @property
    def described_options(self) -> list[Option]:
        """Every option with its type and its help, in the order of the signature."""
        helps = {"seed": SEED_HELP, **_option_lines(inspect.getdoc(self.function) or "")}
        parameters = _keyword_only(self.function).items()
        return [Option(name, parameter.annotation, parameter.default, helps.get(name, "")) for name, parameter in parameters]

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults overlaid with `given`, each value (or its text, as from `--set`) checked against its annotation.

        Raises OptionError for an unknown name, a value of the wrong type or outside its range, or a combination that
        the entry's own check refuses.
        """
        parameters = _keyword_only(self.function)
        unknown = sorted(set(given) - set(parameters))
        if unknown:
            has = ", ".join(parameters) or "no options"
            raise OptionError(f"{self.name} has no option {', '.join(map(repr, unknown))}; it has {has}")
        values = {name: _convert(f"{self.name}: {name}", parameters[name].annotation, value) for name, value in given.items()}
        resolved = self.options | values
        if self.check is not None:
            self.check(**{name: resolved[name] for name in _keyword_only(self.check)})
        return resolved


Released = Literal["signed_sum", "abs_l1", "softmax", "none"]


@dataclass(frozen=True, kw_only=True)
class Method(Entry):
    """One attribution method."""

    family: str
    cost: str = "not stated"
    """How many rows of how many tokens go through the model for one target; T tokens, L layers."""
    requires: Literal["margin", "objective"] | Callable[..., Any] | None = None
    """What the clean run takes along: the gradient of the top-two margin, or of what is explained; or its attention weights,
    folded by this function (see `noiser.lm.attention.Fold`)."""
    released: Released = "abs_l1"
    """What the authors' released code does to scores of this kind before it judges them: it divides them by their signed sum,
    or their absolute values by the sum of those; takes one more softmax; or nothing."""


@dataclass(frozen=True, kw_only=True)
class Metric(Entry):
    """One measure of how faithful scores are to the model."""

    better: Literal["higher", "lower"]
    measures: str
    """What it measures, in a sentence."""
    fools: str
    """What gets a good value without being a good explanation, in a sentence."""
    relative: bool = False
    """Whether it is also reported as the logarithm of its mean over that of random scores."""
    cost: str = "not stated"
    """How many rows of how many tokens go through the model for one method and target."""
    judged: bool = False
    """Whether it asks a judge, which it then takes as its fourth argument."""


METHODS: dict[str, Method] = {}
METRICS: dict[str, Metric] = {}


def method(
    name: str,
    *,
    family: str,
    source: str,
    cost: str = "not stated",
    check: Callable[..., None] | None = None,
    requires: Literal["margin", "objective"] | Callable[..., Any] | None = None,
    released: Released = "abs_l1",
    version: int = 1,
) -> Callable[[Callable], Callable]:
    """Enter a function into METHODS under `name`. `check` takes some of the options by name and raises OptionError."""

    def enter(function: Callable) -> Callable:
        METHODS[name] = Method(
            name=name, family=family, source=source, function=function, cost=cost, check=check, requires=requires, released=released,
            version=version,
        )  # fmt: skip
        return function

    return enter


def metric(
    name: str,
    *,
    source: str,
    better: Literal["higher", "lower"],
    measures: str,
    fools: str,
    relative: bool = False,
    cost: str = "not stated",
    check: Callable[..., None] | None = None,
    version: int = 1,
    judged: bool = False,
) -> Callable[[Callable], Callable]:
    """Enter a function into METRICS under `name`. `check` takes some of the options by name and raises OptionError."""

    def enter(function: Callable) -> Callable:
        METRICS[name] = Metric(
            name=name, source=source, function=function, better=better, measures=measures, fools=fools, relative=relative,
            cost=cost, check=check, version=version, judged=judged,
        )  # fmt: skip
        return function

    return enter


def find_metric(name: str) -> Metric:
    """The metric of that name; OptionError lists what there is."""
    if name not in METRICS:
        raise OptionError(f"there is no metric {name!r}; there are {', '.join(sorted(METRICS))}")
    return METRICS[name]


def find_method(name: str) -> Method:
    """The method of that name; OptionError lists what there is."""
    if name not in METHODS:
        raise OptionError(f"there is no method {name!r}; there are {', '.join(sorted(METHODS))}")
    return METHODS[name]


def read_label(label: str) -> tuple[str, dict[str, str]]:
    """`noiser:bound=l2+steps=5` as the name and the options in their text form; a colon without options is part of the name."""
    name, colon, rest = label.rpartition(":")
    if not colon or "=" not in rest:
        return label, {}
    pairs = [part.partition("=") for part in rest.split("+")]
    if not name or not all(key and separator for key, separator, _ in pairs):
        raise OptionError(f"options in a name read NAME:OPTION=VALUE+OPTION=VALUE; got {label!r}")
    return name, {key: value for key, _, value in pairs}


def _keyword_only(function: Callable) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _option_lines(doc: str) -> dict[str, str]:
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


def _convert(where: str, annotation: Any, value: Any) -> Any:
    """`value`, or what its text means, as the annotation wants it: int, float, str, a Literal, None, or a union of them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _in_range(where, _convert(where, arguments[0], value), arguments[1])
    if origin is Literal:
        return _one_of(where, arguments, value)
    if origin in (Union, types.UnionType):
        return _first_that_fits(where, arguments, value)
    try:
        return _READERS[annotation](value)
    except (TypeError, ValueError, KeyError) as error:
        wanted = "none" if annotation is type(None) else annotation.__name__
        raise OptionError(f"{where} wants {wanted}; got {value!r}") from error


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


def _read_none(value: Any) -> None:
    if value not in (None, "none"):
        raise ValueError


_READERS: dict[Any, Callable[[Any], Any]] = {int: _read_int, float: _read_float, str: str, bool: _read_bool, type(None): _read_none}


def _in_range(where: str, value: Any, limits: Range) -> Any:
    if not limits.low <= value <= limits.high:
        raise OptionError(f"{where} must be from {limits.low} to {limits.high}; got {value}")
    return value


def _one_of(where: str, choices: tuple, value: Any) -> Any:
    for choice in choices:
        if value == choice or (isinstance(value, str) and value == str(choice)):
            return choice
    raise OptionError(f"{where} must be one of {', '.join(map(str, choices))}; got {value!r}")


def _first_that_fits(where: str, kinds: tuple, value: Any) -> Any:
    wanted = []
    for kind in kinds:
        try:
            return _convert(where, kind, value)
        except OptionError as error:
            wanted.append(str(error).removeprefix(where).split(";")[0].strip())
    raise OptionError(f"{where} {', or '.join(wanted)}; got {value!r}")
