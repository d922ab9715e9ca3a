"""The data that the viewer draws: one result as plain values, with all texts made visible."""

from collections.abc import Sequence
from typing import Any

from noiser._version import __version__
from noiser.results.attribution import Attribution, Comparison
from noiser.results.evaluation import Evaluation
from noiser.results.interactions import Interactions
from noiser.results.records import Row, Summary
from noiser.results.scores import critical_value, spearman
from noiser.text.prompt import Prompt
from noiser.text.units import UNITS, is_available, units
from noiser.views.labels import join_tokens, mark_space, readable_tokens, visible
from noiser.views.terminal.evaluation import ARROWS, format_number
from noiser.views.viewer.sources import sources_data

View = dict[str, Any]
MAX_PAIRS = 200
"""Pairs on a page."""
MAX_TITLE = 60
"""Characters of a prompt in a title."""
NOTE = "95 % intervals in brackets: jackknife over clusters. Methods that share a letter were not told apart (paired test, 5 %, Holm)."
SHARED = ("schema", "model", "revision", "prompt", "target", "targets")
"""What is the same for all methods. It stands in the view once."""
HIDDEN_NOTES = ("levels", "rounds", "rows", "dof")
"""What a page shows elsewhere, or what only a program reads."""


def view(result: Attribution | Comparison | Interactions, evaluation: Evaluation | None = None) -> View:
    """An attribution or a comparison, and optionally an evaluation's tables; or interactions, as the viewer's script reads them.

    The values are strict JSON. They include everything in the command line's JSON, so the page can give it back. docs/viewer.md
    describes the fields.
    """
    if isinstance(result, Interactions):
        return _interactions(result)
    attributions = result.attributions if isinstance(result, Comparison) else (result,)
    comparison = result if isinstance(result, Comparison) else Comparison(attributions)
    first = attributions[0].to_dict()
    sources = sources_data(attributions)
    data = {
        "schema": 1,
        "noiser": __version__,
        "title": title(attributions[0]),
        "model": first["model"],
        "revision": first["revision"],
        "comparison": isinstance(result, Comparison),
        "targets": [_target(target) for target in first["targets"]],
        "agreement": _agreement(comparison),
        "failures": {name: visible(message) for name, message in comparison.failures.items()},
        "evaluation": None if evaluation is None else _evaluation(evaluation),
    }
    if sources is None:
        return data | _by_token(first, attributions)
    return data | {"sources": sources} | (_by_token(first, attributions) if sources["tokens"] else _without_tokens(attributions))


def _by_token(first: View, attributions: Sequence[Attribution]) -> View:
    """Prompt and scores token by token."""
    return {"prompt": first["prompt"], **_tokens(attributions[0].prompt), "rows": [_row(attribution) for attribution in attributions]}


def _without_tokens(attributions: Sequence[Attribution]) -> View:
    """A long prompt and its rows without the scores of single tokens: the sources have their sums."""
    prompt = attributions[0].prompt
    rows = [_about(attribution) | {"scores": [[] for _ in attribution.targets], "curves": []} for attribution in attributions]
    return {
        "prompt": {"text": "", "input_ids": [], "tokens": [], "given": 0},
        "labels": [],
        "texts": [visible(token) for token in readable_tokens(prompt)],
        "special": [],
        "units": {},
        "rows": rows,
    }


def title(attribution: Attribution) -> str:
    """The end of the prompt and what was predicted: `The Eiffel Tower is located in the city of \u2192 Paris`."""
    prompt = attribution.prompt
    text = visible(prompt.text if attribution.given in (None, len(prompt)) else prompt.cropped(attribution.given or 0).text).strip()
    short = text if len(text) <= MAX_TITLE else "\u2026" + text[-MAX_TITLE:]
    return f"{short} \u2192 {visible(join_tokens(token for target in attribution.targets for token in target.tokens)).strip()}"


