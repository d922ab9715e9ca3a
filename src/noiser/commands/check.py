"""`noiser check`: methods in, a table of which sanity checks they pass out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import noiser.methods
from noiser.commands.output import Output, console
from noiser.commands.progress import progress
from noiser.commands.wanted import assigned, decoded, read_lines, read_names
from noiser.errors import OptionError
from noiser.evaluation.sanity import PROMPTS, check
from noiser.evaluation.spec import entrants
from noiser.lm.load import load
from noiser.registry import read_label

FORMATS = ("table", "json")


@dataclass(frozen=True)
class Wanted:
    """What to check; everything in it is checked itself before any weights are read."""

    methods: Mapping[str, Mapping[str, Any]]
    prompts: Sequence[str]
    seed: int

    @classmethod
    def checked(cls, methods: str, settings: Sequence[str], prompts: str | None, seed: int) -> "Wanted":
        """From names and what is set for them. Raises OptionError for what does not exist or fit."""
        labels = read_names("--methods", methods)
        has = {label: noiser.methods.find(read_label(label)[0]).options for label in labels}
        given = assigned(settings, has, f"--methods {methods}")
        entrants(given, (), seed, 0)
        return cls(given, PROMPTS if prompts is None else _lines(prompts), seed)


def _lines(file: str) -> list[str]:
    texts = [decoded(line) for _, line in read_lines(file)]
    wrong = next((each for each in texts if not isinstance(each, str)), None)
    if wrong is not None:
        raise OptionError(f"{file}: {wrong}")
    return [each for each in texts if isinstance(each, str)]


def run(model: str, load_options: Mapping[str, Any], wanted: Wanted, output: Output) -> int:
    """Check and write; the exit status is 1 if any check failed."""
    with progress() as watch:
        watch.say(f"loading {model}")
        lm = load(model, **load_options)
        watch.follow(lm, len(wanted.methods))
        found = check(lm, wanted.methods, prompts=wanted.prompts, seed=wanted.seed, on_method=lambda _: watch.advance())
    with output.opened() as sink:
        if output.form == "json":
            output.write_json(found.to_dict(), sink)
        else:
            from noiser.views.terminal.sanity import render_checkup

            screen = console(sink)
            if not sink.isatty():
                screen.width = max(screen.width, 20 + 20 * len(found.methods))
            screen.print(render_checkup(found))
    return 1 if found.outcomes.get("fail") else 0
