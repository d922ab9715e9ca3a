"""Attributions of the statements of one answer: what belongs to each, and all of them as one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from noiser.errors import OptionError
from noiser.results.attribution import Attribution
from noiser.text.prompt import Prompt
from noiser.text.spans import NamedSpan


def combined(attributions: Sequence[Attribution]) -> Attribution:
    """Attributions of one prompt by one method as one Attribution with all their targets, in the order of the answer.

    Its notes have a row for each target. Raises OptionError if prompts, methods, options or models differ.
    """
    longest, first = longest_prompt(attributions), attributions[0]
    if len(attributions) == 1:
        return first
    if any(_about(each) != _about(first) for each in attributions):
        raise OptionError("statements of one answer are explained by one method with the same options, on one model")
    ordered = sorted(((each, row) for each in attributions for row in range(len(each.targets))), key=lambda pair: context_of(*pair))
    warnings = dict.fromkeys(warning for each in attributions for warning in each.notes.get("warnings", ()))
    rows = [{name: value for name, value in notes_of(each, row).items() if name != "warnings"} for each, row in ordered]
    scores = np.array([_padded(each.scores[row], len(longest)) for each, row in ordered])
    errors = [_padded(each.stderr[row], len(longest)) for each, row in ordered if each.stderr is not None]
    return replace(
        first,
        prompt=replace(longest, spans=_given_spans(first)),
        scores=scores,
        targets=tuple(replace(each.targets[row], context=context_of(each, row)) for each, row in ordered),
        cost=sum((each.cost for each in attributions[1:]), first.cost),
        notes={"warnings": list(warnings), "rows": rows},
        unit=first.unit if len({each.unit for each in attributions}) == 1 else "token",
        curves=(),
        stderr=np.array(errors) if len(errors) == len(ordered) else None,
        dof=tuple(each.dof[row] if each.dof else None for each, row in ordered) if len(errors) == len(ordered) else None,
    )


def _about(attribution: Attribution) -> list[Any]:
    """What all statements of one answer have in common. The unit may differ: a budget may pay for all tokens of one statement only."""
    options = {name: value for name, value in attribution.options.items() if name != "unit"}
    return [attribution.method, options, attribution.model, attribution.revision]


def longest_prompt(attributions: Sequence[Attribution]) -> Prompt:
    """The longest of the prompts, which begins with each of the others. Raises OptionError if it does not."""
    if not attributions:
        raise OptionError("sources are those of at least one attribution; got none")
    longest = max((each.prompt for each in attributions), key=len)
    givens = {len(each.prompt) if each.given is None else each.given for each in attributions}
    if len(givens) > 1 or any(each.prompt.input_ids != longest.input_ids[: len(each.prompt)] for each in attributions):
        raise OptionError("statements of one answer are explained on one prompt, and these attributions have different ones")
    return longest


def context_of(attribution: Attribution, row: int) -> int:
    """How many tokens come before this target."""
    return attribution.targets[row].context or len(attribution.prompt)


def notes_of(attribution: Attribution, row: int) -> Mapping[str, Any]:
    """What the notes say about this target."""
    notes = attribution.notes
    return notes["rows"][row] if len(attribution.targets) > 1 and len(notes.get("rows", ())) > row else notes


def levels_of(attribution: Attribution, row: int) -> Sequence[Mapping[str, Any]]:
    """The tree of `unit=auto` of this target; empty with another unit."""
    return notes_of(attribution, row).get("levels", ())


def _padded(row: np.ndarray, length: int) -> np.ndarray:
    return np.pad(row, (0, length - len(row)))


def _given_spans(attribution: Attribution) -> tuple[NamedSpan, ...]:
    """The spans of the prompt before `unit=auto` added its parts: the coarsest parts of its tree, if they are spans."""
    if not levels_of(attribution, 0):
        return attribution.prompt.spans
    roots = [root for root in levels_of(attribution, 0) if root["level"] == "span"]
    offsets = [[attribution.prompt.offsets[token] for token in root["tokens"]] for root in roots]
    spans = (NamedSpan(root["name"], min(o)[0], max(stop for _, stop in o)) for root, o in zip(roots, offsets, strict=True))
    return tuple(sorted(spans, key=lambda span: (span.start, -span.stop)))
