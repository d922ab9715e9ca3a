"""`noiser methods`: what there is."""

from typing import Any

from noiser.commands.output import Output, console
from noiser.methods import METHODS
from noiser.registry import Method

FORMATS = ("table", "json")


def describe(method: Method) -> dict[str, Any]:
    """A method in plain values."""
    return {
        "name": method.name,
        "family": method.family,
        "summary": method.summary,
        "options": dict(method.options),
        "cost": method.cost,
        "source": method.source,
    }


def run(output: Output) -> int:
    """List every method: name, family, what it computes, options with defaults, cost, source."""
    methods = [describe(method) for _, method in sorted(METHODS.items(), key=lambda item: (item[1].family, item[0]))]
    with output.opened() as sink:
        if output.form == "json":
            output.write_json({"schema": 1, "methods": methods}, sink)
        else:
            console(sink).print(_table(methods))
    return 0


def _table(methods: list[dict[str, Any]]) -> Any:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    blocks: list[Any] = []
    for each in methods:
        options = ", ".join(f"{name}={'none' if value is None else value}" for name, value in each["options"].items()) or "none"
        blocks.append(Text.assemble((each["name"], "bold"), f"  ({each['family']})"))
        said = [Text(each["summary"])]
        said += [
            Text(f"{what}: {text}", style="dim")
            for what, text in (("options", options), ("cost", each["cost"]), ("source", each["source"]))
        ]
        blocks += [Padding(text, (0, 0, 0, 4)) for text in said]
    note = "T: tokens of the prompt. METHOD inseq:NAME runs Inseq's NAME, where Inseq is installed."
    return Group(*blocks, Text(note, style="dim"))
