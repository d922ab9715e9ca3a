"""Attribution methods, one file each. Importing this package registers them in METHODS, with those of other packages."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from noiser.errors import OptionError
from noiser.methods import (  # noqa: F401  (each registers itself)
    attention,
    controls,
    deeplift,
    gradient_shap,
    gradients,
    integrated_gradients,
    lime,
    occlusion,
    shapley,
)
from noiser.methods.noiser import method  # noqa: F401
from noiser.registry import METHODS, Method, MethodSpec, Selection, by_label, check_distinct, find_method, read_label

__all__ = ["METHODS", "find", "parse", "parse_all"]

for _entry_point in entry_points(group="noiser.methods"):
    _entry_point.load()


def find(name: str) -> Method:
    """The method with this name, or Inseq's for `inseq:<name>`. Raises OptionError with a list of the methods."""
    if not isinstance(name, str):
        raise OptionError(f"a method must be given by its name; got {name!r}")
    if name.startswith("inseq:"):
        from noiser.methods.inseq import find_inseq

        return find_inseq(name)
    return find_method(name)


def parse(label: str | MethodSpec, options: Mapping[str, Any] | None = None, *, seed: int | None = None) -> MethodSpec:
    """A method and all its options, checked, from a label such as `noiser:bound=none+samples=20`.

    `options` adds options to those in the label. `seed` is the default of the option `seed`, if the method has one. A
    specification is returned as it is.

    Raises OptionError for an unknown method, an unknown option or a wrong value, if the label and `options` give one option two
    values, and for `options` beside a specification.
    """
    if isinstance(label, MethodSpec):
        if options:
            raise OptionError(f"{label.label} is parsed already: set {', '.join(options)} before you parse it")
        return label
    entry = find(read_label(label)[0] if isinstance(label, str) else label)
    return MethodSpec(label, entry, entry.resolve_label(label, options, seed))


def parse_all(methods: Selection[MethodSpec], *, seed: int | None = None) -> list[MethodSpec]:
    """`parse` for several methods: labels or specifications in a sequence, or a mapping from labels to options.

    Raises OptionError as `parse` does, for no methods, and if one label, or one method with the same options, occurs twice.
    """
    items = by_label(methods, "methods").items()
    specs = [parse(value, seed=seed) if isinstance(value, MethodSpec) else parse(label, value, seed=seed) for label, value in items]
    check_distinct(specs)
    return specs
