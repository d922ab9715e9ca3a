"""The options that commands share, as frozen dataclasses, and the decorator that turns a dataclass into options of a command.

TargetOptions is in inputs.py. DisplayOptions (--granularity, --normalize) is in outputs.py.
No module of this package imports torch, transformers, matplotlib or starlette when it is imported, so that --help is fast.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args
from urllib.parse import urlsplit

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

from noiser.errors import OptionError
from noiser.registry import DEFAULT_METHODS as METHODS

if TYPE_CHECKING:
    from noiser.judges.protocol import JudgeConfig
    from noiser.lm.model import LanguageModel

WHAT, METHOD, MODEL, JUDGE, OUTPUT, ADVANCED = "What to explain", "Method", "Model", "Judge", "Output", "Advanced"
PANELS = (WHAT, METHOD, MODEL, JUDGE, OUTPUT, ADVANCED)
"""The panels of --help, in their order."""
DEFAULT_MODEL = "smollm2-135m"
DEFAULT_METHODS = ",".join(METHODS)
RENAMED = {
    "granularity": "--by",
    "max_samples": "--at-once",
    "time_limit": "--max-seconds",
    "fail_on_error": "--max-errors",
    "judge_max_connections": "--judge-at-once",
    "judge_total_timeout": "--judge-budget",
}
"""Parameters whose option had another name before version 0.2. The old name works for one release and is not in --help."""


IMPLIED = {"check": ("--metrics", "default")}
"""For a command, an option that may stand without a value, and the value that it has then."""


class Command(TyperCommand):
    """A command whose --help option stands in the last panel, so that the first panel says what the command is for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """An option of IMPLIED may stand without a value."""
        option, value = IMPLIED.get(self.name or "", (None, ""))
        pairs = zip(args, [*args, "-"][1:], strict=True)
        args = [part for word, following in pairs for part in ((word, value) if word == option and following.startswith("-") else (word,))]
        return super().parse_args(ctx, args)

    def get_help_option(self, ctx: Any) -> Any:
        """The --help option, moved to the panel `Advanced`."""
        option: Any = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = ADVANCED
        return option


