"""What the viewer draws: one result as plain values, everything that is shown made visible first."""

from collections.abc import Sequence
from typing import Any

from noiser._version import __version__
from noiser.results.attribution import Attribution, Comparison
from noiser.results.evaluation import Evaluation
from noiser.results.records import Row, Summary
from noiser.results.scores import spearman
from noiser.text.prompt import Prompt
from noiser.text.units import UNITS, units
from noiser.views.escape import joined, visible
from noiser.views.labels import readable, spaced
from noiser.views.terminal.evaluation import ARROWS, number

View = dict[str, Any]
LONGEST = 60
"""Characters of a prompt in a title."""
NOTE = (
    "95 % intervals in brackets: cluster bootstrap over samples. Methods that share a letter were not told apart (paired test, 5 %, Holm)."
)
SHARED = ("schema", "model", "revision", "prompt", "target", "targets")
"""What is the same for all methods, and stands in the view once."""


def view(result: Attribution | Comparison, evaluation: Evaluation | None = None) -> View:
    """An attribution or a comparison, and where there is one an evaluation's tables, as the viewer's script reads them.

    Strict JSON. All of the command line's JSON is in it, so that it can be had back from the page. docs/viewer.md has its shape.
    """
    each = result.attributions if isinstance(result, Comparison) else (result,)
    compared = result if isinstance(result, Comparison) else Comparison(each)
    first = each[0].to_dict()
    return {
        "schema": 1,
        "noiser": __version__,
        "title": title(each[0]),
        "model": first["model"],
        "revision": first["revision"],
        "comparison": isinstance(result, Comparison),
        "prompt": first["prompt"],
        **_tokens(each[0].prompt),
        "targets": [_target(target) for target in first["targets"]],
        "rows": [_row(one) for one in each],
        "agreement": {"spearman": compared.spearman, "top3_overlap": compared.top_overlap, "targets": _by_target(compared)},
        "failures": {name: visible(message) for name, message in compared.failures.items()},
        "evaluation": None if evaluation is None else _evaluation(evaluation),
    }


def title(attribution: Attribution) -> str:
    """The end of the prompt and what was predicted: `The Eiffel Tower is located in the city of \u2192 Paris`."""
    prompt = attribution.prompt
    text = visible(prompt.text if attribution.given in (None, len(prompt)) else prompt.cropped(attribution.given or 0).text).strip()
    short = text if len(text) <= LONGEST else "\u2026" + text[-LONGEST:]
    return f"{short} \u2192 {visible(joined(token for target in attribution.targets for token in target.tokens)).strip()}"


def _by_target(compared: Comparison) -> list[list[list[float | None]]]:
    """The rank correlation of every two methods, for each target alone."""
    first = compared.attributions[0]
    return [
        [[spearman(a.scores[row, None], b.scores[row, None], [seen]) for b in compared.attributions] for a in compared.attributions]
        for row, seen in enumerate(target.context or len(first.prompt) for target in first.targets)
    ]


def _tokens(prompt: Prompt) -> View:
    turns = [turn for turn in prompt.turns if turn.tokens]
    kinds = [kind for kind in UNITS if kind not in ("token", "treebank") and (kind != "turn" or turns)]
    return {
        "labels": [spaced(visible(token)) for token in prompt.tokens],
        "texts": [visible(token) for token in readable(prompt)],
        "special": list(prompt.special),
        "roles": {str(min(turn.tokens)): visible(turn.role) for turn in turns},
        "units": {kind: _units(prompt, kind) for kind in kinds},
    }


def _units(prompt: Prompt, kind: str) -> View:
    found = units(prompt, kind)
    return {"of": list(found.of), "texts": [visible(text.strip()) for text in found.texts]}


def _target(plain: View) -> View:
    text = visible(joined(plain["tokens"]))
    foil = plain["foil"]
    return plain | {"label": spaced(text), "text": text, "foil_text": visible(joined(foil["tokens"])) if foil else None}


def _row(attribution: Attribution) -> View:
    plain = {name: value for name, value in attribution.to_dict().items() if name not in SHARED}
    return plain | {"curves": plain.get("curves", [])}


def _evaluation(evaluation: Evaluation) -> View:
    remarks = dict.fromkeys(f"{each.metric}: {remark}" for each in evaluation.summaries for remark in each.remarks)
    return {
        "title": visible(f"{evaluation.model}, {evaluation.samples} samples"),
        "tables": [_table(each) for each in evaluation.summaries],
        "remarks": [visible(remark) for remark in remarks],
    }


def _table(summary: Summary) -> View:
    ratios = any(row.log_ratio is not None for row in summary.rows)
    means = any(row.mean.value is not None for row in summary.rows)
    return {
        "title": visible(f"{summary.metric}, {ARROWS[summary.better][2:]}, {summary.samples} samples, {summary.clusters} clusters"),
        "columns": ["method", *(["log(mean / mean of random)"] if ratios else []), *(["mean"] if means else []), "group"],
        "rows": [_cells(row, ratios=ratios, means=means) for row in summary.rows],
        "notes": [NOTE],
    }


def _cells(row: Row, *, ratios: bool, means: bool) -> Sequence[str]:
    ratio = [number(row.log_ratio, signed=True) if row.log_ratio else "none"] if ratios else []
    return [visible(row.method) + " (control)" * row.control, *ratio, *([number(row.mean)] if means else []), row.group]
