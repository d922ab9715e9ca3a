"""The paper's tables and figures, each as the plan that makes it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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

ASKING = ("answerability", "minimum_top_p")
"""Metrics that ask a judge."""


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
    folder: str = ""
    """What its run's folder begins with, where another table has the same plan and so shares the run; empty: its own name."""

    @property
    def judged(self) -> bool:
        """Whether a judge is asked."""
        return any(metric.split(":")[0] in ASKING for metric in self.metrics)


SETS = ("known", "longra", "wikibio")
ANSWERS = Published("answerability on Known, top-1", SETS[:1], metrics=("answerability",), controls=("random", "uniform", "permuted"),
                    sections=("answerability",), folder="answerability")  # fmt: skip
PUBLISHED = {
    "table1": Published("faithfulness of ten methods on three data sets", SETS, sections=("metrics", "cost")),
    "table2": Published("Noiser's bounds, and 10 against 5 steps", SETS[:1],
                        (*(f"noiser:bound={each}" for each in BOUNDS), "noiser:steps=5"),
                        controls=("random", "constant"), sections=("bounds", "metrics")),
    "table3": ANSWERS,
    "table5": Published("Soft-NS and Soft-NC apart", SETS, sections=("metrics",)),
    "table6": replace(ANSWERS, what="answerability on Known, any of five words"),
    "table7": Published("how many prompts a model answers", SETS[:2], (), (), (), sections=("prompts",)),
    "figure2": Published("where on LongRA's prompts the scores lie", SETS[1:2], metrics=(), controls=("random", "uniform"),
                         sections=("longra",)),
    "figure3": replace(ANSWERS, what="how few words are enough, by method", metrics=("minimum_top_p",), folder=""),
    "figure4": replace(ANSWERS, what="faithfulness against answerability", metrics=(*FAITHFULNESS, "answerability"), folder=""),
}  # fmt: skip


def published(name: str) -> Published:
    """The table or figure of that name. Raises OptionError with what there is."""
    if name not in PUBLISHED:
        raise OptionError(f"there is no {name!r} to reproduce; there are {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def reproduction(name: str, models: Sequence[Any], data: Sequence[Any], limit: int | None, seed: int, judges: Sequence[str] = ()) -> Plan:
    """The plan for it; `data` as `present_sets` finds it. Without `judges` the plan's own default is asked where one is needed.
    Raises OptionError for judges where none is asked."""
    wanted = published(name)
    if judges and not wanted.judged:
        asking = [each for each, own in PUBLISHED.items() if own.judged]
        raise OptionError(f"{name} asks no judge: leave out {', '.join(judges)}. Judges are for {', '.join(asking)}")
    lists = {"methods": list(wanted.methods), "metrics": list(wanted.metrics), "controls": list(wanted.controls)}
    asked = {"judges": list(judges)} if judges else {}
    return make_plan({"models": list(models), "data": list(data), **lists, **asked, "limit": limit, "seed": seed})


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
