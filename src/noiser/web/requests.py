"""Reads a request's JSON. Everything that can be checked without the model is checked here."""

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from noiser.errors import OptionError
from noiser.lm.documents import read_documents
from noiser.lm.target import Question
from noiser.methods import METHODS, parse, parse_all
from noiser.registry import MethodSpec, read_label
from noiser.web.errors import HttpError

SOURCES = ("prompt", "messages", "input_ids")
PARTS = {"spans": {"name": str, "start": int, "stop": int}, "documents": {"title": str, "text": str}}
"""The fields of a named part of the prompt, and their types."""
WORDS = ("target", "foil", "continuation")
FIELDS = (*SOURCES, *PARTS, "method", "options", "methods", *WORDS, "generate", "span", "explain", "quantity", "curves")
MAX_OPTION = 100
"""Characters of an option's name or value, a quantity or a role."""
MAX_LABEL = 300
"""Characters of a method's name with its options."""
MAX_DIGITS = 18
"""Digits of a whole number; token ids and counts are shorter."""


@dataclass(frozen=True)
class Limits:
    """The bounds of one server. Its page shows them."""

    max_tokens: int = 2048
    """Tokens of a prompt, its continuation included."""
    max_methods: int = 16
    """Methods in one request."""
    max_messages: int = 100
    """Messages of a chat. The work to find each message in the rendered chat grows with the square of their number."""
    max_sources: int = 200
    """Documents or named spans of a prompt."""
    max_generate: int = 64
    """Tokens of a continuation or target, given or generated."""
    max_draws: int = 500_000
    """Any whole number among a method's options (`samples`, `steps`) times tokens of the prompt. It bounds memory."""
    time_limit: int = 600
    """Seconds for which one request may run."""
    queue: int = 16
    """Requests that may wait. A further request gets status 429."""

    @property
    def max_characters(self) -> int:
        """Characters of a prompt, checked before it is tokenised."""
        return 16 * self.max_tokens

    def to_dict(self) -> dict[str, int]:
        """Every limit by name."""
        return asdict(self)


@dataclass(frozen=True)
class AttributionRequest:
    """One checked request. Equal requests have equal keys."""

    source: str | list[Any]
    """The prompt, as `LanguageModel.prompt` takes it."""
    named: Mapping[str, Any]
    """Its spans or documents, if there are any."""
    methods: tuple[MethodSpec, ...]
    question: Question
    curves: bool
    single: bool
    """Whether one `method` was named. Its answer is an attribution, not a comparison."""

    @property
    def key(self) -> str:
        """Everything that the answer depends on, except the model."""
        question = {field.name: getattr(self.question, field.name) for field in fields(self.question)}
        methods = [(spec.label, dict(spec.options)) for spec in self.methods]
        plain = [self.source, self.named, methods, question, self.curves, self.single]
        return json.dumps(plain, ensure_ascii=True, separators=(",", ":"))


