"""The methods and metrics of this package as a file, so that lists and mistyped names need no torch.

`python -c "from noiser.cli.catalogue import rewrite; rewrite()"` writes the file; a test compares it with the registry.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.metadata import entry_points
from importlib.resources import as_file, files
from typing import Any, Literal

from noiser.options import read_values
from noiser.registry import Entry, Method, read_label, unknown_name

Kind = Literal["methods", "metrics"]
_FILE = files("noiser.cli").joinpath("catalogue.json")


def describe(entry: Entry) -> dict[str, Any]:
    """A method or metric as plain values: what lists show, and its options as `Option.to_dict` has them."""
    own = ("family",) if isinstance(entry, Method) else ("better", "measures", "failure_mode")
    facts = {name: getattr(entry, name) for name in ("name", *own, "summary", "cost", "source")}
    return facts | {"options": [option.to_dict() for option in entry.described_options]}


def registered() -> dict[Kind, list[dict[str, Any]]]:
    """All methods, by family, and all metrics. Imports torch."""
    from noiser.methods import METHODS
    from noiser.metrics import METRICS

    methods = sorted(METHODS.values(), key=lambda method: (method.family, method.name))
    return {"methods": list(map(describe, methods)), "metrics": [describe(METRICS[name]) for name in sorted(METRICS)]}


@cache
def _written() -> dict[Kind, list[dict[str, Any]]]:
    return json.loads(_FILE.read_text(encoding="utf-8"))


def _has_others(kind: Kind) -> bool:
    """Whether another installed package adds methods or metrics, which only its own code describes."""
    return bool(entry_points(group=f"noiser.{kind}"))


def listed(kind: Kind) -> Sequence[Mapping[str, Any]]:
    """All methods or metrics, those of other packages too."""
    return registered()[kind] if _has_others(kind) else _written()[kind]


def defaults(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The default of each option of a listed method or metric."""
    return {option["name"]: option["default"] for option in entry["options"]}


def check(kind: Kind, labels: Sequence[str], settings: Mapping[str, Any] | None = None) -> None:
    """Raise OptionError for a label that does not exist, or has an option or value that does not fit, before torch is imported.

    `settings` are further options of every label. What is not found here may still be refused later: combinations of options,
    Inseq's methods, and methods of other packages.
    """
    if _has_others(kind):
        return
    known = {entry["name"]: entry["options"] for entry in _written()[kind]}
    for label in labels:
        name, carried = read_label(label)
        if name.startswith("inseq:"):
            continue
        if name not in known:
            raise unknown_name(kind.removesuffix("s"), name, known)
        described = {option["name"]: partial(dict, option) for option in known[name]}
        read_values(name, described, {**carried, **(settings or {})})


def rewrite() -> None:
    """Write the file anew from what is registered."""
    with as_file(_FILE) as path:
        path.write_text(f"{json.dumps(registered(), indent=1, ensure_ascii=False)}\n", encoding="utf-8")
