"""What a command line asks for, checked before any weights are read."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noiser.errors import NoiserError, OptionError, PromptError
from noiser.lm.target import Question
from noiser.registry import read_label
from noiser.results.scores import NORMALIZATIONS
from noiser.text.units import UNITS


@dataclass(frozen=True)
class Asked:
    """The options about the target, as typed."""

    target: str | None = None
    foil: str | None = None
    continuation: str | None = None
    generate: int | None = None
    span: str | None = None
    quantity: str | None = None

    def question(self) -> Question:
        """Raises OptionError where they make no sense, alone or together."""
        words = [read_words(f"--{name}", getattr(self, name)) for name in ("target", "foil", "continuation")]
        return Question(words[0], words[1], words[2], self.generate, _span(self.span), self.quantity)


def read_words(option: str, value: str | None) -> str | int | tuple[int, ...] | None:
    """Text as it is; `id:7042` as an id, `id:7,8` as several."""
    if value is None or not value.startswith("id:"):
        return value
    if not re.fullmatch(r"[0-9]{1,18}(,[0-9]{1,18})*", value[3:], re.ASCII):
        raise OptionError(f"{option} id:N wants a token id, or several as id:N,M; got {value!r}")
    ids = tuple(map(int, value[3:].split(",")))
    return ids[0] if len(ids) == 1 else ids


def read_settings(settings: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE pairs, the last of the same name counting."""
    pairs = [setting.partition("=") for setting in settings]
    for setting, (name, separator, _) in zip(settings, pairs, strict=True):
        if not separator or not name:
            raise OptionError(f"--set wants NAME=VALUE; got {setting!r}")
    return {name: value for name, _, value in pairs}


def read_lines(file: str) -> list[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers from 1 on. Only a newline ends a line; - is standard input."""
    raw = sys.stdin.buffer.read() if file == "-" else existing(file).read_bytes()
    lines = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [(number, line.removesuffix(b"\r")) for number, line in enumerate(lines, 1) if line.strip()]


def decoded(line: bytes) -> str | NoiserError:
    """The line as text, or what is wrong with it."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return PromptError(f"the line is not UTF-8: byte 0x{line[error.start]:02x} at {error.start}")


def assigned(settings: Sequence[str], has: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, dict[str, str]]:
    """For each name in `has` what is set for it: NAME.OPTION=VALUE for one, OPTION=VALUE for all that have it and do not say
    otherwise themselves (`noiser:steps=5`).

    Raises OptionError for a name or an option that is not there; `where` says where the names come from.
    """
    given: dict[str, dict[str, str]] = {name: {} for name in has}
    for key, value in read_settings(settings).items():
        name, dot, option = key.rpartition(".")
        takers = [name] if dot else [each for each in has if option in has[each] and option not in read_label(each)[1]]
        if dot and name not in has:
            raise OptionError(f"--set {key}: {name!r} is not among {where}")
        if not takers:
            raise OptionError(f"--set {key}: none of {', '.join(has)} has an option {option!r}")
        for taker in takers:
            given[taker][option] = value
    return given


def read_names(option: str, names: str) -> list[str]:
    """Names separated by commas. Raises OptionError where one came twice."""
    found = [name.strip() for name in names.split(",") if name.strip()]
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise OptionError(f"{option} wants each {option.strip('-').removesuffix('s')} once; {', '.join(twice)} came twice")
    return found


def read_judges(names: str | None) -> list[str]:
    """Judges separated by commas; none where nothing was said. Raises OptionError where what was said names nobody."""
    found = read_names("--judge", names or "")
    if names is not None and not found:
        raise OptionError(f"--judge names nobody; got {names!r}")
    return found


def read_messages(path: str) -> list[Any]:
    """A chat: a JSON list of {"role": ..., "content": ...}, from a file or standard input."""
    try:
        raw = sys.stdin.buffer.read() if path == "-" else existing(path).read_bytes()
        messages = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"--messages wants a JSON list of role and content: {error}") from error
    wrong = not isinstance(messages, list) or not messages or not all(isinstance(message, Mapping) for message in messages)
    if wrong:
        raise OptionError('--messages wants a JSON list: [{"role": "user", "content": "..."}, ...]')
    return messages


def check_display(normalize: str, by: str | None) -> None:
    """Raises OptionError for a normalisation or unit that does not exist."""
    if normalize not in NORMALIZATIONS:
        raise OptionError(f"--normalize must be one of {', '.join(NORMALIZATIONS)}; got {normalize!r}")
    if by is not None and by not in UNITS:
        raise OptionError(f"--by must be one of {', '.join(UNITS)}; got {by!r}")


def existing(path: str) -> Path:
    """The path. Raises OptionError where there is no such file."""
    if not Path(path).exists() or Path(path).is_dir():
        raise OptionError(f"there is no file {path}")
    return Path(path)


def _span(span: str | None) -> tuple[int, int] | None:
    if span is None:
        return None
    found = re.fullmatch(r"([0-9]{1,18}):([0-9]{1,18})", span, re.ASCII)
    if not found:
        raise OptionError(f"--span wants FROM:TO, tokens of the continuation counted from 0; got {span!r}")
    return int(found[1]), int(found[2])
