"""Replies on disk: what a judge said, by who it says it is, what it was asked and how. Read without the judge and without a network."""

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


@dataclass(frozen=True)
class Entry:
    """A completion that was heard once, and what it was taken for then."""

    text: str
    finish: str
    """Why it ended, as the server said."""
    model: str
    """The id of the model that it came from."""
    status: ReplyStatus
    at: str
    """When it was heard: UTC, to the microsecond, sorted as text as in time."""

    def counts_before(self, other: "Entry") -> bool:
        """Whether of two entries under one key this is the one that counts. An answer counts before what is none; of two answers
        the first one, so that it never changes once it is there; of two that are none the last."""
        if (self.status == "ok") != (other.status == "ok"):
            return self.status == "ok"
        mine, theirs = (self.at, self.text), (other.at, other.text)
        return mine < theirs if self.status == "ok" else mine > theirs


def reply_key(model: str, messages: Sequence[Message], parameters: Mapping[str, Any]) -> str:
    """What a completion is looked up by: a hash of all that it depends on."""
    return _hash([model, [dict(message) for message in messages], dict(parameters)])


def judge_folder(judge: Mapping[str, Any] | str) -> Path:
    """Where the replies of the judge of that identity, or name, are kept on this machine."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", _name(judge)).strip(".-")[:60]
    return cache_folder() / "judges" / f"{slug or 'judge'}-{_hash(judge if isinstance(judge, str) else dict(judge))[:8]}"


class ReplyCache:
    """All that one judge said, in a folder whose files are read once, on opening. Each process appends to a file of its own.

    Raises RunError where the folder's files cannot be read; lines that are torn or damaged are left out and counted.
    """

    def __init__(self, judge: Mapping[str, Any] | str, folder: Path | None = None) -> None:
        self.folder = judge_folder(judge) if folder is None else folder
        self.name = _name(judge)
        self.damaged = 0
        """Lines that are not what was written, those torn by a kill included."""
        self._entries: dict[str, Entry] = {}
        self._trials: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._last: dict[str, str] = {}
        self._writer, self._process = Writer(self.folder), os.getpid()
        try:
            self._read()
        except OSError as error:
            raise RunError(f"cannot read the judge's replies in {self.folder}: {error.strerror or error}. Make it readable") from error

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def models(self) -> list[str]:
        """The ids of all models that something is there of, the one heard last first."""
        return sorted(self._last, key=lambda model: (self._last[model], model), reverse=True)

    @property
    def last_model(self) -> str | None:
        """The id that came with the newest entry: the best guess at who is going to answer. None where there is none."""
        return next(iter(self.models), None)

    def trial(self, model: str) -> Mapping[str, Any] | None:
        """What trying found out last about how that model is to be asked, `structured` among it; None where it was not tried."""
        return self._trials[model][1] if model in self._trials else None

    def get(self, model: str, messages: Sequence[Message], parameters: Mapping[str, Any]) -> Entry | None:
        """What that model said to exactly this, whatever it was taken for; None where that is not known."""
        return self._entries.get(reply_key(model, messages, parameters))

    def put(self, messages: Sequence[Message], parameters: Mapping[str, Any], said: Completion, status: ReplyStatus) -> Entry:
        """Keep a completion; once this returns it is on the disk. Raises RunError where it cannot be written."""
        entry = Entry(said.text, said.finish, said.model, status, _now())
        key = reply_key(said.model, messages, parameters)
        asked = {"messages": [dict(message) for message in messages], "parameters": dict(parameters)}
        self._write({"kind": "reply", "key": key, "judge": self.name, **asked, **vars(entry)})
        self._add(key, entry)
        return entry

    def put_trial(self, model: str, found: Mapping[str, Any]) -> None:
        """Keep what trying found out about how a model is to be asked. Raises RunError where it cannot be written."""
        at = _now()
        self._write({"kind": "trial", "judge": self.name, "model": model, "found": dict(found), "at": at})
        self._add_trial(model, at, found)

    def close(self) -> None:
        """Close this process's file, if there is one."""
        self._writer.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._process != os.getpid():  # a fork: the file is its parent's
            self._writer, self._process = Writer(self.folder), os.getpid()
        self._writer.write([record])

    def _read(self) -> None:
        for _, _, record in scan(self.folder):
            if isinstance(record, Damage) or not _fits(record):
                self.damaged += 1
            elif record["kind"] == "trial":
                self._add_trial(record["model"], record["at"], record["found"])
            else:
                self._add(record["key"], Entry(**{name: record[name] for name in Entry.__dataclass_fields__}))
        self.damaged += sum(_torn(self.folder))

    def _add(self, key: str, entry: Entry) -> None:
        there = self._entries.get(key)
        if there is None or entry.counts_before(there):
            self._entries[key] = entry
        self._last[entry.model] = max(entry.at, self._last.get(entry.model, ""))

    def _add_trial(self, model: str, at: str, found: Mapping[str, Any]) -> None:
        if model not in self._trials or at >= self._trials[model][0]:
            self._trials[model] = at, found
        self._last[model] = max(at, self._last.get(model, ""))


def _name(judge: Mapping[str, Any] | str) -> str:
    return judge if isinstance(judge, str) else str(judge.get("judge", "judge"))


def _fits(record: Mapping[str, Any]) -> bool:
    fields = _FIELDS.get(str(record.get("kind")))
    return fields is not None and all(isinstance(record.get(name), kind) for name, kind in fields.items())


def _torn(folder: Path) -> Iterator[bool]:
    """For each file, whether it ends within a line."""
    for path in folder.glob("*.jsonl"):
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                yield file.read(1) != b"\n"


def _hash(value: Any) -> str:
    said = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
