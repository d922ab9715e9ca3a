"""What is perturbed at once: tokens, or whole words, sentences, lines or turns."""

from typing import Literal

from noiser.errors import OptionError
from noiser.prompts import Prompt
from noiser.units import Units, units

Unit = Literal["token", "word", "sentence", "line", "turn"]


def pieces(prompt: Prompt, unit: Unit) -> Units:
    """The prompt's units. Raises OptionError where it has none."""
    found = units(prompt, unit)
    if not found.texts:
        raise OptionError(f"this prompt has no {unit}s to perturb: use unit=token")
    return found
