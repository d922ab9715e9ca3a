"""Answers that were given before, as bytes; the least recently used go first."""

import threading
from collections import OrderedDict


class Cache:
    """Holds at most `most` bytes. Threads may share it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.size = 0
        """Bytes held, keys included."""

    def get(self, key: str) -> bytes | None:
        """The answer, which then counts as just used; None where it is not there."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: str, answer: bytes) -> None:
        """Keep an answer, and let go of old ones until all fit. One that is too large by itself is not kept."""
        with self._lock:
            self._drop(key)
            if _weight(key, answer) > self._most:
                return
            self._held[key] = answer
            self.size += _weight(key, answer)
            while self.size > self._most:
                self._drop(next(iter(self._held)))

    def _drop(self, key: str) -> None:
        answer = self._held.pop(key, None)
        if answer is not None:
            self.size -= _weight(key, answer)


def _weight(key: str, answer: bytes) -> int:
    return len(key) + len(answer)
