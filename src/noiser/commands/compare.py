"""`noiser compare`: several methods on one prompt, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import noiser.methods
from noiser.attribution.compare import compare
from noiser.attribution.curves import with_curves
from noiser.commands.output import PICTURED, Output, console
from noiser.commands.pictures import drawn
from noiser.commands.progress import progress
from noiser.commands.wanted import Asked, assigned, check_display, read_messages, read_names
from noiser.errors import OptionError
from noiser.lm.load import load
from noiser.lm.target import Question
from noiser.registry import MethodSpec, read_label

FORMATS = ("heatmap", "json", "html", "svg", "png")


@dataclass(frozen=True)
class Wanted:
    """What to compare; everything in it is checked before any weights are read."""

    prompt: str | list[Any]
    methods: Sequence[MethodSpec]
    question: Question
    normalize: str
    by: str | None
    curves: bool | None
    """Whether removal curves are made; None: where a page shows them."""

    @classmethod
    def checked(
        cls,
        source: tuple[str | None, str | None],
        methods: str,
        settings: Sequence[str],
        asked: Asked,
        seed: int | None,
        display: tuple[str, str | None],
        curves: bool | None = None,
    ) -> "Wanted":
        """From text or --messages. Raises OptionError for what does not exist or fit."""
        text, messages = source
        if (text is None) == (messages is None):
            raise OptionError("give either a prompt or --messages" + (", not both" if text is not None else ""))
        check_display(*display)
        chosen = noiser.methods.parse_all(options_of(methods, settings, seed))
        return cls(text or "" if messages is None else read_messages(messages), chosen, asked.question(), *display, curves)


def options_of(methods: str, settings: Sequence[str], seed: int | None) -> dict[str, dict[str, Any]]:
    """Each named method with its options: METHOD.NAME=VALUE for one, NAME=VALUE for all that have it."""
    has = {name: noiser.methods.find(read_label(name)[0]).options for name in read_names("--methods", methods)}
    given: dict[str, dict[str, Any]] = {**assigned(settings, has, f"--methods {methods}")}
    if seed is not None:
        for name, options in has.items():
            given[name] |= {"seed": seed} if "seed" in options and "seed" not in read_label(name)[1] else {}
    return given


def run(model: str, load_options: Mapping[str, Any], wanted: Wanted, output: Output) -> int:
    """Compare and write; the exit status is 1 if any method failed."""
    with progress() as watch:
        watch.say(f"loading {model}")
        lm = load(model, **load_options)
        watch.follow(lm, 1)
        found = compare(lm, wanted.prompt, wanted.methods, wanted.question)
        for each in found.attributions:
            each.normalized(wanted.normalize)
            each.by(wanted.by or "token")
        if wanted.curves or (wanted.curves is None and output.form == "html"):
            found = with_curves(lm, found)
    if output.form in PICTURED:
        output.write(drawn(found, output.form, wanted.normalize, wanted.by))
        return 1 if found.failures else 0
    with output.opened() as sink:
        if output.form == "json":
            record = found.to_dict()
            for plain, each in zip(record["attributions"], found.attributions, strict=True):
                if wanted.by is not None:
                    plain["by"] = each.by(wanted.by).to_dict()
                if wanted.normalize != "none":
                    plain["normalized"] = {"how": wanted.normalize, "scores": each.normalized(wanted.normalize).tolist()}
            output.write_json(record, sink)
        else:
            from noiser.views.terminal.comparison import render_comparison

            screen = console(sink)
            if not sink.isatty():
                screen.width = max(screen.width, 24 + 30 * len(found.attributions))
            screen.print(render_comparison(found, wanted.normalize, wanted.by))
    return 1 if found.failures else 0
