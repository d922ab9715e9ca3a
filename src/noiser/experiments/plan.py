"""The plan of a run: models, data, methods and metrics. It comes from a TOML file or from the command line."""

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from noiser.errors import OptionError
from noiser.evaluation.spec import (
    CONTROLS,
    EvaluatedMethod,
    EvaluatedMetric,
    asks_judge,
    method_rows,
    metric_columns,
    select_judges,
)
from noiser.judges.protocol import LOCAL, Judge, JudgeConfig
from noiser.lm.served.address import PREFIX, is_served, parse_address
from noiser.registry import DEFAULT_METHODS, DEFAULT_METRICS, check_distinct, read_label
from noiser.text.prompt import parse_template_args, read_template_args

IDENTITY, TRANSPORT = "identity", "transport"
"""The two roles of a setting: it changes numbers, or it only says how and where they are computed."""
Choice = TypeVar("Choice", "ModelChoice", "DataChoice", "JudgeChoice")


def _changes_numbers(**arguments: Any) -> Any:
    return field(metadata={"role": IDENTITY}, **arguments)


def _changes_no_number(**arguments: Any) -> Any:
    return field(metadata={"role": TRANSPORT}, **arguments)


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """A model, with the options of `noiser.load`."""

    name: str = _changes_numbers()
    tokenizer: str | None = _changes_no_number(default=None)
    """Of a model behind a server, where its tokenizer and embedding table are read from. Their content counts, not the path."""
    adapter: str | None = _changes_numbers(default=None)
    """The folder or hub id of an adapter. Its content is part of the model's revision."""
    revision: str | None = _changes_numbers(default=None)
    dtype: str = _changes_numbers(default="auto")
    attention: str | None = _changes_numbers(default=None)
    template_args: str | None = _changes_numbers(default=None)
    """What the chat template reads besides the messages, as a JSON object with sorted names."""
    trust_remote_code: bool = _changes_no_number(default=False)
    allow_pickle: bool = _changes_no_number(default=False)

    @property
    def label(self) -> str:
        """The model's name in tables. A folder or file has its own name, without the path."""
        template_args = {name: _short_value(value) for name, value in self.read_template_args().items()}
        options = [self.revision or "", self.dtype if self.dtype != "auto" else "", self.attention or ""]
        options.append("+".join(f"{name}={value}" for name, value in template_args.items()))
        path = Path(self.name).expanduser()
        name = path.resolve().name if path.exists() else self.name
        if is_served(self.name):  # the address of the server changes no number
            name = f"{PREFIX}{parse_address(self.name).model}"
        adapter = f"+{Path(self.adapter).name}" if self.adapter else ""
        return "@".join([f"{name}{adapter}", *filter(None, options)])

    def read_template_args(self) -> dict[str, Any]:
        """What the chat template reads besides the messages."""
        return {} if self.template_args is None else json.loads(self.template_args)


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """A data set and how much of it is used."""

    name: str = _changes_numbers()
    path: str | None = _changes_no_number(default=None)
    """The file. Its content counts (its SHA-256), not its path."""
    limit: int | None = _changes_numbers(default=None)
    """Use only the first `limit` of the prompts that are kept."""
    match: str | None = _changes_numbers(default=None)
    """Which prompts are kept: `token`, `word` or `none`, see `noiser.experiments.screening`. None: the set's own rule."""
    generate: int | None = _changes_numbers(default=None)
    """Explain this many tokens that the model generates, 0 for the next token only. None: the set's own number."""
    fields: str | None = _changes_numbers(default=None)
    """The fields of a file of your own: `prompt=question,target=answer`. None: as its rows are recognised."""

    @property
    def label(self) -> str:
        """The data set's name in tables."""
        options = [f"{key}={getattr(self, key)}" for key in ("match", "generate") if getattr(self, key) is not None]
        options += self.fields.split(",") if self.fields else []
        name = Path(self.path).stem if self.name == "jsonl" and self.path else self.name
        return ":".join(filter(None, [name, "+".join(options)]))


