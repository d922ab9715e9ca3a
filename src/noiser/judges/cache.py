"""The reply cache on disk: each completion under its model, messages and parameters. It is read without the judge and without a network."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from noiser.errors import RunError
from noiser.judges.backend import Completion, Message
from noiser.judges.protocol import ReplyStatus
from noiser.storage import Damage, Writer, cache_folder, scan

_FIELDS = {
    "reply": {"key": str, "model": str, "text": str, "finish": str, "status": str, "at": str},
    "trial": {"model": str, "found": dict, "at": str},
}
"""The kinds of records in the files, with the fields that are read. A `trial` holds the capabilities of a model."""


@dataclass(frozen=True)
class Entry:
    """A stored completion, with its status at that time."""

    text: str
    finish: str
    """Why it ended, in the server's words."""
    model: str
    """The model id that the server returned."""
    status: ReplyStatus
    at: str
    """When it arrived: UTC, to the microsecond. The order of the texts is the order of the times."""

    def replaces(self, other: "Entry") -> bool:
        """Whether this entry counts instead of another one with the same key.

        An answer counts before a completion without an answer. The first of two answers counts, so that an answer never changes.
        The last of two completions without an answer counts.
        """
        if (self.status == "ok") != (other.status == "ok"):
            return self.status == "ok"
        mine, theirs = (self.at, self.text), (other.at, other.text)
        return mine < theirs if self.status == "ok" else mine > theirs


class ReplyCache:
    """All completions of one judge, in a folder whose files are read once, at the start. Each process appends to a file of its own.

    Raises RunError if the folder's files cannot be read. Torn or damaged lines are left out and counted.
    """

    def __init__(self, judge: Mapping[str, Any] | str, folder: Path | None = None) -> None:
        self.folder = judge_folder(judge) if folder is None else folder
        self.name = _judge_name(judge)
        self.damaged = 0
        """Lines that differ from what was written, with those that a kill tore."""
        self._entries: dict[str, Entry] = {}
        self._capabilities: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._last_used: dict[str, str] = {}
        self._writer, self._process = Writer(self.folder), os.getpid()
        try:
            self._read()
        except OSError as error:
            raise RunError(f"cannot read the judge's replies in {self.folder}: {error.strerror or error}. Make it readable") from error

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def models(self) -> list[str]:
        """The ids of all models with an entry, the most recent first."""
        return sorted(self._last_used, key=lambda model: (self._last_used[model], model), reverse=True)

    @property
    def last_model(self) -> str | None:
        """The id of the newest entry: the best guess at the model that will answer. None if the cache is empty."""
        return next(iter(self.models), None)

    def capabilities(self, model: str) -> Mapping[str, Any] | None:
        """The capabilities of a model from its last trial call, `structured` among them. None if there was no trial call."""
        return self._capabilities[model][1] if model in self._capabilities else None

    def get(self, model: str, messages: Sequence[Message], parameters: Mapping[str, Any]) -> Entry | None:
        """Return the model's completion of exactly this call, whatever its status. None if the cache has none."""
        return self._entries.get(reply_key(model, messages, parameters))

    def put(self, messages: Sequence[Message], parameters: Mapping[str, Any], completion: Completion, status: ReplyStatus) -> Entry:
        """Store a completion. It is on the disk when this returns. Raises RunError if it cannot be written."""
        entry = Entry(completion.text, completion.finish, completion.model, status, _now())
        key = reply_key(completion.model, messages, parameters)
        call = {"messages": [dict(message) for message in messages], "parameters": dict(parameters)}
        self._write({"kind": "reply", "key": key, "judge": self.name, **call, **vars(entry)})
        self._add(key, entry)
        return entry

    def put_capabilities(self, model: str, capabilities: Mapping[str, Any]) -> None:
        """Store the capabilities of a model. Raises RunError if they cannot be written."""
        at = _now()
        self._write({"kind": "trial", "judge": self.name, "model": model, "found": dict(capabilities), "at": at})
        self._add_capabilities(model, at, capabilities)

    def close(self) -> None:
        """Close this process's file, if it is open."""
        self._writer.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._process != os.getpid():  # after a fork the open file belongs to the parent
            self._writer, self._process = Writer(self.folder), os.getpid()
        self._writer.write([record])

    def _read(self) -> None:
        for _, _, record in scan(self.folder):
            if isinstance(record, Damage) or not _is_valid(record):
                self.damaged += 1
            elif record["kind"] == "trial":
                self._add_capabilities(record["model"], record["at"], record["found"])
            else:
                self._add(record["key"], Entry(**{name: record[name] for name in Entry.__dataclass_fields__}))
        self.damaged += sum(_ends_in_a_line(self.folder))

    def _add(self, key: str, entry: Entry) -> None:
        known = self._entries.get(key)
        if known is None or entry.replaces(known):
            self._entries[key] = entry
        self._last_used[entry.model] = max(entry.at, self._last_used.get(entry.model, ""))

    def _add_capabilities(self, model: str, at: str, capabilities: Mapping[str, Any]) -> None:
        if model not in self._capabilities or at >= self._capabilities[model][0]:
            self._capabilities[model] = at, capabilities
        self._last_used[model] = max(at, self._last_used.get(model, ""))


def reply_key(model: str, messages: Sequence[Message], parameters: Mapping[str, Any]) -> str:
    """Return the key of a completion: a hash of everything that it depends on."""
    return _hash([model, [dict(message) for message in messages], dict(parameters)])


def judge_folder(judge: Mapping[str, Any] | str) -> Path:
    """Return the folder of a judge's replies on this machine, from the judge's identity or name."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", _judge_name(judge)).strip(".-")[:60]
    return cache_folder() / "judges" / f"{slug or 'judge'}-{_hash(judge if isinstance(judge, str) else dict(judge))[:8]}"


def _judge_name(judge: Mapping[str, Any] | str) -> str:
    return judge if isinstance(judge, str) else str(judge.get("judge", "judge"))


def _is_valid(record: Mapping[str, Any]) -> bool:
    fields = _FIELDS.get(str(record.get("kind")))
    return fields is not None and all(isinstance(record.get(name), kind) for name, kind in fields.items())


def _ends_in_a_line(folder: Path) -> Iterator[bool]:
    """Yield for each file whether it ends in the middle of a line."""
    for path in folder.glob("*.jsonl"):
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                yield file.read(1) != b"\n"


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
