"""Attribution methods, one file each. Importing this package enters them into METHODS, and those of other packages too."""

from importlib.metadata import entry_points

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
)
from noiser.methods.noiser import method  # noqa: F401
from noiser.registry import METHODS, Method, find_method

__all__ = ["METHODS", "find"]

for _entry_point in entry_points(group="noiser.methods"):
    _entry_point.load()


def find(name: str) -> Method:
    """The method of that name, `inseq:<name>` included; OptionError lists what there is."""
    if not isinstance(name, str):
        raise OptionError(f"a method is given by its name; got {name!r}")
    if name.startswith("inseq:"):
        from noiser.methods.inseq.methods import find_inseq

        return find_inseq(name)
    return find_method(name)