def expand_options(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters that are annotated with a dataclass become one option for each field.

    Typer sees the fields, sorted by the panel of --help. The function gets the dataclasses.
    """
    parameters = inspect.signature(function).parameters.values()
    groups: dict[str, Any] = {parameter.name: parameter.annotation for parameter in parameters if is_dataclass(parameter.annotation)}
    options = [option for parameter in parameters for option in _options(parameter)]
    old_names = {_old_parameter(option).name: option.name for option in options if option.name in RENAMED}

    def command(**values: Any) -> None:
        for old, new in old_names.items():
            _use_old_name(values, old, new, next(option.default for option in options if option.name == new))
        arguments = {name: group(**{field.name: values.pop(field.name) for field in fields(group)}) for name, group in groups.items()}
        function(**arguments, **values)

    options += [_old_parameter(option) for option in options if option.name in RENAMED]
    options.sort(key=_panel)
    command.__name__, command.__doc__, command.__module__ = function.__name__, function.__doc__, function.__module__
    command.__annotations__ = {option.name: option.annotation for option in options}
    cast("Any", command).__signature__ = inspect.Signature(options)
    return command


def _options(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """The parameter itself, or one for each field of its dataclass."""
    if not is_dataclass(parameter.annotation):
        yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        return
    for field in fields(parameter.annotation):
        yield inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)


def _option_info(option: inspect.Parameter) -> Any:
    return next(item for item in get_args(option.annotation)[1:] if hasattr(item, "rich_help_panel"))


def _panel(option: inspect.Parameter) -> int:
    """Where the option stands in --help: arguments first, options without a panel of ours last."""
    info = _option_info(option)
    if not isinstance(info, OptionInfo):
        return -1
    return PANELS.index(info.rich_help_panel) if info.rich_help_panel in PANELS else len(PANELS)


def _old_parameter(option: inspect.Parameter) -> inspect.Parameter:
    """A hidden option under the old name. Its value is None unless the user gives it."""
    info, kind = _option_info(option), get_args(option.annotation)[0]
    hidden = typer.Option(RENAMED[option.name], hidden=True, min=info.min, max=info.max)
    return option.replace(name=f"old_{option.name}", default=None, annotation=Annotated[kind | None, hidden])


def _use_old_name(values: dict[str, Any], old: str, new: str, default: Any) -> None:
    """Move the value that came under the old name to the new name, and say so on standard error."""
    value = values.pop(old)
    if value is None:
        return
    name = f"--{new.replace('_', '-')}"
    if values[new] != default:
        raise OptionError(f"{RENAMED[new]} is the old name of {name}: give {name} only")
    sys.stderr.write(f"Note: {RENAMED[new]} is now {name}. The old name works for one release\n")
    values[new] = value


def format_option(text: str) -> Any:
    """The option --format of one command; `text` lists the formats."""
    return typer.Option("--format", help=text, rich_help_panel=OUTPUT)


Prompt = Annotated[str | None, typer.Argument(metavar="PROMPT", help="The prompt.", show_default=False)]
Messages = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help='Explain a chat instead of a prompt: a JSON file with [{"role": ..., "content": ...}]; - is standard input.',
        rich_help_panel=WHAT,
    ),
]
FieldNames = Annotated[
    str | None,
    typer.Option(
        "--fields",
        metavar="NAME=FIELD,...",
        help="The fields of a file with other names: prompt=question,target=answer; also id and group. (default: recognised)",
        rich_help_panel=ADVANCED,
    ),
]
Method = Annotated[str, typer.Option(help="The attribution method, see `noiser methods`.", rich_help_panel=METHOD)]
Methods = Annotated[
    str, typer.Option(help="Methods, separated by commas. Options follow a colon: noiser:bound=l2+steps=5.", rich_help_panel=METHOD)
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="An option of the method, e.g. samples=20. Repeat it for more.", rich_help_panel=METHOD
    ),
]
MethodSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="[NAME.]OPTION=VALUE",
        help="An option of the method NAME, or of all methods that have it. Repeat it for more.",
        rich_help_panel=METHOD,
    ),
]
Seed = Annotated[int, typer.Option(help="The seed of all random draws.", rich_help_panel=ADVANCED)]
MethodSeed = Annotated[int | None, typer.Option(help="The seed of the method's random draws. (default: 0)", rich_help_panel=METHOD)]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Write to this file. (default: standard output)", rich_help_panel=OUTPUT)]

ModelName = Annotated[
    str,
    typer.Option(
        help="smollm2-135m, a hub id, a folder, a GGUF file; or vllm:http://HOST:PORT/NAME, with --tokenizer.", rich_help_panel=MODEL
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps. auto: the first GPU, else the CPU.", rich_help_panel=MODEL)]
Dtype = Annotated[
    str,
    typer.Option(help="auto, float32, bfloat16, float16. auto: float32 on a CPU, the checkpoint's own on a GPU.", rich_help_panel=MODEL),
]
ADAPTER_HELP = "A folder or hub id of an adapter (LoRA) to put into the model. A --model that is an adapter names its own base."
Adapter = Annotated[str | None, typer.Option(metavar="FOLDER", help=ADAPTER_HELP, rich_help_panel=MODEL)]
TOKENIZER_HELP = "For a model behind a server: the hub id, folder or file that its tokenizer and embedding table are read from."
Tokenizer = Annotated[str | None, typer.Option(metavar="FOLDER", help=TOKENIZER_HELP, rich_help_panel=MODEL)]
MaxConnections = Annotated[int, typer.Option(min=1, help="The most requests to a model's server at a time.", rich_help_panel=ADVANCED)]
REVISION_HELP = "A branch, tag or commit of a hub model."
ATTENTION_HELP = "The attention implementation of transformers, e.g. eager. (default: transformers chooses)"
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the Python code that comes with the model.", rich_help_panel=ADVANCED)
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Read pickled weights. Reading them can run any code.", rich_help_panel=ADVANCED)
]
TemplateArgs = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=VALUE,...",
        help="What a chat template reads besides the messages: enable_thinking=false,tools=FILE; or a JSON object.",
        rich_help_panel=ADVANCED,
    ),
]
TokenBudget = Annotated[
    int | None,
    typer.Option(min=1, help="The most tokens in one batch. (default: as many as fit into memory)", rich_help_panel=ADVANCED),
]


@dataclass(frozen=True, kw_only=True)
class ModelChoiceOptions:
    """Which model, and what of it changes numbers."""

    model: ModelName = DEFAULT_MODEL
    tokenizer: Tokenizer = None
    adapter: Adapter = None
    dtype: Dtype = "auto"
    revision: Annotated[str | None, typer.Option(help=REVISION_HELP, rich_help_panel=ADVANCED)] = None
    attention: Annotated[str | None, typer.Option(help=ATTENTION_HELP, rich_help_panel=ADVANCED)] = None
    trust_remote_code: TrustRemoteCode = False
    allow_pickle: AllowPickle = False
    template_args: TemplateArgs = None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(ModelChoiceOptions):
    """Which model, and where it runs."""

    device: Device = "auto"
    token_budget: TokenBudget = None
    max_connections: MaxConnections = 8

    def load(self) -> "LanguageModel":
        """The model. Raises ModelError if it cannot be found, read, trusted or explained."""
        from noiser.lm.load import load

        options = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("model", "template_args")}
        return load(self.model, **options, template_args=self.read_template_args())

    def read_template_args(self) -> dict[str, Any] | None:
        """What the chat template reads besides the messages. Raises OptionError."""
        from noiser.text.prompt import parse_template_args

        return None if self.template_args is None else parse_template_args(self.template_args)

    def check_chat(self, source: Any) -> None:
        """Raises OptionError if there are template args and the prompt is text, or if they cannot be read."""
        if self.read_template_args() is not None and isinstance(source, str):
            raise OptionError("--template-args are for chats: give --messages FILE instead of a prompt")


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """Which judges answer, and how they are called."""

    judge: Annotated[
        str | None,
        typer.Option(
            help="local, local:MODEL, openai:MODEL, llama:GGUF; several with commas. (default: local)",
            rich_help_panel=JUDGE,
        ),
    ] = None
    judge_url: Annotated[
        str | None,
        typer.Option(
            help="The URL of an openai: judge, e.g. http://localhost:8000/v1. (default: OPENAI_BASE_URL, else OpenAI)",
            rich_help_panel=JUDGE,
        ),
    ] = None
    judge_cache: Annotated[
        str,
        typer.Option(
            help="use: call the judge only for new prompts; only: never call it; off: neither read nor write the cache.",
            rich_help_panel=ADVANCED,
        ),
    ] = "use"
    judge_max_connections: Annotated[int, typer.Option(min=1, help="The most calls to a judge at a time.", rich_help_panel=ADVANCED)] = 8
    judge_timeout: Annotated[float, typer.Option(help="The most seconds for one call to a judge.", rich_help_panel=ADVANCED)] = 60.0
    judge_total_timeout: Annotated[
        float, typer.Option(help="The most seconds for one question to a judge, with all its retries.", rich_help_panel=ADVANCED)
    ] = 300.0

    def config(self, device: str) -> "JudgeConfig":
        """How judges are called; `local:` judges run on `device`. Raises OptionError for a value that does not exist or fit."""
        from noiser.judges.protocol import CACHE_MODES, JudgeConfig

        cache: Any = self.judge_cache
        if cache not in CACHE_MODES:
            raise OptionError(f"--judge-cache must be one of {', '.join(CACHE_MODES)}; got {cache!r}")
        for option, seconds in (("--judge-timeout", self.judge_timeout), ("--judge-total-timeout", self.judge_total_timeout)):
            if not (isfinite(seconds) and seconds > 0):
                raise OptionError(f"{option} is a number of seconds above 0; got {seconds:g}")
        if self.judge_url is not None:
            _check_url(self.judge_url)
        return JudgeConfig(
            url=self.judge_url,
            cache=cache,
            max_connections=self.judge_max_connections,
            timeout=self.judge_timeout,
            total_timeout=self.judge_total_timeout,
            device=device,
        )


def _check_url(url: str) -> None:
    """Raises OptionError for a URL that is not HTTP or holds a secret. The error does not repeat the URL."""
    try:
        parts = urlsplit(url)
        is_http, has_secret = parts.scheme in ("http", "https") and bool(parts.hostname), parts.username is not None or bool(parts.query)
        _ = parts.port
    except ValueError:
        is_http, has_secret = False, False
    if has_secret:
        raise OptionError("--judge-url takes no user, password or query. Put a key into the environment variable NOISER_JUDGE_KEY")
    if not is_http:
        raise OptionError("--judge-url wants a URL that begins with http:// or https://, e.g. http://localhost:8000/v1")
