"""What is asked about a prompt: which token, whole answer, span or contrast, and in which quantity."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

from noiser.errors import OptionError, PromptError
from noiser.lm.tokens import Tokens

Words = str | SupportsIndex | Sequence[int]
"""Tokens, given as text (its leading space included), as an id, or as ids."""


@dataclass(frozen=True)
class Question:
    """Everything about the target, checked for sense; the model's own next token by default."""

    target: Words | Callable[..., Any] | None = None
    """What to explain: one token, or several as a whole; or a function from the next token's logits [vocab] to a scalar."""
    foil: Words | None = None
    """What to hold it against: why the target and not the foil?"""
    continuation: Words | None = None
    """A text that follows the prompt, each of its tokens explained by all before it."""
    generate: int | None = None
    """So many tokens of the model's own, greedy, instead of a given continuation."""
    span: tuple[int, int] | None = None
    """Explain these tokens of the continuation (from, up to) as a whole instead of one by one."""
    quantity: str | None = None
    """What the scores are differences of, see `allowed`; the first there by default."""

    def __post_init__(self) -> None:
        several = [name for name in ("target", "continuation", "generate") if getattr(self, name) is not None]
        if len(several) > 1:
            raise OptionError(f"give one of target, continuation and generate; got {' and '.join(several)}")
        if self.foil is not None and (callable(self.target) or several not in ([], ["target"])):
            raise OptionError("a foil is held against a target (the model's own next token by default), not against anything else")
        if self.generate is not None and (not isinstance(self.generate, int) or isinstance(self.generate, bool) or self.generate < 1):
            raise OptionError(f"generate wants how many tokens, from 1 on; got {self.generate!r}")
        if self.span is not None:
            if not {"continuation", "generate"} & set(several):
                raise OptionError("a span is part of a continuation: give continuation or generate with it")
            if not _is_span(self.span):
                raise OptionError(f"a span is (from, up to) a later token, counted from 0; got {self.span!r}")
        if self.quantity is not None and self.quantity not in self.allowed:
            wanted = " or ".join(self.allowed) if self.allowed else "none: the function says what is explained"
            raise OptionError(f"the quantity of {self.kind} is {wanted}; got {self.quantity!r}")

    @property
    def kind(self) -> str:
        """What is asked for, in words."""
        if callable(self.target):
            return "a function"
        if self.foil is not None:
            return "a contrast"
        if self.span is not None:
            return "a span"
        return "a target" if self.continuation is None and self.generate is None else "a continuation"

    @property
    def allowed(self) -> tuple[str, ...]:
        """The quantities that make sense, the default first."""
        return {
            "a function": (),
            "a contrast": ("prob", "log_odds"),
            "a span": ("log_prob", "mean_prob", "prob"),
            "a target": ("prob", "log_prob", "mean_prob"),
            "a continuation": ("prob", "log_prob"),
        }[self.kind]

    @property
    def chosen_quantity(self) -> str:
        """The quantity asked for, or the default."""
        return self.quantity or self.allowed[0]


def _is_span(span: Any) -> bool:
    if not isinstance(span, tuple | list) or len(span) != 2 or not all(isinstance(end, int) for end in span):
        return False
    return 0 <= span[0] < span[1]


def read_words(tokens: Tokens, words: Words) -> tuple[int, ...]:
    """The ids of a target, foil or continuation. Raises PromptError where there are none, or an id that does not exist."""
    ids = tokens.ids(words)
    if not ids:
        raise PromptError(f"there are no tokens in {words!r}: give at least one character or id")
    return ids


def check_words(tokens: Tokens, question: Question) -> None:
    """Raises PromptError for tokens that do not exist, before any prompt is run."""
    for words in (question.foil, question.continuation, None if callable(question.target) else question.target):
        if words is not None:
            read_words(tokens, words)
