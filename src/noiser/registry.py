"""The registry of methods and metrics. A keyword-only parameter of a function is an option; its annotation is the check."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from noiser.errors import OptionError
from noiser.options import SEED_HELP, Option, option_lines, read_values
from noiser.options import Range as Range

RECOMMENDED = "noiser:bound=rms+scale=4+samples=3"
"""The method that docs/faithfulness.md recommends, and why: among the best under every metric that was tried, better than `recency` on
prompts that ask for one answer (on continuations nothing that was tried is), near the known truth, without a search, and of the same
meaning on every model."""
DEFAULT_METHODS = (RECOMMENDED, "occlusion", "integrated_gradients")
"""The recommended method, and two that everyone knows."""
DEFAULT_METRICS = ("soft_ns", "soft_nc", *(f"comprehensiveness:operator={each}" for each in ("delete", "infill")))
PERMUTED = "permuted"
"""The control row with the scores of another method in a random order."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What methods and metrics share: a name, a source, a function and its options."""

    name: str
    source: str
    function: Callable[..., Any]
    check: Callable[..., None] | None = None
    settle: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """Takes all options and returns them with `auto` replaced by what it stands for beside the others. A run is known by the result."""
    version: int = 1
    """Goes up whenever the numbers change. A run never mixes results of two versions."""
    added: tuple[str, ...] = ()
    """Later options, whose defaults change no number: at its default one is not in a run's fingerprint. A new default is a new version."""

    @property
    def options(self) -> dict[str, Any]:
        """Every option with its default. A function that draws random numbers has the option `seed`."""
        return {name: parameter.default for name, parameter in _keyword_only(self.function).items()}

    def identifying(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that a run is known by: all but those in `added` that have their defaults."""
        defaults = self.options
        return {name: value for name, value in options.items() if name not in self.added or value != defaults[name]}

    @property
    def summary(self) -> str:
        """The first paragraph of the function's docstring, in one line."""
        return " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())

    @property
    def described_options(self) -> list[Option]:
        """Every option with its type and its help, in the order of the signature."""
        helps = {"seed": SEED_HELP, **option_lines(inspect.getdoc(self.function) or "")}
        parameters = _keyword_only(self.function).items()
        return [Option(name, parameter.annotation, parameter.default, helps.get(name, "")) for name, parameter in parameters]

    def resolve(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options: the defaults, replaced by `options`. A value may also be text, as `--set` gives it.

        Raises OptionError for an unknown name, for a value of the wrong type or outside its range, and for a combination
        that the entry's own check refuses.
        """
        described = {option.name: option.to_dict for option in self.described_options}
        values = read_values(self.name, described, options)
        resolved = self.options | values
        if self.check is not None:
            self.check(**{name: resolved[name] for name in _keyword_only(self.check)})
        return resolved if self.settle is None else self.settle(resolved)

    def resolve_label(self, label: str, options: Mapping[str, Any] | None, seed: int | None) -> dict[str, Any]:
        """All options: the defaults, replaced by those that `label` carries and by `options`.

        `seed` is the default of the option `seed`, if the entry has one. Raises OptionError as `resolve` does, and if the label
        and `options` give one option two values.
        """
        carried, options = read_label(label)[1], options or {}
        for name in carried.keys() & options.keys():
            if str(carried[name]) != str(options[name]):
                raise OptionError(f"{label} sets {name} to {carried[name]}, but {name} is also set to {options[name]}: give it once")
        default = {"seed": seed} if seed is not None and "seed" in self.options else {}
        return self.resolve({**default, **carried, **options})


PaperNormalization = Literal["signed_sum", "abs_l1", "softmax", "none"]


@dataclass(frozen=True, kw_only=True)
class Method(Entry):
    """One attribution method."""

    family: str
    cost: str = "not stated"
    """How many rows of how many tokens go through the model for one target. T is the number of tokens, L of layers."""
    changes: str = "not stated"
    """What the method changes in the prompt, and what stands in its place, in a few words. Contract cards say it."""
    requires: Literal["margin", "objective"] | Callable[..., Any] | None = None
    """What the clean run records: the gradient of the top-two margin, the gradient of the explained quantity, or its attention
    weights, reduced by this function (see `noiser.lm.attention.AttentionReducer`)."""
    ahead: Callable[..., Any] | None = None
    """Function(lm, prompt, options): the rows that it will ask for, as a `noiser.lm.ahead.RowsAhead`, if they do not depend on the clean
    run. They may then share its pass."""
    paper_normalization: PaperNormalization = "abs_l1"
    """How the authors' released code normalises scores of this kind before it measures them. `signed_sum`: divide by the sum.
    `abs_l1`: divide the absolute values by their sum. `softmax`: apply one more softmax. `none`: leave them."""


@dataclass(frozen=True, kw_only=True)
class Metric(Entry):
    """One measure of how faithful scores are to the model."""

    better: Literal["higher", "lower"]
    measures: str
    """What it measures, in one sentence."""
    failure_mode: str
    """What gets a good value without being a good explanation, in one sentence."""
    relative: bool = False
    """True: tables also report the logarithm of its mean over the mean of random scores."""
    cost: str = "not stated"
    """How many rows of how many tokens go through the model for one method and target."""
    judged: bool = False
    """True: it asks a judge. The function then takes the judge as its third argument."""


@dataclass(frozen=True)
class MethodSpec:
    """A method with all its options, checked. `noiser.methods.parse` makes it."""

    label: str
    """The name of its row: `noiser`, or `noiser:bound=none+samples=20`."""
    method: Method
    options: Mapping[str, Any]
    """All options, `seed` included if the method has one."""

    @property
    def name(self) -> str:
        """The name of the method."""
        return self.method.name


@dataclass(frozen=True)
class MetricSpec:
    """A metric with all its options, checked. `noiser.metrics.parse` makes it."""

    label: str
    """The name of its column: `soft_ns`, or `soft_ns:protocol=paper`."""
    metric: Metric
    options: Mapping[str, Any]
    """All options, `seed` included if the metric has one."""

    @property
    def name(self) -> str:
        """The name of the metric."""
        return self.metric.name


Spec = TypeVar("Spec", MethodSpec, MetricSpec)
Selection = Sequence[str | Spec] | Mapping[str, Any]
"""Labels or specifications in a sequence, or a mapping from labels to options."""


METHODS: dict[str, Method] = {}
METRICS: dict[str, Metric] = {}


def method(
    name: str,
    *,
    family: str,
    source: str,
    cost: str = "not stated",
    changes: str = "not stated",
    check: Callable[..., None] | None = None,
    settle: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    requires: Literal["margin", "objective"] | Callable[..., Any] | None = None,
    ahead: Callable[..., Any] | None = None,
    paper_normalization: PaperNormalization = "abs_l1",
    version: int = 1,
    added: tuple[str, ...] = (),
) -> Callable[[Callable], Callable]:
    """Register a function in METHODS under `name`. `check` takes some of the options by name and raises OptionError. See `Entry.added`,
    `Entry.settle` and `Method.ahead`.
    """

    def register(function: Callable) -> Callable:
        METHODS[name] = Method(
            name=name, family=family, source=source, function=function, cost=cost, changes=changes, check=check, settle=settle,
            requires=requires, ahead=ahead,
            paper_normalization=paper_normalization, version=version, added=added,
        )  # fmt: skip
        return function

    return register


def metric(
    name: str,
    *,
    source: str,
    better: Literal["higher", "lower"],
    measures: str,
    failure_mode: str,
    relative: bool = False,
    cost: str = "not stated",
    check: Callable[..., None] | None = None,
    version: int = 1,
    judged: bool = False,
) -> Callable[[Callable], Callable]:
    """Register a function in METRICS under `name`. `check` takes some of the options by name and raises OptionError."""

    def register(function: Callable) -> Callable:
        METRICS[name] = Metric(
            name=name, source=source, function=function, better=better, measures=measures, failure_mode=failure_mode, relative=relative,
            cost=cost, check=check, version=version, judged=judged,
        )  # fmt: skip
        return function

    return register


def find_method(name: str) -> Method:
    """The method of that name. Raises OptionError, with a list of all methods, for an unknown name."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def find_metric(name: str) -> Metric:
    """The metric of that name. Raises OptionError, with a list of all metrics, for an unknown name."""
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> OptionError:
    """The error for a name that does not exist."""
    return OptionError(f"there is no {kind} {name!r}; there are {', '.join(sorted(known))}")


def read_label(label: str) -> tuple[str, dict[str, str]]:
    """`noiser:bound=l2+steps=5` as its name and its options as text. A colon without options belongs to the name (`inseq:lime`)."""
    name, colon, rest = label.rpartition(":")
    if not colon or "=" not in rest:
        return label, {}
    pairs = [part.partition("=") for part in rest.split("+")]
    if not name or not all(option and separator for option, separator, _ in pairs):
        raise OptionError(f"options in a label are written NAME:OPTION=VALUE+OPTION=VALUE; got {label!r}")
    return name, {option: value for option, _, value in pairs}


def by_label(selection: Any, kind: str, *, empty: bool = False) -> dict[str, Any]:
    """A selection of methods or metrics as a mapping from labels to options, or to the specification itself.

    `kind` names the selection in errors: "methods", for example. Raises OptionError for a single text, for a label that occurs
    twice, and for an empty selection unless `empty` is True.
    """
    if isinstance(selection, str):
        raise OptionError(f"{kind} must be a sequence of names; got the single text {selection!r}")
    if isinstance(selection, Mapping):
        pairs = list(selection.items())
    else:
        pairs = [(item.label, item) if isinstance(item, MethodSpec | MetricSpec) else (item, {}) for item in selection]
    labels = [label for label, _ in pairs]
    if len(set(labels)) < len(labels):
        raise OptionError(f"{kind}: give each once; got {', '.join(map(str, labels))}")
    if not pairs and not empty:
        raise OptionError(f"{kind}: give at least one")
    return dict(pairs)


def check_distinct(specs: Iterable[MethodSpec | MetricSpec]) -> None:
    """Raises OptionError if two specifications have the same method or metric and the same options."""
    labels: dict[tuple[str, str], str] = {}
    for spec in specs:
        first = labels.setdefault((spec.name, repr(sorted(spec.options.items()))), spec.label)
        if first != spec.label:
            kind = "method" if isinstance(spec, MethodSpec) else "metric"
            raise OptionError(f"{first} and {spec.label} are the same {kind} with the same options: leave one of them out")


def _keyword_only(function: Callable) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters
    return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
