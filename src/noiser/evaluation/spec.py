"""What is to be evaluated: examples, methods, controls and metrics, all checked before the model runs."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import noiser.methods
import noiser.metrics
from noiser.errors import OptionError
from noiser.judges.protocol import LOCAL, Judge, JudgeConfig
from noiser.metrics import find_metric
from noiser.registry import Method, Metric, read_label
from noiser.results.attribution import Attribution
from noiser.results.records import Example, MethodRow, MetricColumn

DEFAULT_METHODS = ("noiser", "occlusion", "integrated_gradients")
DEFAULT_METRICS = ("soft_ns", "soft_nc")
CONTROLS = ("random", "uniform", "constant", "recency", "permuted")
PERMUTED = "permuted"
Chosen = Sequence[str] | Mapping[str, Any]
"""Names, or names with each one's options; a name may carry options itself: `noiser:bound=l2+steps=5`."""


@dataclass(frozen=True, eq=False)
class Entrant:
    """A row of the table, and where its scores come from."""

    contender: MethodRow
    method: Method | None
    """None where they come from another row, or were given."""
    of: str = ""
    """The row whose scores are permuted."""
    given: Sequence[Attribution] | None = None
    """Attributions that are there already, one for each example."""


@dataclass(frozen=True, eq=False)
class Measuring:
    """A column of the table, and what measures it."""

    gauge: MetricColumn
    metric: Metric
    judge: Judge | None = None
    """Who is asked, where the metric asks anybody."""


