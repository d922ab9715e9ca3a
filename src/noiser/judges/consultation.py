"""How a metric asks a judge: with a request that the scheduler resolves together with those of other samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from noiser.errors import JudgeError, NoiserError
from noiser.judges.protocol import Judge, JudgePrompt, Reply, ReplyStatus
from noiser.lm.requests import ExternalRequest, Steps


def consult(judge: Judge, prompts: Sequence[JudgePrompt]) -> Steps[list[Reply | JudgeError]]:
    """Ask a judge from inside a metric: yields the request and returns a reply, or the error, for each prompt."""
    replies = yield JudgeRequest(judge, tuple(prompts))
    return cast(list[Reply | JudgeError], replies)


def unwrap(reply: Reply | JudgeError) -> Reply:
    """Return the reply. Raises JudgeError if there is none."""
    if isinstance(reply, JudgeError):
        raise JudgeError(str(reply))  # a new error for each caller: tracebacks are not shared
    return reply


@dataclass(frozen=True, eq=False)
class JudgeRequest(ExternalRequest):
    """A metric's request to a judge. It resolves to a Reply or a JudgeError for each prompt."""

    judge: Judge
    prompts: tuple[JudgePrompt, ...]

    @property
    def source(self) -> object:
        """The judge."""
        return self.judge

    @property
    def items(self) -> Sequence[JudgePrompt]:
        """The prompts."""
        return self.prompts

    def with_items(self, items: Sequence[JudgePrompt]) -> "JudgeRequest":
        """The same judge with other prompts."""
        return JudgeRequest(self.judge, tuple(items))

    def resolve(self) -> list[Reply | JudgeError]:
        """Ask the judge."""
        return ask(self.judge, self.prompts)


def ask(judge: Judge, prompts: Sequence[JudgePrompt]) -> list[Reply | JudgeError]:
    """Ask a judge that anybody may have written. Its own exceptions, and values that it may not return, become JudgeErrors.

    Raises what noiser itself raises: RunError if more calls are of no use.
    """
    try:
        replies = judge.answer(prompts)
    except NoiserError:
        raise
    except Exception as error:  # noqa: BLE001  (the judge may be anybody's; its fault costs no other metric anything)
        return [JudgeError(f"{judge.name} raised {type(error).__name__}: {error}") for _ in prompts]
    if not isinstance(replies, list) or len(replies) != len(prompts):
        got = f"{len(replies)} of them" if isinstance(replies, list) else type(replies).__name__
        message = f"{judge.name} has to return a list of {len(prompts)} replies, one for each prompt; it returned {got}"
        return [JudgeError(message) for _ in prompts]
    wrong = f"{judge.name} has to return a Reply or a JudgeError; it returned"
    return [reply if _is_valid(reply) else JudgeError(f"{wrong} {repr(reply)[:200]}") for reply in replies]


def _is_valid(reply: Any) -> bool:
    if isinstance(reply, JudgeError):
        return True
    if not isinstance(reply, Reply) or reply.status not in get_args(ReplyStatus) or not isinstance(reply.answers, tuple):
        return False
    return all(isinstance(text, str) for text in (*reply.answers, reply.text, reply.model))
