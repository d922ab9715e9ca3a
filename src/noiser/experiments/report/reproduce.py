"""The paper's tables and figures, each as the plan that makes it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from noiser.data import read, read_labelled
from noiser.errors import OptionError
from noiser.experiments.plan import Plan, make_plan
from noiser.registry import read_label

METHODS = (
    "last_attention", "attention_rollout", "gradient_shap", "input_x_gradient", "integrated_gradients", "deeplift",
    "sequential_integrated_gradients:steps=16", "lime", "occlusion", "noiser",
)  # fmt: skip
"""The paper's ten. Sequential integrated gradients takes a fixed number of points, because its adaptive ones can take minutes."""
BOUNDS = ("random", "none", "l2", "linf", "k_max_per_token", "k_max", "k_min")
FAITHFULNESS = ("soft_ns:protocol=official", "soft_nc:protocol=official", "soft_ns:protocol=matched", "soft_nc:protocol=matched")
"""`official` is nearest to the printed numbers; `matched` can be believed."""
JUDGED_METRICS = ("answerability", "minimum_top_p")


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
    """The start of its run folder's name if another table has the same plan and shares the run. Empty: its own name."""

    @property
    def judged(self) -> bool:
        """True if a metric asks a judge."""
        return any(read_label(metric)[0] in JUDGED_METRICS for metric in self.metrics)


SETS = ("known", "longra", "wikibio")
ANSWERS = Published("answerability on Known, top-1", SETS[:1], metrics=("answerability",), controls=("random", "uniform", "permuted"),
                    sections=("answerability",), folder="answerability")  # fmt: skip
PUBLISHED = {
    "table1": Published("faithfulness of ten methods on three data sets", SETS, sections=("metrics", "cost")),
    "table2": Published("Noiser's bounds, and 10 against 5 steps", SETS[:1],
                        (*(f"noiser:bound={bound}" for bound in BOUNDS), "noiser:steps=5"),
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


QUICK_LIMIT = 2
"""Prompts of each set with --quick, unless a limit is given."""
_QUICK = {
    "sequential_integrated_gradients:steps=16": "sequential_integrated_gradients:steps=4",
    "integrated_gradients": "integrated_gradients:steps=8",
    "lime": "lime:samples=50",
}
_QUICK_MASKS, _QUICK_TOKENS = 4, 3


def _quick(settings: dict[str, list[Any]], data: Sequence[str]) -> dict[str, list[Any]]:
    """The same with 4 masks, few fixed points on the paths of integrated gradients, 50 samples for LIME, and 3 tokens of a continuation."""
    metrics = [f"{label}+masks={_QUICK_MASKS}" if "protocol" in label else label for label in settings["metrics"]]
    short = [
        f"{label}{'+' if '=' in label else ':'}generate={_QUICK_TOKENS}"
        if "generate=" not in label and read_labelled(label).generate
        else label
        for label in data
    ]
    return {**settings, "methods": [_QUICK.get(label, label) for label in settings["methods"]], "metrics": metrics, "data": short}


def published(name: str) -> Published:
    """The table or figure of that name. Raises OptionError with all names for an unknown one."""
    if name not in PUBLISHED:
        raise OptionError(f"there is no {name!r} to reproduce; there are {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def reproduction(
    name: str, models: Sequence[Any], data: Sequence[Any], limit: int | None, seed: int, judges: Sequence[str] = (), *, quick: bool = False
) -> Plan:
    """The plan for a table or figure, on `data` as `present_sets` finds it. Without `judges` it asks the default judge if it needs one.
    `quick`: fewer masks, points and continuation tokens, and QUICK_LIMIT prompts of each set, for a first look.

    Raises OptionError for judges if no metric asks one.
    """
    target = published(name)
    if judges and not target.judged:
        judged = [other for other, entry in PUBLISHED.items() if entry.judged]
        raise OptionError(f"{name} asks no judge: leave out {', '.join(judges)}. Judges are for {', '.join(judged)}")
    settings = {"methods": list(target.methods), "metrics": list(target.metrics), "controls": list(target.controls)}
    settings |= {"judges": list(judges)} if judges else {}
    settings |= {"data": list(data)}
    if quick:
        settings, limit = _quick(settings, data), limit or QUICK_LIMIT
    return make_plan({"models": list(models), **settings, "limit": limit, "seed": seed})


def present_sets(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The published sets that can be read, and for each other one the shipped set of its kind and a sentence that says so."""
    present, sentences = [], []
    for name in names:
        try:
            read(name)
            present.append(name)
        except OptionError as error:
            present.append(f"{name}-mini")
            sentences.append(f"{name} is not here, {name}-mini stands in for it: {error}")
    return present, sentences
