"""The tables of methods and metrics. An option is a keyword-only parameter of the function; its annotation is its check."""

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from noiser.errors import OptionError


@dataclass(frozen=True)
class Range:
    """The values a number may take, both ends included; used as `Annotated[int, Range(1, 1000)]`."""

    low: int | float
    high: int | float


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
    requires: Literal["margin", "goal"] | Callable[..., Any] | None = None
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
    requires: Literal["margin", "goal"] | Callable[..., Any] | None = None,
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
