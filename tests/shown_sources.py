"""Answers with sources, made by hand: a short one whose sums anyone can check, and one about a prompt as long as wanted."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from noiser.results.attribution import Attribution, Cost, Target
from noiser.text.prompt import Prompt
from noiser.text.spans import NamedSpan

ANSWER = "The first mason came from the north . He kept a book . Then he left ."
WORDS = ("carts", "cross", "the", "old", "bridge", "every", "spring", "and", "masons", "keep", "a", "book", "of", "stones")
COST = Cost(2.5, 12_345, 0, 10**9)
DOCUMENTS = (
    ("mill", (" It", " is", " old", ".", " Oskar", " built", " it", ".")),
    ("port", (" Ships", " come", ".", " Salt", " goes", ".")),
)


def made_prompt(documents: Sequence[tuple[str, Sequence[str]]] = DOCUMENTS, more: Sequence[str] = ()) -> Prompt:
    """A prompt of these documents, each a span with its name; then tokens of no span."""
    tokens = [token for _, own in documents for token in own] + list(more)
    offsets = list(pairwise(np.cumsum([0, *map(len, tokens)]).tolist()))
    ends = np.cumsum([0, *(len(own) for _, own in documents)]).tolist()
    spans = [NamedSpan(name, offsets[a][0], offsets[b - 1][1]) for (name, _), (a, b) in zip(documents, pairwise(ends), strict=True)]
    return Prompt("".join(tokens), tuple(range(len(tokens))), tuple(tokens), (False,) * len(tokens), tuple(offsets), (), tuple(spans))


def part(level: str, name: str, tokens: Sequence[int], score: float, parts: Sequence[Any] = (), **more: Any) -> dict[str, Any]:
    """A part of a tree as `unit=auto` notes it."""
    own = {"level": level, "name": name, "tokens": list(tokens), "score": score, "raw": score, "stderr": None, "refined": bool(parts)}
    return {**own, "parts": list(parts), **more}


def made_tree(names: Sequence[str] = ("mill", "port"), answer: str = " Oskar") -> Attribution:
    """What `unit=auto` gives: the first of two sources down to words, the second, which speaks against the answer, as a whole."""
    prompt = made_prompt([(name, own) for name, (_, own) in zip(names, DOCUMENTS, strict=True)], (" Who", "?"))
    words = [
        part("word", "Oskar", [4], 0.3, raw=0.4, stderr=0.08),
        part("word", "built", [5], 0.1, raw=0.1, stderr=0.02),
        part("word", "it", [6], 0.0, raw=-0.1),
        part("word", ".", [7], 0.1, raw=0.1),
    ]
    sentences = [part("sentence", "It is old.", range(4), 0.1), part("sentence", "Oskar built it.", range(4, 8), 0.5, words, stderr=0.05)]
    roots = [part("span", names[0], range(8), 0.6, sentences, stderr=0.03), part("span", names[1], range(8, 14), -0.2, stderr=0.01)]
    scores = np.array([[0.025] * 4 + [0.3, 0.1, 0.0, 0.1] + [-0.2 / 6] * 6 + [0.0] * 2])
    target = Target((99,), (answer,), 0.7, 0, context=16)
    about = {"options": {"unit": "auto"}, "model": "model", "revision": "r", "seed": None, "cost": COST}
    return Attribution(scores, prompt, (target,), "occlusion", **about, notes={"levels": roots, "budget": "9000"}, unit="span", given=16)


def made_long(tokens: int = 20_000, sources: int = 60, statements: int = 3, name: str = "Report {}") -> list[Attribution]:
    """Statements of an answer to a long prompt, token by token, with standard errors. Statement n rests on source 7 n + 3."""
    draw = np.random.default_rng(5)
    each = tokens // sources
    documents = []
    for number in range(sources):
        own = [f" {WORDS[word]}" for word in draw.integers(len(WORDS), size=each)]
        own[9::10] = ["."] * len(own[9::10])
        own[99::100] = [".\n\n"] * len(own[99::100])
        documents.append((name.format(number + 1), own))
    documents[-1][1].extend([" stones"] * (tokens - each * sources))
    answer = [f" {word}" for word in re.findall(r"\S+", ANSWER)]
    found = []
    for number, (start, stop) in enumerate(((0, 8), (8, 13), (13, len(answer)))[:statements]):
        prompt = made_prompt(documents, answer[:start])
        scores = draw.normal(size=(1, len(prompt))) / 1e4
        best = (7 * number + 3) % sources * each
        scores[0, best + 20 : best + 24] = 0.2
        target = Target(tuple(range(start, stop)), tuple(answer[start:stop]), 0.5, 0, "log_prob", -1.0, context=len(prompt))
        about = {"options": {}, "model": "model", "revision": "r", "seed": 0, "cost": COST, "given": tokens}
        stderr = np.full(scores.shape, 1e-5)
        found.append(Attribution(scores, prompt, (target,), "noiser", **about, notes={"warnings": ["made up"]}, stderr=stderr, dof=(9,)))
    return found
