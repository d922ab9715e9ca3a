"""ContextCite's two figures, over the sentences of the documents: how much the answer loses when the top sentences are deleted, and how
well scores predict what random deletions do (linear datamodelling score).

The text of a sentence is deleted, as ContextCite's authors do; the question stays. Their surrogate is fitted here to the logit of the
answer's probability under 32 or 64 such deletions (rows `deletion lasso`), beside the library's methods, which replace embeddings.

Source: Cohen-Wang, Shah, Georgiev & Madry 2024, arXiv:2409.00729, sections 3 and 4.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

import noiser
from benchmarks.long_prompts import Needle
from benchmarks.long_records import LIME, append, by_id, interval, lines, masks_spec, rows
from noiser.lm.model import LanguageModel
from noiser.methods.lime import lasso
from noiser.results.scores import spearman
from noiser.rng import generator
from noiser.text.spans import NamedSpan
from noiser.text.units import units

PART = "ablations"
FITTED, HELD = 64, 32
TOP = (1, 3, 5)
NOISER = "noiser:bound=rms+scale=4+samples=3"
METHODS = ("occlusion", NOISER, "masks")
DELETION = {"deletion lasso 32": 32, "deletion lasso 64": 64}
ALPHA = 0.01


@dataclass(frozen=True)
class Sources:
    """A prompt in pieces: its sentences of documents, each with the space that follows, and the question."""

    pieces: tuple[str, ...]
    question: str

    def kept(self, present: Sequence[bool]) -> str:
        """The text with these sentences only."""
        return "".join(piece for piece, keep in zip(self.pieces, present, strict=True) if keep) + self.question

    @property
    def spans(self) -> tuple[NamedSpan, ...]:
        """The sentences as spans of the whole text."""
        ends = np.cumsum([0, *map(len, self.pieces)]).tolist()
        return tuple(NamedSpan(str(place), first, stop) for place, (first, stop) in enumerate(pairwise(ends)))


def sources(lm: LanguageModel, needle: Needle) -> Sources:
    """The sentences of the documents, the line of a title among them."""
    prompt = lm.prompt(needle.question, documents=needle.documents)
    start = prompt.text.index(needle.question)
    found = units(prompt, "sentence")
    begins = [prompt.offsets[members[0]][0] for members in found.members]
    begins = [begin + len(prompt.text[begin:]) - len(prompt.text[begin:].lstrip()) for begin in begins]
    begins = [begin for begin in begins if begin < start]
    ends = [*begins[1:], start]
    pieces = tuple(prompt.text[first:stop] for first, stop in zip([0, *begins[1:]], ends, strict=True))
    return Sources(pieces, needle.question)


def log_probs(lm: LanguageModel, texts: Sequence[str], ids: Sequence[int]) -> tuple[list[float], int]:
    """The answer's log-probability after each text, and the tokens that they have."""
    found, tokens = [], 0
    for attribution in noiser.attribute_many(lm, list(texts), "uniform", target=list(ids), quantity="log_prob"):
        assert isinstance(attribution, noiser.Attribution)
        assert attribution.target.value is not None
        found.append(attribution.target.value)
        tokens += attribution.cost.forward_tokens
    return found, tokens


def masks(name: str, what: str, count: int, number: int) -> np.ndarray:
    """Random sets of sentences, each kept with probability 1/2."""
    return generator(0, name, what).random((count, number)) < 0.5


def run(lm: LanguageModel, needle: Needle, ids: Sequence[int], methods: Sequence[str] = METHODS) -> Iterator[dict[str, Any]]:
    """The records of one prompt: its deletions, then for each method its scores and drops. What is there already is left out."""
    there = by_id(lines(PART), lambda line: line["method"]).get(needle.id, {})
    text = sources(lm, needle)
    number = len(text.pieces)
    if "deletions" not in there:
        fitted, tokens = log_probs(lm, [text.kept(row) for row in masks(needle.id, "fitted", FITTED, number)], ids)
        held, _ = log_probs(lm, [text.kept(row) for row in masks(needle.id, "held out", HELD, number)], ids)
        whole = log_probs(lm, [text.kept([True] * number)], ids)[0][0]
        yield {"id": needle.id, "method": "deletions", "sources": number, "clean": whole, "fitted": fitted, "held": held, "tokens": tokens}
    for label in methods:
        if (next(iter(LIME)) if label == "masks" else label) not in there:
            for method, values, tokens in library_scores(lm, text, label, ids):
                yield {"id": needle.id, "method": method, "scores": values, "tokens": tokens}


def library_scores(lm: LanguageModel, text: Sources, label: str, ids: Sequence[int]) -> list[tuple[str, list[float], int]]:
    """A library method's scores of the sentences, and the tokens that it takes; `masks` stands for all in LIME."""
    prompt = replace(lm.prompt(text.kept([True] * len(text.pieces))), spans=text.spans)
    method: Any = masks_spec("span") if label == "masks" else label
    options: dict[str, Any] = {} if label == "masks" else {"unit": "span"}
    found = noiser.attribute(lm, prompt, method, target=list(ids), quantity="log_prob", **options)
    if label == "masks":
        return [(fit, values, LIME[fit] * len(prompt)) for fit, values in found.notes["fits"].items()]
    return [(label, found.by("span").scores[0].tolist(), found.cost.forward_tokens)]


