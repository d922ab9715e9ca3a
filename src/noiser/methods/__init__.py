"""Attribution methods, one file each. Importing this package enters them into METHODS, and those of other packages too."""

from importlib.metadata import entry_points

from noiser.methods import (  # noqa: F401  (each enters itself)
    attention,
    controls,
    deeplift,
    gradient_shap,
    input_x_gradient,
    integrated_gradients,
    lime,
    noiser,
    occlusion,
    sequential_integrated_gradients,
)
from noiser.registry import METHODS
from noiser.registry import find_method as find

__all__ = ["METHODS", "find"]

for _entry_point in entry_points(group="noiser.methods"):
    _entry_point.load()