def _interactions(result: Interactions) -> View:
    """The Shapley values as the scores of one method, and beside them the pairs, the strongest first: [first, second, interaction]."""
    scores = result.units.spread(result.shapley)[None]
    about = {"model": result.model, "revision": result.revision, "options": result.options, "seed": result.seed, "cost": result.cost}
    shapley = Attribution(scores, result.prompt, (result.target,), "shapley", **about, unit=result.units.kind)
    texts = [visible(text.strip() if result.units.kind != "token" else text) for text in result.units.texts]
    kind, notes = result.units.kind, result.notes
    how = "exact" if notes.get("approximator") == "exact" else f"estimated by {notes.get('approximator')}"
    facts = f"Shapley interactions of every two {kind}s: {how}, {notes.get('coalitions', 0):,} sets of {kind}s run"
    drawn = {
        "unit": kind,
        "pairs": [[pair.first, pair.second, pair.value] for pair in result.strongest(MAX_PAIRS)],
        "facts": visible(facts),
        "warnings": [visible(warning) for warning in notes.get("warnings", ())],
    }
    units = {} if kind == "token" else {kind: {"of": list(result.units.of), "texts": texts}}
    return view(shapley) | {"units": units, "interactions": drawn}


def _agreement(comparison: Comparison) -> View:
    """The agreement of every two methods: means over the targets, and the rank correlation for each target alone."""
    rows = comparison.attributions
    contexts = [target.context or len(rows[0].prompt) for target in rows[0].targets]
    targets = [
        [[spearman(one.scores[index, None], other.scores[index, None], [context]) for other in rows] for one in rows]
        for index, context in enumerate(contexts)
    ]
    return {"spearman": comparison.spearman, "top3_overlap": comparison.top_overlap, "targets": targets}


def _tokens(prompt: Prompt) -> View:
    turns = [turn for turn in prompt.turns if turn.tokens]
    given = {"turn": turns, "span": prompt.spans}
    kinds = [kind for kind in UNITS if kind not in ("token", "treebank") and is_available(kind) and given.get(kind, True)]
    return {
        "labels": [mark_space(visible(token)) for token in prompt.tokens],
        "texts": [visible(token) for token in readable_tokens(prompt)],
        "special": list(prompt.special),
        "roles": {str(min(turn.tokens)): visible(turn.role) for turn in turns},
        "units": {kind: _units(prompt, kind) for kind in kinds},
    }


def _units(prompt: Prompt, kind: str) -> View:
    cut = units(prompt, kind)
    return {"of": list(cut.of), "texts": [visible(text.strip()) for text in cut.texts]}


def _target(target: View) -> View:
    text = visible(join_tokens(target["tokens"]))
    foil = target["foil"]
    return target | {"label": mark_space(text), "text": text, "foil_text": visible(join_tokens(foil["tokens"])) if foil else None}


def _about(attribution: Attribution) -> View:
    """What a row says besides scores. The trees of `unit=auto` stand with the sources."""
    left_out = (*SHARED, "scores", "stderr", "dof", "curves", "notes")
    notes = {name: value for name, value in attribution.notes.items() if name not in HIDDEN_NOTES}
    return {name: value for name, value in attribution.to_dict().items() if name not in left_out} | {"notes": notes}


def _row(attribution: Attribution) -> View:
    row = {name: value for name, value in attribution.to_dict().items() if name not in SHARED}
    return row | {"curves": row.get("curves", [])} | ({} if attribution.stderr is None else {"critical": _critical(attribution)})


def _critical(attribution: Attribution) -> View:
    """For each target, how many standard errors the 95 % interval of a score reaches to each side: by itself (`each`), and if those of
    all tokens, or of all units of a kind, have to hold together."""
    contexts = [target.context or len(attribution.prompt) for target in attribution.targets]
    dof = attribution.dof or [None] * len(contexts)
    counts = {kind: [len(cut["texts"])] * len(contexts) for kind, cut in _tokens(attribution.prompt)["units"].items()}
    together = {"each": [1] * len(contexts), "token": contexts} | counts
    return {name: [critical_value(d, together=n) for d, n in zip(dof, numbers, strict=True)] for name, numbers in together.items()}


def _evaluation(evaluation: Evaluation) -> View:
    remarks = dict.fromkeys(f"{summary.metric}: {remark}" for summary in evaluation.summaries for remark in summary.remarks)
    return {
        "title": visible(f"{evaluation.model}, {evaluation.samples} samples"),
        "tables": [_table(summary) for summary in evaluation.summaries],
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
    ratio = [format_number(row.log_ratio, signed=True) if row.log_ratio else "none"] if ratios else []
    return [visible(row.method) + " (control)" * row.control, *ratio, *([format_number(row.mean)] if means else []), row.group]
