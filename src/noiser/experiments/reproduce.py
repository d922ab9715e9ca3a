"""The paper's tables and figures, each as the plan that makes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from noiser.data import read
from noiser.errors import OptionError
from noiser.experiments.plan import Plan, make_plan

METHODS = (
    "last_attention", "attention_rollout", "gradient_shap", "input_x_gradient", "integrated_gradients", "deeplift",
    "sequential_integrated_gradients:steps=16", "lime", "occlusion", "noiser",
)  # fmt: skip
"""The paper's ten. Sequential integrated gradients takes a fixed number of points, because its adaptive ones can take minutes."""
BOUNDS = ("random", "none", "l2", "linf", "k_max_per_token", "k_max", "k_min")
FAITHFULNESS = ("soft_ns:protocol=official", "soft_nc:protocol=official", "soft_ns:protocol=matched", "soft_nc:protocol=matched")
"""As the released code has it, which the printed numbers are nearest to; and as it can be believed."""


@dataclass(frozen=True)
class Published:
    """A table or figure of the paper."""

    what: str
    data: tuple[str, ...]
    methods: Sequence[str] = METHODS
    metrics: Sequence[str] = FAITHFULNESS
    controls: Sequence[str] = ("random", "uniform", "constant", "recency", "permuted")
    sections: tuple[str, ...] = ()
    """The report's sections that show it."""


SETS = ("known", "longra", "wikibio")
PUBLISHED = {
    "table1": Published("faithfulness of ten methods on three data sets", SETS, sections=("metrics", "cost")),
    "table2": Published("Noiser's bounds, and 10 against 5 steps", SETS[:1],
                        (*(f"noiser:bound={each}" for each in BOUNDS), "noiser:steps=5"),
                        controls=("random", "constant"), sections=("bounds", "metrics")),
    "table5": Published("Soft-NS and Soft-NC apart", SETS, sections=("metrics",)),
    "table7": Published("how many prompts a model answers", SETS[:2], (), (), (), sections=("prompts",)),
    "figure2": Published("where on LongRA's prompts the scores lie", SETS[1:2], metrics=(), controls=("random", "uniform"),
                         sections=("longra",)),
}  # fmt: skip


def published(name: str) -> Published:
    """The table or figure of that name. Raises OptionError with what there is."""
    if name not in PUBLISHED:
        later = {"table3", "table6", "figure3", "figure4"}
        why = " (it needs answerability, which is not there yet)" if name in later else ""
        raise OptionError(f"there is no {name!r} to reproduce{why}; there are {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def reproduction(name: str, models: Sequence[Any], data: Sequence[Any], limit: int | None, seed: int) -> Plan:
    """The plan for it; `data` as `present_sets` finds it."""
    wanted = published(name)
    lists = {"methods": list(wanted.methods), "metrics": list(wanted.metrics), "controls": list(wanted.controls)}
    return make_plan({"models": list(models), "data": list(data), **lists, "limit": limit, "seed": seed})


def present_sets(wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """The published sets where they can be had, the shipped ones of the same kind where not; and a sentence for each of those."""
    found, said = [], []
    for name in wanted:
        try:
            read(name)
            found.append(name)
        except OptionError as error:
            found.append(f"{name}-mini")
            said.append(f"{name} is not here, {name}-mini stands in for it: {error}")
    return found, said
