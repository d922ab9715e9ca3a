"""What a run is to compute: models, data, methods and metrics, from a TOML file or from the command line."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from noiser.errors import OptionError
from noiser.evaluation.spec import (
    CONTROLS,
    DEFAULT_METHODS,
    DEFAULT_METRICS,
    EvaluatedMethod,
    EvaluatedMetric,
    asks_judge,
    method_rows,
    metric_columns,
    select_judges,
)
from noiser.judges.protocol import LOCAL, Judge, JudgeConfig
from noiser.registry import read_label

IDENTITY, TRANSPORT = "identity", "transport"
"""What a setting is: one that changes numbers, or one that only says how and where they are computed."""


def _identity(**given: Any) -> Any:
    return field(metadata={"role": IDENTITY}, **given)


def _transport(**given: Any) -> Any:
    return field(metadata={"role": TRANSPORT}, **given)


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """A model as `noiser.load` finds it."""

    name: str = _identity()
    revision: str | None = _identity(default=None)
    dtype: str = _identity(default="auto")
    attention: str | None = _identity(default=None)
    trust_remote_code: bool = _transport(default=False)
    allow_pickle: bool = _transport(default=False)

    @property
    def label(self) -> str:
        """What the tables call it; a folder or file by its own name, wherever it lies."""
        said = [self.revision or "", self.dtype if self.dtype != "auto" else "", self.attention or ""]
        path = Path(self.name).expanduser()
        own = path.resolve().name if path.exists() else self.name
        return "@".join([own, *filter(None, said)])


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """A data set and how much of it."""

    name: str = _identity()
    path: str | None = _transport(default=None)
    """Where its file is; its content counts, by its SHA-256, not its place."""
    limit: int | None = _identity(default=None)
    """Only the first so many of the prompts that are kept."""
    match: str | None = _identity(default=None)
    """Which prompts are kept: `token`, `word` or `none`, see `noiser.experiments.screening`; None: what the set is used with."""
    generate: int | None = _identity(default=None)
    """Explain so many tokens of the model's own continuation, 0 for the next one only; None: what the set is used with."""

    @property
    def label(self) -> str:
        """What the tables call it."""
        said = [f"{key}={getattr(self, key)}" for key in ("match", "generate") if getattr(self, key) is not None]
        name = Path(self.path).stem if self.name == "jsonl" and self.path else self.name
        return ":".join(filter(None, [name, "+".join(said)]))


@dataclass(frozen=True, kw_only=True)
class JudgeChoice:
    """Whom metrics ask, as `noiser.judges.factory.open_judge` finds him."""

    name: str = _identity()
    url: str | None = _transport(default=None)
    """Where an `openai:` judge is. The same judge may be elsewhere when a run goes on."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every model on every data set with every method and metric."""

    models: tuple[ModelChoice, ...] = _identity()
    data: tuple[DataChoice, ...] = _identity()
    methods: Mapping[str, Mapping[str, Any]] = _identity()
    metrics: Mapping[str, Mapping[str, Any]] = _identity()
    controls: tuple[str, ...] = _identity(default=CONTROLS)
    judges: tuple[JudgeChoice, ...] = _identity(default=())
    """Whom the metrics ask that ask anybody; the default judge where there is none."""
    seed: int = _identity(default=0)

    def __post_init__(self) -> None:
        for what in ("models", "data"):
            labels = [each.label for each in getattr(self, what)]
            if not labels:
                raise OptionError(f"a run needs {what}")
            if len(set(labels)) < len(labels):
                raise OptionError(f"{what}: each once; got {', '.join(labels)}")
        rows = self.rows()
        same: dict[str, str] = {}
        for row in rows:
            other = same.setdefault(repr((row.method, sorted(row.options.items()), row.permutes)), row.label)
            if other != row.label:
                raise OptionError(f"{other} and {row.label} are the same method with the same options")
        self.columns()

    def rows(self) -> list[EvaluatedMethod]:
        """Methods and controls with their options in full; none where only the prompts are to be screened."""
        if not self.methods and not self.controls:
            return []
        return method_rows(self.methods, self.controls, self.seed, 0)

    def columns(self, judges: Sequence[Judge] | None = None) -> list[EvaluatedMetric]:
        """Metrics with their options in full, asking these judges, or, where it is only about names, nobody; none where only the
        attributions are wanted."""
        return metric_columns(self.metrics, self.seed, self._named_judges() if judges is None else judges, empty=True)

    def _named_judges(self) -> list[Judge]:
        from noiser.judges.factory import NamedJudge, judge_name

        if not self.judges and not asks_judge(self.metrics):
            return []
        names = [judge_name(choice.name) for choice in self.judges or (JudgeChoice(name=LOCAL),)]
        return select_judges([NamedJudge(name) for name in names], self.metrics, JudgeConfig())

    def open_judges(self, how: JudgeConfig) -> list[Judge]:
        """Those whom the metrics ask. Nobody is loaded or called yet."""
        urls = {choice.name: choice.url for choice in self.judges if choice.url is not None}
        return select_judges([choice.name for choice in self.judges], self.metrics, how, urls)


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """How and where a run is computed: nothing of it changes a number."""

    device: str = "auto"
    device_map: str | None = None
    token_budget: int | None = None
    at_once: int = 1
    """Samples worked on together. One: a kill loses one sample, and the same machine gives the same bytes."""
    shard: tuple[int, int] = (0, 1)
    max_seconds: float | None = None
    timeout: float | None = None
    """Seconds that one method, or all metrics, may take for one sample."""
    max_errors: float = 0.01
    """The share of samples that may fail before the run counts as failed."""
    retry: bool = False
    """Run again what failed."""
    engine: str = "local"
    address: str | None = None
    workers: int | None = None
    judge_how: JudgeConfig = field(default_factory=JudgeConfig)


