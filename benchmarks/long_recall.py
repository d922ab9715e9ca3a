"""How many of the true top five sentences and words coarse to fine finds at 5, 10 and 20 % of the full cost.

The truth is the method itself on every sentence, or every word. The full cost is that of `unit=token`: what the finest level takes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import noiser
from benchmarks.long_prompts import Needle
from benchmarks.long_records import append, by_id, interval, lines, rows
from noiser.attribution.estimate import estimate
from noiser.lm.model import LanguageModel

PART = "recall"
METHODS = ("occlusion", "noiser:bound=rms+scale=4+samples=1")
SHARES = (0.05, 0.1, 0.2)
LEVELS = ("sentence", "word")
TOP = 5


def run(lm: LanguageModel, needle: Needle, ids: Sequence[int], label: str) -> Iterator[dict[str, Any]]:
    """The records of one method on one prompt, without those that are there."""
    there = by_id(lines(PART), lambda line: (line["method"], line["what"])).get(needle.id, {})
    prompt = lm.prompt(needle.question, documents=needle.documents)
    explain: dict[str, Any] = {"target": list(ids), "quantity": "log_prob"}
    known = [line["full"] for (method, _), line in there.items() if method == label]
    full = known[0] if known else estimate(lm, prompt, label, unit="token", **explain).forward_tokens
    for level in LEVELS:
        if (label, level) not in there:
            found = noiser.attribute(lm, prompt, label, unit=level, **explain)
            yield _record(needle, label, level, full, found, (level,))
    for share in SHARES:
        if (label, str(share)) not in there:
            found = noiser.attribute(lm, prompt, label, unit="auto", budget=int(share * full), **explain)
            yield _record(needle, label, str(share), full, found, LEVELS)


def _record(needle: Needle, label: str, what: str, full: int, found: noiser.Attribution, levels: Sequence[str]) -> dict[str, Any]:
    scores = {level: np.round(found.by(level).scores[0], 5).tolist() for level in levels}
    spent = found.cost.forward_tokens
    return {"id": needle.id, "method": label, "what": what, "full": full, "tokens": spent, "length": len(found.prompt), "scores": scores}


def recall(true: Sequence[float], found: Sequence[float], top: int = TOP) -> float:
    """The share of the true top that is among the top found. Equal scores come in the order of the prompt."""
    first, second = (set(np.argsort(-np.array(each), kind="stable")[:top].tolist()) for each in (true, found))
    return len(first & second) / len(first)


def proceed(lm: LanguageModel, needle: Needle, ids: Sequence[int], label: str) -> None:
    """Add what is missing of one method on one prompt to the records."""
    for record in run(lm, needle, ids, label):
        append(PART, lm, record)


def table() -> str:
    """Recall with intervals over prompts, for each method, level and share of the full cost."""
    body = []
    for label in METHODS:
        found = by_id([line for line in lines(PART) if line["method"] == label], lambda line: line["what"])
        for share in map(str, SHARES):
            both = [each for each in found.values() if {share, *LEVELS} <= each.keys()]
            if not both:
                continue
            cells = [[recall(each[level]["scores"][level], each[share]["scores"][level]) for each in both] for level in LEVELS]
            spent = np.mean([each[share]["tokens"] for each in both])
            chance = [np.mean([min(1, TOP / len(each[level]["scores"][level])) for each in both]) for level in LEVELS]
            full = [np.mean([each[what]["tokens"] for each in both]) for what in LEVELS]
            costs = f"{spent:,.0f} of {np.mean([each[share]['full'] for each in both]):,.0f}"
            own = [f"{interval(cell)}; by chance {luck:.2f}" for cell, luck in zip(cells, chance, strict=True)]
            body.append([label, f"{100 * float(share):.0f} %", str(len(both)), *own, costs, f"{full[0]:,.0f}, {full[1]:,.0f}"])
    header = ["method", "budget", "prompts", "top 5 sentences", "top 5 words", "token-forwards", "all sentences, all words"]
    return rows(header, body)