def entrants(methods: Chosen, controls: Sequence[str], seed: int, examples: int) -> list[Entrant]:
    """The methods and then the controls that are not among them. Raises OptionError for what does not exist or fit."""
    chosen = _mapping(methods, "methods")
    found = [_entrant(label, given, seed, examples) for label, given in chosen.items()]
    for label in _mapping(controls, "controls", empty=True):
        if label.split(":")[0] == PERMUTED:
            found.append(_permuted(label, list(chosen)))
        elif label not in chosen:
            found.append(_entrant(label, {}, seed, examples, control=True))
    names = [each.contender.label for each in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OptionError(f"each row once; {', '.join(twice)} came twice")
    return found


def measurings(metrics: Chosen, seed: int, judges: Sequence[Judge] = (), *, empty: bool = False) -> list[Measuring]:
    """The metrics with their options in full, one that asks a judge once for each of the judges; no metric at all is an error
    unless `empty`. Raises OptionError for what does not exist or fit, and for judges that nobody asks."""
    found = []
    for spec in noiser.metrics.parse_all(metrics, seed=seed, empty=empty):
        label, name, metric, options = spec.label, spec.name, spec.metric, spec.options
        if not metric.judged:
            found.append(Measuring(MetricColumn(label, name, options, metric.better, metric.relative), metric))
        for judge in judges if metric.judged else ():
            own_label = label if len(judges) == 1 else label.replace(name, f"{name}[{judge.name}]", 1)
            found.append(Measuring(MetricColumn(own_label, name, options, metric.better, metric.relative, judge.name), metric, judge))
    return found


def asks_a_judge(metrics: Chosen) -> bool:
    """Whether any of the metrics does. Raises OptionError for one that does not exist."""
    return any(find_metric(read_label(label)[0]).judged for label in _mapping(metrics, "metrics", empty=True))


def chosen_judges(judges: Sequence[str | Judge], metrics: Chosen, how: JudgeConfig, urls: Mapping[str, str] | None = None) -> list[Judge]:
    """Those who are asked, each once: the given ones, or the default; none where no metric asks any. Nobody is loaded or called.
    `urls` says of single ones where they are.

    Raises OptionError for judges that nobody asks, that do not exist or that came twice, and for an address that nobody has.
    """
    if not asks_a_judge(metrics):
        if judges:
            raise OptionError(f"none of {', '.join(metrics)} asks a judge: leave the judges out, or add answerability")
        return []
    wanted = judges or (LOCAL,)
    remote = [each for each in wanted if isinstance(each, str) and each.startswith("openai:")]
    if how.url is not None and not remote:
        raise OptionError(f"an address is for an openai: judge; the judges are {', '.join(str(each) for each in wanted)}")
    found: list[Judge] = []
    for each in wanted:
        url = (urls or {}).get(str(each), how.url if each in remote else None)
        found.append(_opened(each, replace(how, url=url)) if isinstance(each, str) else each)
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        raise OptionError(f"judges: each once; got {', '.join(names)}")
    return found


def _opened(name: str, how: JudgeConfig) -> Judge:
    from noiser.judges.factory import open_judge

    return open_judge(name, how)


def as_examples(given: Iterable[Any]) -> list[Example]:
    """Examples as they are; prompts of any form, or mappings with `prompt` and whatever else an Example has, made into some.

    Each gets a name of its own, its place where it has none, and is a group of its own where it has none. Raises OptionError
    for an unknown field and for names that occur twice.
    """
    if isinstance(given, str | Mapping | Example):
        raise OptionError("examples are a list of prompts, Examples or mappings with a prompt")
    made = [_example(each) for each in given]
    if not made:
        raise OptionError("there are no examples: give at least one prompt")
    names = [_printable(each.id) for each in made if each.id is not None]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise OptionError(f"each example needs an id of its own; {', '.join(sorted(twice)[:3])} came twice")
    return [
        Example(
            each.prompt,
            each.target,
            _printable(each.id) if each.id is not None else free_name(str(place), names),
            _printable(each.group) if each.group is not None else None,
        )
        for place, each in enumerate(made)
    ]


def free_name(wanted: str, taken: Sequence[str]) -> str:
    """The name, or where somebody has it already the name with as many primes as it takes."""
    while wanted in taken:
        wanted += "'"
    return wanted


def _printable(name: Any) -> str:
    """As text that can be written: lone surrogates as their escapes."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def _example(given: Any) -> Example:
    if isinstance(given, Example):
        return given
    if not isinstance(given, Mapping):
        return Example(given)
    if "prompt" not in given:
        raise OptionError(f"an example needs a prompt; got {', '.join(map(str, given))}")
    known = {field.name for field in fields(Example)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise OptionError(f"an example has {', '.join(sorted(known))}; got {', '.join(map(str, unknown))}")
    return Example(**given)


def _mapping(chosen: Any, what: str, *, empty: bool = False) -> dict[str, Any]:
    if isinstance(chosen, str):
        raise OptionError(f"{what} are a sequence of names; got the single text {chosen!r}")
    chosen = chosen if isinstance(chosen, Mapping) else list(chosen)
    if not isinstance(chosen, Mapping) and len(set(chosen)) < len(chosen):
        raise OptionError(f"{what}: each once; got {', '.join(chosen)}")
    if not chosen and not empty:
        raise OptionError(f"{what}: give at least one")
    return dict(chosen) if isinstance(chosen, Mapping) else {name: {} for name in chosen}


def _entrant(label: str, given: Any, seed: int, examples: int, *, control: bool = False) -> Entrant:
    if isinstance(given, list | tuple):
        wrong = next((type(each).__name__ for each in given if not isinstance(each, Attribution)), None)
        if not examples or len(given) != examples or wrong:
            wanted = (
                f"wanted {examples} Attributions, one for each example"
                if examples
                else "Attributions that are there already do not fit here"
            )
            raise OptionError(f"{label}: {wanted}; got {len(given)}" + (f", a {wrong} among them" if wrong else ""))
        return Entrant(MethodRow(label, given[0].method, dict(given[0].options), control), None, given=given)
    if given is not None and not isinstance(given, Mapping):
        raise OptionError(f"{label}: wanted its options by name, or a list of Attributions; got {type(given).__name__}")
    spec = noiser.methods.parse(label, given, seed=seed)
    return Entrant(MethodRow(label, spec.name, spec.options, control or spec.method.family == "control"), spec.method)


def _permuted(label: str, methods: Sequence[str]) -> Entrant:
    of = label.partition(":")[2] or methods[0]
    if of not in methods:
        raise OptionError(f"{label} permutes the scores of {of!r}, which is not among the methods")
    return Entrant(MethodRow(f"{PERMUTED}:{of}", PERMUTED, {}, True), None, of=of)
