"""Forms for the methods' options, read off their signatures and docstrings."""

import inspect
import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from noiser.registry import Method, Range

Form = dict[str, Any]
IN_SHORT = {
    "seed": "names what is drawn at random: the same seed, the same scores.",
    "samples": "how many draws the scores are averaged over.",
    "norm": "what the noise is divided by, in variant=official only.",
}
"""For options that a docstring explains in passing, if at all."""
NAMES: dict[type, str] = {bool: "bool", int: "int", float: "float", str: "str"}


def described(methods: Mapping[str, Method]) -> list[dict[str, Any]]:
    """Every method for a form, by family and name: what it computes, what it costs, and its options."""
    ordered = sorted(methods.values(), key=lambda each: (each.family, each.name))
    return [
        {
            "name": each.name,
            "family": each.family,
            "summary": summary(each),
            "cost": each.cost,
            "source": each.source,
            "options": options(each),
        }
        for each in ordered
    ]


def summary(method: Method) -> str:
    """The first paragraph of its docstring on one line."""
    return " ".join((inspect.getdoc(method.function) or "").split("\n\n")[0].split())


def options(method: Method) -> list[Form]:
    """One form for each option: `name`, `type`, `default`, `optional`, `help`; `choices` or `low` and `high` as the type has them.

    The type is int, float, str, bool or choice. An option that is a number or one of some words (`steps`) has the number's
    type, and the words as its choices.
    """
    doc = inspect.getdoc(method.function) or ""
    helps = _listed(doc)
    parameters = inspect.signature(method.function).parameters
    forms = []
    for name, default in method.options.items():
        said = helps.get(name) or IN_SHORT.get(name) or _mentioned(doc, name)
        forms.append({"name": name, **_typed(parameters[name].annotation), "default": default, "help": said})
    return forms


def _typed(annotation: Any) -> Form:
    """The type of an annotation with its bounds; of a union, that of its members."""
    parts = [part for part in _members(annotation) if part is not type(None)]
    optional = len(parts) < len(list(_members(annotation)))
    words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
    numbers = [part for part in parts if get_origin(part) is not Literal]
    found = _plain(numbers[0]) if numbers else {}
    if words:
        found = {"type": "choice", **found, "choices": words}
    return {**found, "optional": optional}


def _members(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _members(part)
    else:
        yield annotation


def _plain(annotation: Any) -> Form:
    """A number with its range, or a bare type. Raises KeyError for a type that no form is known for."""
    if get_origin(annotation) is Annotated:
        kind, *rest = get_args(annotation)
        bounds = next((each for each in rest if isinstance(each, Range)), None)
        return {"type": NAMES[kind], **({"low": bounds.low, "high": bounds.high} if bounds else {})}
    return {"type": NAMES[annotation]}


def _listed(doc: str) -> dict[str, str]:
    """`name   text`, the text going on in indented lines, as docstrings list options."""
    found: dict[str, list[str]] = {}
    name = None
    for line in doc.splitlines():
        begun = re.match(r"(\w+) {2,}(\S.*)", line)
        if begun:
            name = begun[1]
            found[name] = [begun[2]]
        elif name and line.startswith(" "):
            found[name].append(line.strip())
        else:
            name = None
    return {name: " ".join(lines) for name, lines in found.items()}


def _mentioned(doc: str, name: str) -> str:
    """The first sentence behind the summary that has the name in it; empty where none has."""
    sentences = re.split(r"(?<=[.;:])\s+", " ".join(doc.partition("\n\n")[2].split()))
    return next((sentence for sentence in sentences if re.search(rf"\b{name}\b", sentence)), "")
