"""How much one request may ask for."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one server, told to its page as they are."""

    max_tokens: int = 2048
    """Of a prompt, its continuation included."""
    max_methods: int = 16
    """In one request."""
    max_messages: int = 100
    """Of a chat: finding out where each stands in the rendered chat takes the square of their number."""
    max_generate: int = 64
    """Tokens of a continuation or target, given or generated."""
    max_draws: int = 500_000
    """`samples` of a method times tokens of the prompt: what a method draws is held in memory at once."""
    queue: int = 16
    """Requests that may wait; what comes on top is sent away (429)."""

    @property
    def max_characters(self) -> int:
        """Of a prompt, before anything is tokenised."""
        return 16 * self.max_tokens

    def to_dict(self) -> dict[str, int]:
        """By name."""
        return asdict(self)
