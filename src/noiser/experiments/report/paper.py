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
"""What a cell that cannot be right is marked with."""
AVERAGE = "average"


@cache
def tables() -> Mapping[str, Any]:
    """The published tables, as printed."""
    return json.loads(files("noiser.experiments.report").joinpath("paper_tables.json").read_text())


def column(model: str) -> str:
    """The paper's name for a model; `average` for one that it does not have."""
    wanted = _plain(read_label(model.split("@")[0])[0].split("/")[-1]).removeprefix("meta")
    return next((name for name in tables()["models"] if _plain(name) == wanted), AVERAGE)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def faithfulness(kind: str, method: str, model: str) -> str:
    """Table 1's cell, as it is to be shown; empty where there is none."""
    return _cell("table1_faithfulness", tables()["table1_faithfulness"].get(kind, {}).get(method, {}).get(model), kind, method, model)


def bound(name: str, model: str) -> str:
    """Table 2's cell."""
    return _cell("table2_bounds_known", tables()["table2_bounds_known"].get(name, {}).get(model), "known", name, model)


def part(kind: str, method: str, metric: str, model: str) -> str:
    """Table 5's cell for `soft_ns` or `soft_nc`. The paper prints no averages there: those of its six models are taken."""
    own = tables()["table5_soft_ns_nc"].get(kind, {}).get(method, {})
    if model == AVERAGE:
        found = [each[metric] for each in own.values()]
        return _cell("table5_soft_ns_nc", sum(found) / len(found) if found else None, kind, method, model)
    return _cell("table5_soft_ns_nc", own.get(model, {}).get(metric), kind, method, model)


def answerability(form: str, method: str, model: str) -> tuple[str, str]:
    """Table 3's cell for `top1`, table 6's for `top5`: rate and score, the latter a mean over all samples. All are of Known."""
    table = {"top1": "table3_answerability_top1_known", "top5": "table6_answerability_top5_known"}[form]
    found = tables()[table].get(method, {}).get(model)
    return (f"{found['rate']:.2f}", f"{found['score']:.3f}") if found else ("", "")


def ceiling(form: str) -> str:
    """How often the paper's judge is right with all words."""
    return f"{tables()['judge'][f'ceiling_{form}']:.2f}"


def count(kind: str, model: str) -> int | None:
    """Table 7's cell: how many prompts the model answers."""
    return tables()["table7_counts"].get(kind, {}).get(model)


def _cell(table: str, value: float | None, kind: str, method: str, model: str) -> str:
    if value is None:
        return ""
    return f"{value:+.2f}{SUSPECT if suspicion(table, kind, method, model) else ''}"


def suspicion(table: str, kind: str, method: str, model: str) -> str:
    """Why a cell cannot be right; empty where nothing is known against it. An average is suspect where one of its cells is."""
    for each in tables()["suspect"]:
        models = (*each["models"], AVERAGE)
        if table in each["tables"] and kind == each["data"] and model in models and each.get("method", method) == method:
            return each["why"]
    return ""
