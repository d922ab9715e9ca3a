"""A tokenised prompt, and the turns of a chat."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """One message of a chat."""

    role: str
    tokens: tuple[int, ...]
    """The positions of the tokens of the content and of tool calls, without header and special tokens. Empty if the template left
    them out."""


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt. Only the ids reach the model: nothing is ever decoded and tokenised again."""

    text: str
    """The text that `offsets` refer to: the given text, the rendered chat, or the concatenated tokens of ids."""
    input_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """Each token's text, with its leading space. A fragment of a character is shown as its bytes: `<0xF0><0x9F>`."""
    special: tuple[bool, ...]
    """Whether each token is one of the tokenizer's special tokens."""
    offsets: tuple[tuple[int, int], ...] = ()
    """The first character of each token in `text`, and one past its last. A token without text has an empty span."""
    turns: tuple[Turn, ...] = ()
    """One turn for each message of a chat, in order. Empty for anything else."""
    warnings: tuple[str, ...] = ()
    """What of a chat the model does not see."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def cropped(self, length: int) -> "Prompt":
        """The first `length` tokens. The text ends with the last of them, and turns keep those of their tokens that are left.

        A character that loses some of its tokens is shown as U+FFFD.
        """
        kept = self.offsets[:length]
        text = self.text[: max((stop for _, stop in kept), default=0)] if self.offsets else "".join(self.tokens[:length])
        if kept and self.tokens[length - 1].startswith("<0x") and any(start < len(text) for start, _ in self.offsets[length : length + 1]):
            text = text[:-1] + "\ufffd"
        turns = tuple(Turn(turn.role, tuple(token for token in turn.tokens if token < length)) for turn in self.turns)
        return Prompt(text, self.input_ids[:length], self.tokens[:length], self.special[:length], kept, turns, self.warnings)
