"""`noiser methods`: every method, with its options, its cost and its source."""

from typing import TYPE_CHECKING, Annotated, Any

from noiser.cli.catalogue import defaults, listed
from noiser.cli.options import Out, expand_options, format_option
from noiser.cli.outputs import Output, console
from noiser.registry import RECOMMENDED

if TYPE_CHECKING:
    from rich.console import Group


FORMATS = ("table", "json")
_SHOWN = ("name", "family", "summary", "cost", "source")


@expand_options
def methods(format_: Annotated[str, format_option("table, json.")] = "table", out: Out = None) -> None:
    """List all methods: what each computes, its options with their defaults, its cost and its source."""
    output = Output.checked(format_, out, FORMATS)
    records = [{**{name: entry[name] for name in _SHOWN}, "options": defaults(entry)} for entry in listed("methods")]
    with output.open() as sink:
        if output.format == "json":
            output.write_json({"schema": 1, "recommended": RECOMMENDED, "methods": records}, sink)
        else:
            console(sink).print(_listing(records))


def _listing(records: list[dict[str, Any]]) -> "Group":
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    blocks: list[Any] = []
    for record in records:
        options = ", ".join(f"{name}={'none' if value is None else value}" for name, value in record["options"].items()) or "none"
        details = {"options": options, "cost": record["cost"], "source": record["source"]}
        texts = [Text(record["summary"]), *(Text(f"{name}: {text}", style="dim") for name, text in details.items())]
        blocks.append(Text.assemble((record["name"], "bold"), f"  ({record['family']})"))
        blocks += [Padding(text, (0, 0, 0, 4)) for text in texts]
    note = "T: tokens of the prompt. --method inseq:NAME runs the method NAME of Inseq, if Inseq is installed."
    recommended = f"Recommended by our measurements (docs/faithfulness.md): --method {RECOMMENDED}"
    return Group(*blocks, Text(note, style="dim"), Text(recommended))
