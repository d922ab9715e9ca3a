"""How a metric asks a judge: a request that the scheduler resolves, together with those of other samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from noiser.errors import JudgeError
from noiser.judges.protocol import Judge, JudgePrompt, Reply, consulted
from noiser.lm.requests import ExternalRequest, Steps


@dataclass(frozen=True, eq=False)
class Consultation(ExternalRequest):
    """A metric's request to a judge, resolved by `consulted`: a Reply or a JudgeError for each clue."""

    judge: Judge
    clues: tuple[JudgePrompt, ...]

    @property
    def source(self) -> object:
        """The judge."""
        return self.judge

    @property
    def items(self) -> Sequence[JudgePrompt]:
        """The clues."""
        return self.clues

    def with_items(self, items: Sequence[JudgePrompt]) -> "Consultation":
        """The same judge with other clues."""
        return Consultation(self.judge, tuple(items))

    def resolve(self) -> list[Reply | JudgeError]:
        """Ask the judge."""
        return consulted(self.judge, self.clues)


def consult(judge: Judge, clues: Sequence[JudgePrompt]) -> Steps[list[Reply | JudgeError]]:
    """Ask a judge from inside a metric: yields the request and returns a reply, or the error, for each clue."""
    replies = yield Consultation(judge, tuple(clues))
    return cast(list[Reply | JudgeError], replies)


def unwrap(reply: Reply | JudgeError) -> Reply:
    """The reply. Raises JudgeError if there is none."""
    if isinstance(reply, JudgeError):
        raise JudgeError(str(reply))  # a new error for each caller: tracebacks are not shared
    return reply
