"""The registry describes every option once; the command line, the web form and the OpenAPI document read it there."""

import inspect
import json
import re
from typing import Annotated, Literal

import pytest

from noiser.methods import METHODS
from noiser.metrics import METRICS
from noiser.registry import SEED_HELP, Entry, Option, Range

ENTRIES = [*METHODS.values(), *METRICS.values()]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_option_has_its_line(entry):
    """Mutants: the line of `norm` deleted from noiser's docstring; of `words` from that of minimum_top_p."""
    described = entry.described_options
    assert entry.summary and [option.name for option in described] == list(entry.options)
    for option in described:
        assert option.help, f"{entry.name}: the docstring has no line for {option.name}"
        assert option.default == entry.options[option.name]
    json.dumps([option.to_dict() for option in described], allow_nan=False)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_line_has_its_option(entry):
    """A line that is left behind when an option is renamed would describe nothing. Mutant: `beam` renamed in the signature of naopc."""
    lines = re.findall(r"^(\w+) {2,}\S", inspect.getdoc(entry.function) or "", re.MULTILINE)
    assert set(lines) <= set(entry.options), f"{entry.name} describes options that it does not have"


def test_a_help_goes_on_in_indented_lines_and_ends_with_them():
    """Mutant: `name = None` left out of `_option_lines`, so that the source becomes part of the last help."""

    def function(*, width: float = 1.0, seed: int = 0):
        """Summary over
        two lines.

        width    first line
                 and second line.

        Source: none.
        """

    entry = Entry(name="name", source="", function=function)
    assert entry.summary == "Summary over two lines."
    assert [option.help for option in entry.described_options] == ["first line and second line.", SEED_HELP]


def test_an_option_that_came_later_counts_only_if_it_differs_from_its_default():
    """Mutant: `added` ignored."""
    entry = METHODS["noiser"]
    old = {"samples", "steps", "bound", "bracket", "search", "variant", "norm", "unit", "seed"}
    assert set(entry.identifying(entry.resolve({}))) == old
    assert set(entry.identifying(entry.resolve({"bound": "rms"}))) == old
    changed = entry.identifying(entry.resolve({"bound": "rms", "scale": 4.0, "pairs": True}))
    assert (set(changed) - old, changed["scale"], changed["pairs"]) == ({"scale", "pairs"}, 4.0, True)
    assert all(set(each.added) <= set(each.options) for each in ENTRIES)


@pytest.mark.parametrize(
    ("annotation", "described"),
    [
        (bool, {"type": "bool", "optional": False}),
        (str | None, {"type": "str", "optional": True}),
        (Annotated[int, Range(1, 9)], {"type": "int", "low": 1, "high": 9, "optional": False}),
        (Annotated[float, Range(0.5, 1)] | None, {"type": "float", "low": 0.5, "high": 1, "optional": True}),
        (Literal["a", "b"], {"type": "choice", "choices": ["a", "b"], "optional": False}),
        (Literal["auto"] | Annotated[int, Range(1, 9)], {"type": "int", "low": 1, "high": 9, "choices": ["auto"], "optional": False}),
    ],
)
def test_types_are_described(annotation, described):
    """Mutants: `low` and `high` exchanged; `optional` always False."""
    assert Option("name", annotation, None, "help").to_dict() == {"name": "name", "default": None, "help": "help", **described}
