"""The accounts of some calls that are made together: each is counted once, and heard only as long as somebody listens."""

import threading
from collections import Counter
from collections.abc import Callable

from noiser.errors import JudgeError
from noiser.judges.backend import Heard, Said
from noiser.judges.retrying import Failure


class Session:
    """Calls under way. `counts` may be shared with other sessions, and `counting` is its lock."""

    def __init__(self, counts: Counter[str], counting: threading.Lock, heard: Heard) -> None:
        self.stop = threading.Event()
        """Set once nobody is to wait any more."""
        self._counts, self._counting, self._heard = counts, counting, heard
        self._telling = threading.Lock()
        self._under_way, self._left = 0, False

    def counted(self, send: Callable[[], Said | Failure]) -> Said | Failure:
        """Make one call, and count it and what went wrong with it."""
        with self._counting:
            self._counts["calls"] += 1
            self._under_way += 1
        said = send()
        with self._counting:
            if not self._left:
                self._under_way -= 1
                self._counts.update([said.kind] if isinstance(said, Failure) else [])
        return said

    def tell(self, place: int, outcome: Said | JudgeError) -> None:
        """Pass on what became of a question, one at a time."""
        with self._telling:
            if not self._left:
                self._counts.update(["failed"] if isinstance(outcome, JudgeError) else [])
                self._heard(place, outcome)

    def leave(self) -> None:
        """Nothing is heard from here on. Calls that are still under way are counted as `abandoned`, whatever becomes of them."""
        self.stop.set()
        with self._telling, self._counting:
            self._left = True
            self._counts.update({"abandoned": self._under_way} if self._under_way else {})