def read_plan(path: Path) -> Plan:
    """A plan from a TOML file. Raises OptionError for what is not there, no TOML, or not in a plan."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OptionError(f"there is no file {path}") from error
    except OSError as error:
        raise OptionError(f"cannot read the plan {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not TOML: {error}") from error
    return make_plan(given, path.parent)


def make_plan(given: Mapping[str, Any], folder: Path | None = None) -> Plan:
    """A plan from plain values: lists of names, or of tables with a `name` and options. Paths are taken from `folder`."""
    known = {each.name for each in fields(Plan)} | {"limit"}
    unknown = sorted(set(given) - known)
    if unknown:
        raise OptionError(f"a plan has {', '.join(sorted(known))}; got {', '.join(unknown)}")
    data = [_data(each, given.get("limit"), folder) for each in _list(given, "data")]
    seed = given.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise OptionError(f"seed is a whole number; got {seed!r}")
    return Plan(
        models=tuple(_beside(_choice(ModelChoice, each), folder) for each in _list(given, "models")),
        data=tuple(data),
        methods={label: {} for label in _labels(given, "methods", DEFAULT_METHODS)},
        metrics={label: {} for label in _labels(given, "metrics", DEFAULT_METRICS)},
        controls=tuple(_labels(given, "controls", CONTROLS)),
        judges=tuple(_judge(each, folder) for each in _list(given, "judges")),
        seed=seed,
    )


def _list(given: Mapping[str, Any], what: str, default: Sequence[str] = ()) -> list[Any]:
    found = given.get(what, list(default))
    if not isinstance(found, list):
        raise OptionError(f'{what} is a list of names or of tables with a name: {what} = ["..."]; got {found!r}')
    return found


def _data(given: Any, limit: int | None, folder: Path | None) -> DataChoice:
    from noiser.data import JSONL, read_label_of_data

    if isinstance(given, str):
        name, path, options = read_label_of_data(given)
        if "generate" in options:
            options["generate"] = options["generate"] or 0
        given = {"name": name, **({"path": path} if path is not None else {}), **options}
    elif isinstance(given, Mapping) and "path" not in given and str(given.get("name", "")).endswith(JSONL):
        given = {**given, "name": "jsonl", "path": given["name"]}
    found = _choice(DataChoice, given)
    if found.limit is None and limit is not None:
        found = replace(found, limit=_typed("the plan", next(each for each in fields(DataChoice) if each.name == "limit"), limit))
    if folder is None or found.path is None:
        return found
    return replace(found, path=str(folder / Path(found.path).expanduser()))


def _beside(model: ModelChoice, folder: Path | None) -> ModelChoice:
    """A model that lies beside the plan is meant before one that is called so elsewhere."""
    place = folder / Path(model.name).expanduser() if folder is not None else None
    return replace(model, name=str(place)) if place is not None and place.exists() else model


def _judge(given: Any, folder: Path | None) -> JudgeChoice:
    """A judge whose file lies beside the plan is meant before one that is called so elsewhere."""
    found = JudgeChoice(name=given) if isinstance(given, str) and given else _choice(JudgeChoice, given)
    kind, colon, model = found.name.partition(":")
    place = folder / Path(model).expanduser() if folder is not None and model and kind != "openai" else None
    return replace(found, name=f"{kind}{colon}{place}") if place is not None and place.exists() else found


def _choice(kind: Any, given: Any) -> Any:
    """A name with options, or a table, as what it describes; texts of numbers are read as such."""
    if isinstance(given, str):
        name, options = read_label(given)
        given = {"name": name, **options}
    has = {each.name: each for each in fields(kind)}
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str) or not given["name"]:
        raise OptionError(f"wanted a name, or a table with a name and any of {', '.join(has)}; got {given!r}")
    unknown = sorted(set(given) - set(has))
    if unknown:
        raise OptionError(f"{given['name']} has no option {', '.join(unknown)}; it has {', '.join(has)}")
    return kind(**{key: _typed(given["name"], has[key], value) for key, value in given.items()})


def _typed(name: str, has: Any, value: Any) -> Any:
    wants = str(has.type)
    if value is None and has.default is not MISSING:
        return has.default
    if "int" in wants:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        least = 0 if has.name == "generate" else 1
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise OptionError(f"{name}: {has.name} is a whole number from {least} on; got {value!r}")
        return number
    if "bool" in wants:
        read = {"true": True, "false": False, True: True, False: False}.get(value) if isinstance(value, str | bool) else None
        if read is None:
            raise OptionError(f"{name}: {has.name} is true or false; got {value!r}")
        return read
    if not isinstance(value, str):
        raise OptionError(f"{name}: {has.name} is a text; got {value!r}")
    return value


def _labels(given: Mapping[str, Any], what: str, default: Sequence[str]) -> list[str]:
    """Methods, metrics or controls, each once."""
    found = list(map(_label, _list(given, what, default)))
    twice = sorted({label for label in found if found.count(label) > 1})
    if twice:
        raise OptionError(f"{what}: each once; {', '.join(twice)} came twice")
    return found


def _label(given: Any) -> str:
    """`name:option=value`, or a table whose options become part of its label."""
    if isinstance(given, str):
        return given
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise OptionError(f"wanted a name, or a table with a name and options; got {given!r}")
    said = "+".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in given.items() if key != "name")
    return f"{given['name']}:{said}" if said else given["name"]