def deletion_lasso(present: np.ndarray, log_prob: Sequence[float], tokens: int) -> np.ndarray:
    """ContextCite's weights: the lasso on the logit of the answer's probability, by its number of tokens."""
    values = np.array(log_prob)
    logit = values - np.log(-np.expm1(np.minimum(values, -1e-12)))
    return lasso(present, logit / tokens, ALPHA)[0] * tokens


def all_scores(name: str, found: dict[Any, Any], tokens: int) -> dict[str, tuple[list[float], int]]:
    """The scores of every row of the table on one prompt, and what each takes."""
    deletions = found["deletions"]
    number = deletions["sources"]
    present = masks(name, "fitted", FITTED, number)
    own: dict[str, tuple[list[float], int]] = {}
    for label, count in DELETION.items():
        weights = deletion_lasso(present[:count], deletions["fitted"][:count], tokens)
        own[label] = weights.tolist(), deletions["tokens"] * count // FITTED
    own |= {label: (line["scores"], line["tokens"]) for label, line in found.items() if "scores" in line}
    own["recency"] = list(map(float, range(number))), 0
    own["random"] = generator(0, name, "order").random(number).tolist(), 0
    return own


def drops(lm: LanguageModel, needle: Needle, ids: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The log-probability without the top sentences of each method."""
    found = by_id(lines(PART), lambda line: line["method"]).get(needle.id, {})
    done = found.get("drops", {}).get("without", {})
    text, wanted = sources(lm, needle), {}
    for label, (values, _) in all_scores(needle.id, found, len(ids)).items():
        for k in TOP:
            wanted[label, k] = tuple(sorted(np.argsort(-np.array(values), kind="stable")[:k].tolist()))
    sets = [each for each in dict.fromkeys(wanted.values()) if str(list(each)) not in done]
    if sets:
        values, _ = log_probs(lm, [text.kept([place not in each for place in range(len(text.pieces))]) for each in sets], ids)
        new = dict(zip(map(str, map(list, sets)), values, strict=True))
        yield {"id": needle.id, "method": "drops", "without": {**done, **new}}


def figures(name: str, found: dict[Any, Any], tokens: int) -> dict[str, tuple[float, ...]]:
    """For each method: the drop at each k, the linear datamodelling score, and the tokens."""
    deletions, without = found["deletions"], found["drops"]["without"]
    held = masks(name, "held out", HELD, deletions["sources"])
    result = {}
    for label, (values, cost) in all_scores(name, found, tokens).items():
        order = np.argsort(-np.array(values), kind="stable")
        fall = [deletions["clean"] - without[str(sorted(order[:k].tolist()))] for k in TOP]
        result[label] = (*fall, lds(held, values, deletions["held"]), float(cost))
    return result


def lds(present: np.ndarray, values: Sequence[float], measured: Sequence[float]) -> float:
    """Spearman's correlation of the sum of the scores that are left with what was measured; 0 if all sums are equal."""
    return spearman((present @ np.array(values))[None], np.array(measured)[None], [len(measured)]) or 0.0


def table(tokens: dict[str, int]) -> str:
    """Means over prompts, and paired differences to ContextCite's surrogate with 64 ablations. `tokens`: of each prompt's answer."""
    records = {name: found for name, found in by_id(lines(PART), lambda line: line["method"]).items() if "drops" in found}
    by_prompt = {name: figures(name, found, tokens[name]) for name, found in records.items()}
    labels = list(dict.fromkeys(label for found in by_prompt.values() for label in found))
    base, header = "deletion lasso 64", [*(f"drop, top {k}" for k in TOP), "LDS"]
    means, pairs = [], []
    for label in labels:
        both = [(found[label], found[base]) for found in by_prompt.values() if label in found]
        columns = np.array([own for own, _ in both])
        means.append([label, str(len(both)), *(interval(columns[:, place]) for place in range(4)), f"{columns[:, 4].mean():,.0f}"])
        gaps = columns[:, :4] - np.array([other for _, other in both])[:, :4]
        pairs.append([label, *(interval(gaps[:, place], sign=True) for place in range(4))])
    number = [found["deletions"]["sources"] for found in records.values()]
    first = f"{len(records)} prompts of {min(number, default=0)} to {max(number, default=0)} sentences"
    parts = [first, rows(["method", "prompts", *header, "token-forwards"], means), rows([f"minus {base}", *header], pairs)]
    return "\n\n".join(parts)


def proceed(lm: LanguageModel, needle: Needle, ids: Sequence[int], methods: Sequence[str] = METHODS) -> None:
    """Add what is missing of one prompt to the records."""
    for record in (*run(lm, needle, ids, methods),):
        append(PART, lm, record)
    for record in drops(lm, needle, ids):
        append(PART, lm, record)