@dataclass(frozen=True, kw_only=True)
class JudgeChoice:
    """A judge that metrics ask, by the name that `noiser.judges.factory.open_judge` takes."""

    name: str = _changes_numbers()
    url: str | None = _changes_no_number(default=None)
    """The address of an `openai:` judge. The same judge may have another address when a run continues."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every model on every data set with every method and metric. Checked when it is created."""

    models: tuple[ModelChoice, ...] = _changes_numbers()
    data: tuple[DataChoice, ...] = _changes_numbers()
    methods: tuple[str, ...] = _changes_numbers()
    """Labels such as `noiser:bound=l2`."""
    metrics: tuple[str, ...] = _changes_numbers()
    controls: tuple[str, ...] = _changes_numbers(default=CONTROLS)
    judges: tuple[JudgeChoice, ...] = _changes_numbers(default=())
    """The judges that metrics ask. Empty: the default judge, if a metric asks one."""
    seed: int = _changes_numbers(default=0)

    def __post_init__(self) -> None:
        for name, choices in (("models", self.models), ("data", self.data)):
            labels = [choice.label for choice in choices]
            if not labels:
                raise OptionError(f"a run needs {name}")
            if len(set(labels)) < len(labels):
                raise OptionError(f"{name}: give each one once; got {', '.join(labels)}")
        check_distinct(row.spec for row in self.rows if row.spec is not None)  # a control may equal a method
        self.columns()

    def __getstate__(self) -> dict[str, Any]:
        """The settings alone: another process parses them again, so it finds out which methods are not installed there."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @cached_property
    def rows(self) -> list[EvaluatedMethod]:
        """Methods and controls with all their options. Empty if the run only screens prompts."""
        return method_rows(self.methods, self.controls, self.seed, 0) if self.methods or self.controls else []

    def columns(self, judges: Sequence[Judge] | None = None) -> list[EvaluatedMetric]:
        """Metrics with all their options; they ask `judges`. Without `judges` they only have names. Empty if the run has no metrics."""
        return self._named_columns if judges is None else metric_columns(self.metrics, self.seed, judges, empty=True)

    @cached_property
    def _named_columns(self) -> list[EvaluatedMetric]:
        return metric_columns(self.metrics, self.seed, self._named_judges(), empty=True)

    def _named_judges(self) -> list[Judge]:
        from noiser.judges.factory import NamedJudge, judge_name

        if not self.judges and not asks_judge(self.metrics):
            return []
        names = [judge_name(choice.name) for choice in self.judges or (JudgeChoice(name=LOCAL),)]
        return select_judges([NamedJudge(name) for name in names], self.metrics, JudgeConfig())

    def open_judges(self, config: JudgeConfig) -> list[Judge]:
        """The judges that the metrics ask. No judge is loaded or called yet."""
        urls = {choice.name: choice.url for choice in self.judges if choice.url is not None}
        return select_judges([choice.name for choice in self.judges], self.metrics, config, urls)


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """How and where a run is computed. No number depends on it."""

    device: str = "auto"
    device_map: str | None = None
    token_budget: int | None = None
    max_samples: int = 1
    """Samples that are computed together. With 1 a kill loses one sample, and the same machine gives the same bytes."""
    shard: tuple[int, int] = (0, 1)
    """The share of this process: (index from 0, number of shards)."""
    time_limit: float | None = None
    """Seconds after which the run stops in good order."""
    timeout: float | None = None
    """Seconds that one method, or all metrics together, may take for one sample."""
    fail_on_error: float = 0.01
    """The share of samples that may fail before the whole run counts as failed."""
    retry: bool = False
    """Run failed trials again."""
    engine: str = "local"
    address: str | None = None
    workers: int | None = None
    judge_config: JudgeConfig = field(default_factory=JudgeConfig)


def read_plan(path: Path) -> Plan:
    """A plan from a TOML file. Raises OptionError if the file is missing, is not TOML, or has an unknown setting."""
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OptionError(f"there is no file {path}") from error
    except OSError as error:
        raise OptionError(f"cannot read the plan {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not TOML: {error}") from error
    return make_plan(settings, path.parent)


def make_plan(settings: Mapping[str, Any], folder: Path | None = None) -> Plan:
    """A plan from plain values: lists of labels, or of tables with a `name` and options. Relative paths start at `folder`."""
    known = {each.name for each in fields(Plan)} | {"limit"}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise OptionError(f"a plan has {', '.join(sorted(known))}; got {', '.join(unknown)}")
    seed = settings.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise OptionError(f"seed must be a whole number; got {seed!r}")
    return Plan(
        models=tuple(_read_model(entry, folder) for entry in _list(settings, "models")),
        data=tuple(_read_data(entry, settings.get("limit"), folder) for entry in _list(settings, "data")),
        methods=_labels(settings, "methods", DEFAULT_METHODS),
        metrics=_labels(settings, "metrics", DEFAULT_METRICS),
        controls=_labels(settings, "controls", CONTROLS),
        judges=tuple(_read_judge(entry, folder) for entry in _list(settings, "judges")),
        seed=seed,
    )


def _list(settings: Mapping[str, Any], name: str, default: Sequence[str] = ()) -> list[Any]:
    entries = settings.get(name, list(default))
    if not isinstance(entries, list):
        raise OptionError(f'{name} must be a list of names, or of tables with a name: {name} = ["..."]; got {entries!r}')
    return entries


def _labels(settings: Mapping[str, Any], name: str, default: Sequence[str]) -> tuple[str, ...]:
    """Labels of methods, metrics or controls. Raises OptionError if one occurs twice."""
    labels = tuple(map(_label, _list(settings, name, default)))
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise OptionError(f"{name}: give each one once; {', '.join(twice)} came twice")
    return labels


def _label(entry: Any) -> str:
    """`name:option=value`, or a table whose options become part of the label."""
    if isinstance(entry, str):
        return entry
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise OptionError(f"wanted a name, or a table with a name and options; got {entry!r}")
    values = {key: str(value).lower() if isinstance(value, bool) else value for key, value in entry.items() if key != "name"}
    options = "+".join(f"{key}={value}" for key, value in values.items())
    return f"{entry['name']}:{options}" if options else entry["name"]


def _read_data(entry: Any, limit: int | None, folder: Path | None) -> DataChoice:
    from noiser.data import fields_text, is_file_name, parse_fields, read_label_of_data

    if isinstance(entry, str):
        name, path, options = read_label_of_data(entry)
        if "generate" in options:
            options["generate"] = options["generate"] or 0
        entry = {"name": name, **({"path": path} if path is not None else {}), **options}
    elif isinstance(entry, Mapping) and "path" not in entry and is_file_name(str(entry.get("name", ""))):
        entry = {**entry, "name": "jsonl", "path": entry["name"]}
    if isinstance(entry, Mapping) and entry.get("fields") is not None:
        fields = entry["fields"]
        if isinstance(fields, Mapping):
            fields = ",".join(f"{name}={field}" for name, field in fields.items())
        entry = {**entry, "fields": fields_text(parse_fields(str(fields)))}
    choice = _read_choice(DataChoice, entry)
    if choice.limit is None and limit is not None:
        choice = replace(choice, limit=_read_count("the plan: limit", limit))
    if folder is None or choice.path is None:
        return choice
    return replace(choice, path=str(folder / Path(choice.path).expanduser()))


def _read_model(entry: Any, folder: Path | None) -> ModelChoice:
    """A model beside the plan comes before one of the same name elsewhere. Files that it names start at the plan, too."""
    if isinstance(entry, str):
        name, options = read_label(entry)
        entry = {"name": name, **options}
    if isinstance(entry, Mapping) and entry.get("template_args") is not None:
        given, start = entry["template_args"], folder or Path()
        args = parse_template_args(given, start) if isinstance(given, str) else read_template_args(given, start)
        entry = {**entry, "template_args": json.dumps(args, sort_keys=True)}
    model = _read_choice(ModelChoice, entry)
    beside = {
        name: folder / Path(given).expanduser() for name in ("name", "tokenizer", "adapter") if folder and (given := getattr(model, name))
    }
    return replace(model, **{name: str(path) for name, path in beside.items() if path.exists()})


def _read_judge(entry: Any, folder: Path | None) -> JudgeChoice:
    """A judge whose file lies beside the plan comes before one of the same name elsewhere."""
    choice = JudgeChoice(name=entry) if isinstance(entry, str) and entry else _read_choice(JudgeChoice, entry)
    kind, colon, model = choice.name.partition(":")
    path = folder / Path(model).expanduser() if folder is not None and model and kind != "openai" else None
    return replace(choice, name=f"{kind}{colon}{path}") if path is not None and path.exists() else choice


def _read_choice(kind: type[Choice], entry: Any) -> Choice:
    """A choice from a label with options, or from a table. A number may be given as text."""
    if isinstance(entry, str):
        name, options = read_label(entry)
        entry = {"name": name, **options}
    known = {each.name: each for each in fields(kind)}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise OptionError(f"wanted a name, or a table with a name and any of {', '.join(known)}; got {entry!r}")
    unknown = sorted(set(entry) - set(known))
    if unknown:
        raise OptionError(f"{entry['name']} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return kind(**{key: _read_value(entry["name"], known[key], value) for key, value in entry.items()})


def _read_value(name: str, option: Field, value: Any) -> Any:
    if value is None and option.default is not MISSING:
        return option.default
    if option.name == "generate":
        return _read_count(f"{name}: generate", value, least=0)
    return _READERS[option.type](f"{name}: {option.name}", value)


def _read_count(where: str, value: Any, least: int = 1) -> int:
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise OptionError(f"{where} must be a whole number from {least} on; got {value!r}")
    return number


def _read_flag(where: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise OptionError(f"{where} must be true or false; got {value!r}")
    return value == "true"


def _read_text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise OptionError(f"{where} must be text; got {value!r}")
    return value


def _short_value(value: Any) -> str:
    """A value for a label: a long one as a hash."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 24 else hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


_READERS: Mapping[Any, Callable[[str, Any], Any]] = {str: _read_text, str | None: _read_text, int | None: _read_count, bool: _read_flag}
"""How a setting's value is read, by the annotation of its field."""
