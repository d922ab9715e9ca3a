"""A tokenised prompt, and the turns of a chat."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """One message of a chat."""

    role: str
    tokens: tuple[int, ...]
    """The positions of its content's tokens: no header, no special token. Empty where the template left the content out."""


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt. The ids are the truth; nothing is ever decoded and tokenised again."""

    text: str
    """What `offsets` refer to: the text given, a chat as rendered, or of ids their tokens end to end."""
    input_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """What each token reads like, leading space included; a fragment of a character as its bytes, `<0xF0><0x9F>`."""
    special: tuple[bool, ...]
    """Whether each token is one of the tokenizer's special tokens."""
    offsets: tuple[tuple[int, int], ...] = ()
    """First and one past the last character of each token in `text`; a token without text has an empty span."""
    turns: tuple[Turn, ...] = ()
    """One for each message of a chat, in order; empty for anything else."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def cropped(self, length: int) -> "Prompt":
        """Its first `length` tokens; the text ends with the last of them, and turns keep what tokens are left to them.

        A character of which some tokens are cut off is shown as U+FFFD.
        """
        kept = self.offsets[:length]
        text = self.text[: max((stop for _, stop in kept), default=0)] if self.offsets else "".join(self.tokens[:length])
        if kept and self.tokens[length - 1].startswith("<0x") and any(start < len(text) for start, _ in self.offsets[length : length + 1]):
            text = text[:-1] + "\ufffd"
        turns = tuple(Turn(turn.role, tuple(token for token in turn.tokens if token < length)) for turn in self.turns)
        return Prompt(text, self.input_ids[:length], self.tokens[:length], self.special[:length], kept, turns)
