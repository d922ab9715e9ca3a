"""A request's JSON to a question that can be put to the model. Everything that needs no model is checked here."""

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from noiser.errors import OptionError
from noiser.lm.target import Question
from noiser.methods import METHODS, parse_all
from noiser.web.errors import Refusal


@dataclass(frozen=True)
class Limits:
    """Bounds of one server, told to its page as they are."""

    max_tokens: int = 2048
    """Of a prompt, its continuation included."""
    max_methods: int = 16
    """In one request."""
    max_messages: int = 100
    """Of a chat: finding out where each stands in the rendered chat takes the square of their number."""
    max_generate: int = 64
    """Tokens of a continuation or target, given or generated."""
    max_draws: int = 500_000
    """`samples` of a method times tokens of the prompt: what a method draws is held in memory at once."""
    queue: int = 16
    """Requests that may wait; what comes on top is sent away (429)."""

    @property
    def max_characters(self) -> int:
        """Of a prompt, before anything is tokenised."""
        return 16 * self.max_tokens

    def to_dict(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


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


SOURCES = ("prompt", "messages", "input_ids")
WORDS = ("target", "foil", "continuation")
FIELDS = (*SOURCES, "method", "options", "methods", *WORDS, "generate", "span", "quantity", "curves")
OPTION = 100
"""Characters of an option's value."""


@dataclass(frozen=True)
class Asked:
    """One request, checked; equal requests have equal keys."""

    source: str | list[Any]
    """What `LanguageModel.prompt` takes."""
    methods: dict[str, dict[str, Any]]
    """Each method with all of its options."""
    question: Question
    curves: bool
    single: bool
    """Whether it asked for one `method`, whose answer is an attribution, not a comparison."""

    @property
    def key(self) -> str:
        """What the answer depends on, the model apart."""
        question = {field.name: getattr(self.question, field.name) for field in fields(self.question)}
        plain = [self.source, list(self.methods.items()), question, self.curves, self.single]
        return json.dumps(plain, ensure_ascii=True, separators=(",", ":"))


def read(record: Mapping[str, Any], limits: Limits, *, streamed: bool) -> Asked:
    """Raises OptionError or PromptError for what makes no sense, and Refusal (413) for what is too much.

    A streamed request is always a comparison, and has removal curves unless it says otherwise.
    """
    unknown = sorted(set(record) - set(FIELDS))
    if unknown:
        raise OptionError(f"there is no field {', '.join(map(shown, unknown[:3]))}; there are {', '.join(FIELDS)}")
    source = _source(record, limits)
    methods, single = _methods(record, limits)
    words = {name: _words(name, record.get(name), limits) for name in WORDS}
    generate = _optional(record, "generate", int, "a whole number")
    if generate is not None and generate > limits.max_generate:
        raise OptionError(f"generate is at most {limits.max_generate} here; got {shown(generate)}")
    quantity = _optional(record, "quantity", str, "text")
    question = Question(**words, generate=generate, span=_span(record.get("span")), quantity=quantity and quantity[:OPTION])
    curves = _optional(record, "curves", bool, "true or false")
    return Asked(source, methods, question, streamed if curves is None else curves, single and not streamed)


def _optional(record: Mapping[str, Any], name: str, kind: type, wanted: str) -> Any:
    value = record.get(name)
    if value is not None and type(value) is not kind:
        raise OptionError(f"{name} is {wanted}; got {shown(value)}")
    return value


def _source(record: Mapping[str, Any], limits: Limits) -> str | list[Any]:
    given = [name for name in SOURCES if record.get(name) is not None]
    if len(given) != 1:
        raise OptionError(f"give one of {', '.join(SOURCES)}; got {' and '.join(given) or 'none'}")
    (name,) = given
    value = record[name]
    if name == "prompt":
        _optional(record, name, str, "text")
        _check_length(len(value), limits)
    elif name == "messages":
        value = _messages(value, limits)
        _check_length(sum(len(message["role"]) + len(message["content"]) for message in value), limits)
    else:
        _check_ids(name, value)
        if len(value) > limits.max_tokens:
            raise too_long(f"the prompt has {len(value):,} tokens", limits)
    return value


def _messages(value: Any, limits: Limits) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise OptionError(f'messages are a list: [{{"role": "user", "content": "..."}}, ...]; got {shown(value)}')
    if len(value) > limits.max_messages:
        raise OptionError(f"a chat has at most {limits.max_messages} messages here; got {len(value):,}")
    for number, message in enumerate(value):
        fits = isinstance(message, dict) and set(message) == {"role", "content"} and all(isinstance(each, str) for each in message.values())
        if not fits or len(message["role"]) > OPTION:
            raise OptionError(f"message {number} has a role and a content, both text, and nothing else; got {shown(message)}")
    return value


def _check_length(characters: int, limits: Limits) -> None:
    if characters > limits.max_characters:
        raise too_long(f"the prompt has {characters:,} characters", limits)


def too_long(found: str, limits: Limits) -> Refusal:
    """What a prompt is told that is longer than this server takes; `found` says how long it is."""
    most = f"{limits.max_tokens:,} tokens and {limits.max_characters:,} characters"
    return Refusal(413, "PromptError", f"{found}; this server takes {most} (--max-tokens): shorten it")


def _check_ids(name: str, value: Any) -> None:
    if not isinstance(value, list) or not value or not all(type(each) is int for each in value):
        raise OptionError(f"{name} are token ids, whole numbers in a list; got {shown(value)}")


def _words(name: str, value: Any, limits: Limits) -> Any:
    if value is None or type(value) is int:
        return value
    if isinstance(value, str):
        if len(value) > limits.max_characters:
            raise too_long(f"the {name} has {len(value):,} characters", limits)
        return value
    _check_ids(name, value)
    if len(value) > limits.max_generate:
        raise OptionError(f"{name} has at most {limits.max_generate} tokens here; got {len(value):,}")
    return value


def _span(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(each) is int for each in value):
        raise OptionError(f"span is [from, up to], tokens of the continuation counted from 0; got {shown(value)}")
    return value[0], value[1]


def _methods(record: Mapping[str, Any], limits: Limits) -> tuple[dict[str, dict[str, Any]], bool]:
    """Each method with its options in full, and whether a single one was asked for."""
    single, several = record.get("method"), record.get("methods")
    if (single is None) == (several is None):
        raise OptionError(f"give one of method and methods; got {'none' if single is None else 'both'}")
    if single is not None:
        return _checked({_known(single): _options(single, record.get("options"))}), True
    if record.get("options") is not None:
        raise OptionError('options belong to a single method; of several each has its own: {"methods": {"noiser": {"samples": 20}}}')
    if not isinstance(several, list | dict) or not several:
        raise OptionError(f"methods are names in a list, or names with options; got {shown(several)}")
    if len(several) > limits.max_methods:
        raise OptionError(f"at most {limits.max_methods} methods at a time; got {len(several)}")
    names = [_known(name) for name in several]
    if isinstance(several, list):
        return _checked(names), False
    return _checked({name: _options(name, options) for name, options in several.items()}), False


def _checked(methods: list[str] | dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {spec.label: dict(spec.options) for spec in parse_all(methods)}


def _known(name: Any) -> str:
    """Only what `noiser methods` lists: Inseq's methods take options of any form and may read pickles."""
    if not isinstance(name, str) or name not in METHODS:
        raise OptionError(f"there is no method {shown(name)}; there are {', '.join(sorted(METHODS))}")
    return name


def _options(name: str, options: Any) -> dict[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise OptionError(f"the options of {name} are an object of names and values; got {shown(options)}")
    for option, value in options.items():
        if len(option) > OPTION or not isinstance(value, str | int | float | None) or (isinstance(value, str) and len(value) > OPTION):
            raise OptionError(f"{name}: {shown(option)} wants a number or a short text; got {shown(value)}")
    return options