def parse_json(raw: bytes) -> dict[str, Any]:
    """The JSON object in a request's body. Raises HttpError (400) if the body is anything else."""
    try:
        parsed = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique_names,
            parse_constant=_refuse_constant,
            parse_int=_parse_int,
            parse_float=_parse_float,
        )
    except RecursionError as error:
        raise _bad_body("the JSON is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise _bad_body(f"the body is not UTF-8: byte 0x{raw[error.start]:02x} at {error.start}") from error
    except ValueError as error:
        raise _bad_body(f"the body is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise _bad_body(f"the body must be a JSON object; got {quote(parsed)}")
    return parsed


def parse_request(record: Mapping[str, Any], limits: Limits, *, streamed: bool) -> AttributionRequest:
    """The checked request. A streamed request is always a comparison, and has removal curves unless it says otherwise.

    Raises OptionError or PromptError for a value that makes no sense, and HttpError (413) for a prompt that is too long.
    """
    unknown = sorted(set(record) - set(FIELDS))
    if unknown:
        raise OptionError(f"there is no field {', '.join(map(quote, unknown[:3]))}; there are {', '.join(FIELDS)}")
    source = _source(record, limits)
    named = _named(record, limits)
    methods, single = _methods(record, limits)
    words = {name: _words(name, record.get(name), limits) for name in WORDS}
    generate = _typed(record, "generate", int, "a whole number")
    if generate is not None and generate > limits.max_generate:
        raise OptionError(f"generate must be at most {limits.max_generate} here; got {quote(generate)}")
    quantity = _typed(record, "quantity", str, "a text")
    part = {"span": _span(record.get("span")), "explain": _explain(record, limits)}
    question = Question(**words, generate=generate, **part, quantity=quantity and quantity[:MAX_OPTION])
    curves = _typed(record, "curves", bool, "true or false")
    return AttributionRequest(source, named, methods, question, streamed if curves is None else curves, single and not streamed)


_short_repr = reprlib.Repr()
_short_repr.maxlevel, _short_repr.maxstring, _short_repr.maxother, _short_repr.maxlist, _short_repr.maxdict = 2, 60, 60, 4, 4


def quote(value: Any) -> str:
    """A value of a request for a message: short, however long or deep the value is."""
    return _short_repr.repr(value)


def prompt_too_long(length: str, limits: Limits) -> HttpError:
    """The error (413) for a prompt that is too long; `length` is a clause with its length."""
    allowed = f"{limits.max_tokens:,} tokens and {limits.max_characters:,} characters"
    return HttpError(413, "PromptError", f"{length}; this server takes {allowed} (--max-tokens): shorten it")


def _bad_body(message: str) -> HttpError:
    return HttpError(400, "RequestError", message)


def _unique_names(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for name, value in pairs:
        if name in record:
            raise ValueError(f"{quote(name)} is there twice")
        record[name] = value
    return record


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _parse_int(text: str) -> int:
    digits = len(text.lstrip("-"))
    if digits > MAX_DIGITS:
        raise ValueError(f"a whole number may have {MAX_DIGITS} digits; got {digits}")
    return int(text)


def _parse_float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{quote(text)} is too large")
    return number


def _typed(record: Mapping[str, Any], name: str, kind: type, expected: str) -> Any:
    """An optional field of one type; None if it is absent or null."""
    value = record.get(name)
    if value is not None and type(value) is not kind:
        raise OptionError(f"{name} must be {expected}; got {quote(value)}")
    return value


def _source(record: Mapping[str, Any], limits: Limits) -> str | list[Any]:
    """The prompt, the messages or the token ids: exactly one of them."""
    names = [name for name in SOURCES if record.get(name) is not None]
    if len(names) != 1:
        raise OptionError(f"give one of {', '.join(SOURCES)}; got {' and '.join(names) or 'none'}")
    (name,) = names
    value = record[name]
    if name == "prompt":
        _typed(record, name, str, "a text")
        _check_length(len(value), limits)
    elif name == "messages":
        value = _messages(value, limits)
        _check_length(sum(len(message["role"]) + len(message["content"]) for message in value), limits)
    else:
        _check_ids(name, value)
        if len(value) > limits.max_tokens:
            raise prompt_too_long(f"the prompt has {len(value):,} tokens", limits)
    return value


def _named(record: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """The spans or the documents of the prompt, at most one of them. What depends on the text is checked where the text is known."""
    given = {name: record[name] for name in PARTS if record.get(name) is not None}
    if len(given) > 1:
        raise OptionError("give spans or documents, not both: each document is a span")
    for name, parts in given.items():
        if not isinstance(parts, list) or not parts:
            raise OptionError(f"{name} must be a list of objects with {', '.join(PARTS[name])}; got {quote(parts)}")
        if len(parts) > limits.max_sources:
            raise OptionError(f"a prompt may have at most {limits.max_sources} {name} here; got {len(parts):,}")
        for number, part in enumerate(parts, 1):
            _check_part(name, number, part)
        _check_length(sum(len(value) for part in parts for value in part.values() if isinstance(value, str)), limits)
    if "documents" in given:
        read_documents(given["documents"])
    return given


def _check_part(name: str, number: int, part: Any) -> None:
    """Raises OptionError for what is no object, and for fields of another name or type."""
    kinds = PARTS[name]
    if not isinstance(part, dict) or not set(part) <= set(kinds):
        raise OptionError(f"number {number} of the {name} must be an object with {', '.join(kinds)}; got {quote(part)}")
    for field, value in part.items():
        if type(value) is not kinds[field]:
            wanted = "a text" if kinds[field] is str else "a whole number"
            raise OptionError(f"number {number} of the {name}: {field} must be {wanted}; got {quote(value)}")


def _messages(value: Any, limits: Limits) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise OptionError(f'messages must be a list: [{{"role": "user", "content": "..."}}, ...]; got {quote(value)}')
    if len(value) > limits.max_messages:
        raise OptionError(f"a chat may have at most {limits.max_messages} messages here; got {len(value):,}")
    for number, message in enumerate(value):
        valid = isinstance(message, dict) and set(message) == {"role", "content"} and all(map(_is_text, message.values()))
        if not valid or len(message["role"]) > MAX_OPTION:
            raise OptionError(f"message {number} must have a role and a content, both texts, and nothing else; got {quote(message)}")
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _check_length(characters: int, limits: Limits) -> None:
    if characters > limits.max_characters:
        raise prompt_too_long(f"the prompt has {characters:,} characters", limits)


def _check_ids(name: str, value: Any) -> None:
    if not isinstance(value, list) or not value or not all(type(token) is int for token in value):
        raise OptionError(f"{name} must be token ids, a list of whole numbers; got {quote(value)}")


def _words(name: str, value: Any, limits: Limits) -> Any:
    """A target, foil or continuation: a text, a token id, or a list of token ids."""
    if value is None or type(value) is int:
        return value
    if isinstance(value, str):
        if len(value) > limits.max_characters:
            raise prompt_too_long(f"the {name} has {len(value):,} characters", limits)
        return value
    _check_ids(name, value)
    if len(value) > limits.max_generate:
        raise OptionError(f"{name} may have at most {limits.max_generate} tokens here; got {len(value):,}")
    return value


def _span(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(type(token) is int for token in value):
        raise OptionError(f"span must be [from, up to], tokens of the continuation counted from 0; got {quote(value)}")
    return value[0], value[1]


def _explain(record: Mapping[str, Any], limits: Limits) -> str | None:
    words = _typed(record, "explain", str, "words of the continuation, as text")
    if words is not None:
        _check_length(len(words), limits)
    return words


def _methods(record: Mapping[str, Any], limits: Limits) -> tuple[tuple[MethodSpec, ...], bool]:
    """The methods with all of their options, and whether a single `method` was named."""
    single, several = record.get("method"), record.get("methods")
    if (single is None) == (several is None):
        raise OptionError(f"give one of method and methods; got {'none' if single is None else 'both'}")
    if single is not None:
        return (parse(_known_label(single), _options(single, record.get("options"))),), True
    if record.get("options") is not None:
        raise OptionError('options belong to a single method; several methods take theirs as {"methods": {"noiser": {"samples": 20}}}')
    if not isinstance(several, list | dict) or not several:
        raise OptionError(f"methods must be names in a list, or names with options; got {quote(several)}")
    if len(several) > limits.max_methods:
        raise OptionError(f"at most {limits.max_methods} methods at a time; got {len(several)}")
    labels = [_known_label(label) for label in several]
    options = several if isinstance(several, dict) else {}
    return tuple(parse_all({label: _options(label, options.get(label)) for label in labels} if options else labels)), False


def _known_label(label: Any) -> str:
    """A method that `noiser methods` lists, with or without options: `noiser:bound=none`.

    Inseq's methods are refused: they take options of any form and may read pickles.
    """
    if not isinstance(label, str) or len(label) > MAX_LABEL or read_label(label)[0] not in METHODS:
        raise OptionError(f"there is no method {quote(label)}; there are {', '.join(sorted(METHODS))}")
    return label


def _options(name: str, options: Any) -> dict[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise OptionError(f"the options of {name} must be an object of names and values; got {quote(options)}")
    for option, value in options.items():
        plain = isinstance(value, str | int | float | None) and not (isinstance(value, str) and len(value) > MAX_OPTION)
        if len(option) > MAX_OPTION or not plain:
            raise OptionError(f"{name}: {quote(option)} wants a number or a short text; got {quote(value)}")
    return options
