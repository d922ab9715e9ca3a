"""The numbers that the paper prints, to stand beside ours."""

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from noiser.registry import read_label

SOURCE = "Ghasemi Madani et al. 2025, arXiv:2504.02911"
SUSPECT = "\u2020"
"""The mark of a cell that cannot be right."""
AVERAGE = "average"


@cache
def tables() -> Mapping[str, Any]:
    """The published tables, as printed."""
    return json.loads(files("noiser.experiments.report").joinpath("paper_tables.json").read_text())


def column(model: str) -> str:
    """The paper's name for a model; `average` for a model that the paper does not have."""
    name = _normalise(read_label(model.split("@")[0])[0].split("/")[-1]).removeprefix("meta")
    return next((printed for printed in tables()["models"] if _normalise(printed) == name), AVERAGE)


def _normalise(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def faithfulness(kind: str, method: str, model: str) -> str:
    """The cell of table 1 as text; empty if there is none."""
    return _cell("table1_faithfulness", tables()["table1_faithfulness"].get(kind, {}).get(method, {}).get(model), kind, method, model)


def bound(name: str, model: str) -> str:
    """The cell of table 2 as text; empty if there is none."""
    return _cell("table2_bounds_known", tables()["table2_bounds_known"].get(name, {}).get(model), "known", name, model)


def soft(kind: str, method: str, metric: str, model: str) -> str:
    """The cell of table 5 for `soft_ns` or `soft_nc`. The paper prints no averages there: we average its six models."""
    by_model = tables()["table5_soft_ns_nc"].get(kind, {}).get(method, {})
    if model == AVERAGE:
        values = [values[metric] for values in by_model.values()]
        return _cell("table5_soft_ns_nc", sum(values) / len(values) if values else None, kind, method, model)
    return _cell("table5_soft_ns_nc", by_model.get(model, {}).get(metric), kind, method, model)


def answerability(form: str, method: str, model: str) -> tuple[str, str]:
    """Rate and score in table 3 for `top1`, in table 6 for `top5`; empty texts if there are none.

    The score is a mean over all samples. Both tables are of Known.
    """
    table = {"top1": "table3_answerability_top1_known", "top5": "table6_answerability_top5_known"}[form]
    cell = tables()[table].get(method, {}).get(model)
    return (f"{cell['rate']:.2f}", f"{cell['score']:.3f}") if cell else ("", "")


def ceiling(form: str) -> str:
    """How often the paper's judge is right with all words."""
    return f"{tables()['judge'][f'ceiling_{form}']:.2f}"


def count(kind: str, model: str) -> int | None:
    """The cell of table 7: how many prompts the model answers."""
    return tables()["table7_counts"].get(kind, {}).get(model)


def _cell(table: str, value: float | None, kind: str, method: str, model: str) -> str:
    if value is None:
        return ""
    return f"{value:+.2f}{SUSPECT if suspicion(table, kind, method, model) else ''}"


def suspicion(table: str, kind: str, method: str, model: str) -> str:
    """Why a cell cannot be right; empty if nothing speaks against it. An average is suspect if one of its cells is."""
    for suspect in tables()["suspect"]:
        models = (*suspect["models"], AVERAGE)
        if table in suspect["tables"] and kind == suspect["data"] and model in models and suspect.get("method", method) == method:
            return suspect["why"]
    return ""
