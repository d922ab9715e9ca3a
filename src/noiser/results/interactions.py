"""The result of `noiser.interactions`: how much every two units of a prompt do together."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from noiser.results.attribution import Cost, Target, prompt_dict, target_dict
from noiser.results.display import view
from noiser.storage import write_file
from noiser.text.prompt import Prompt
from noiser.text.units import Units


@dataclass(frozen=True)
class Pair:
    """Two units and their interaction."""

    first: int
    second: int
    value: float
    """Above 0: together they do more than each alone. Below 0: each makes the other less important."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """How much every two units of a prompt do together for a prediction, beyond what each does alone."""

    values: Float[np.ndarray, "units units"]
    """The Shapley interaction index of every two units, in the units of the explained quantity, read-only. Symmetric; 0 on the diagonal.
    Above 0: the target needs both. Below 0: one is enough, or one counteracts the other."""
    shapley: Float[np.ndarray, " units"]
    """The Shapley value of each unit: what it does on average, alone and with others. Read-only."""
    units: Units
    prompt: Prompt
    target: Target
    model: str
    revision: str
    options: Mapping[str, Any]
    seed: int | None
    """None if nothing was drawn at random."""
    cost: Cost
    notes: Mapping[str, Any] = field(default_factory=dict)
    """`approximator` (exact or SHAPIQ), `coalitions` (sets of units that were run), `empty` (the quantity without any unit), `warnings`."""

    def __post_init__(self) -> None:
        for name in ("values", "shapley"):
            frozen = np.array(getattr(self, name), dtype=np.float64)
            frozen.flags.writeable = False
            object.__setattr__(self, name, frozen)
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        object.__setattr__(self, "notes", MappingProxyType(dict(self.notes)))

    def __reduce__(self) -> tuple[Any, ...]:
        values = (getattr(self, each.name) for each in fields(self))
        return Interactions, tuple(dict(value) if isinstance(value, MappingProxyType) else value for value in values)

    def strongest(self, count: int | None = None) -> list[Pair]:
        """The pairs with the largest interaction of either sign, the strongest first. All pairs by default."""
        pairs = [Pair(first, second, float(self.values[first, second])) for first, second in combinations(range(len(self.shapley)), 2)]
        return sorted(pairs, key=lambda pair: -abs(pair.value))[:count]

    def to_dict(self) -> dict[str, Any]:
        """The interactions as plain Python values, in the shape of the command line's JSON (schema 1)."""
        return {
            "schema": 1,
            "model": self.model,
            "revision": self.revision,
            "options": dict(self.options),
            "seed": self.seed,
            "prompt": prompt_dict(self.prompt, None),
            "target": target_dict(self.target),
            "unit": self.units.kind,
            "units": {"of": list(self.units.of), "texts": list(self.units.texts)},
            "shapley": self.shapley.tolist(),
            "interactions": self.values.tolist(),
            "notes": dict(self.notes),
            "cost": vars(self.cost).copy(),
        }

    def to_json(self) -> str:
        """One line of strict JSON: no NaN, no infinity."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    def save_html(self, path: str | Path) -> Path:
        """Write a page with arcs between the units, and return its path. The page is one file and needs no network."""
        return write_file(path, view("page")(self).encode())

    def _repr_html_(self) -> str:
        """The page for a notebook, in its own frame."""
        return view("notebook")(self)

    def __str__(self) -> str:
        return view("interactions")(self)
