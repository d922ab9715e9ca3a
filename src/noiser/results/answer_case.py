"""One prompt before its judges: what was kept of it, what they were shown, what they said and whether that was right."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from noiser.results.attribution import Attribution
from noiser.results.display import view
from noiser.text.units import Span

KEPT = "kept"
WITH_VERDICT = ("ok", "refused", "invalid_answer")


@dataclass(frozen=True)
class Ruling:
    """What one judge made of the case."""

    judge: str
    status: str
    """`ok`; `refused` or `invalid_answer`, which count as wrong; `undefined` or `error(CLASS)`, of which there is no verdict."""
    message: str
    """Why there is no verdict."""
    detail: Mapping[str, Any]
    """The record's step: `gold`, `words`, `scores`, `kept`, `mass`, `given`, `forms`; empty where there was no word to show."""

    @property
    def forms(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """By form and by what was shown (`kept`, `shuffled`, `all`, `none`, `random`, `canary`): the reply and whether it is
        right; of a `canary` whether the judge obeyed."""
        return self.detail.get("forms", {})

    @property
    def first(self) -> Mapping[str, Any]:
        """Its reply to the kept words in the first form; empty where there is none."""
        return next(iter(self.forms.values()), {}).get(KEPT, {})

    @property
    def correct(self) -> bool | None:
        """Whether that named the explained word; None where there is no verdict."""
        return bool(self.first.get("correct")) if self.status in WITH_VERDICT else None

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        about = {"judge": self.judge, "model": self.first.get("model"), "status": self.status, "message": self.message}
        return about | {"correct": self.correct, "answers": list(self.first.get("answers", ())), "forms": dict(self.forms)}


@dataclass(frozen=True, eq=False)
class Case:
    """An explanation and what judges made of its highest words. `print` it, `.correct`, `.rulings`, `.to_json()`."""

    attribution: Attribution
    options: Mapping[str, Any]
    """Of the metric, in full: `share`, `forms`, `variant`, `words`, `checks`, `seed`."""
    rulings: tuple[Ruling, ...]
    """One for each judge, in the order asked for."""

    @property
    def correct(self) -> bool | None:
        """Whether the first judge named the explained word; None where there is no verdict."""
        return self.rulings[0].correct

    @property
    def detail(self) -> Mapping[str, Any]:
        """The words, their scores and which were kept: the same for all judges. Empty where there was no word to show."""
        return next((each.detail for each in self.rulings if each.detail.get("words")), {})

    @property
    def gold(self) -> str:
        """The explained word."""
        return self.detail.get("gold") or "".join(self.attribution.target.tokens).strip()

    @property
    def kept(self) -> tuple[str, ...]:
        """The words with the highest scores, in the order of the prompt."""
        return tuple(self.detail["words"][place] for place in self.detail.get("kept", ()))

    @property
    def spans(self) -> Iterator[Span]:
        """Where the kept words stand in the prompt's text: first and one past the last character."""
        text, wanted, stop = _said(self.attribution), set(self.detail.get("kept", ())), 0
        for place, word in enumerate(self.detail.get("words", ())):
            start = text.find(word, stop)
            if start >= 0:
                stop = start + len(word)
                if place in wanted:
                    yield start, stop

    def to_dict(self) -> dict[str, Any]:
        """The case as plain Python values, in the shape of the command line's JSON (schema 1)."""
        first = self.rulings[0].to_dict()
        found, target = self.detail, self.attribution.target
        return {
            "schema": 1,
            **{name: first[name] for name in ("correct", "status", "message", "answers", "judge")},
            "kept": list(self.kept),
            "prompt": self.attribution.prompt.text,
            "gold": self.gold,
            "prob": target.prob,
            "rank": target.rank,
            "model": self.attribution.model,
            "revision": self.attribution.revision,
            "method": {"name": self.attribution.method, "options": dict(self.attribution.options), "seed": self.attribution.seed},
            "options": dict(self.options),
            "share": self.options["share"],
            **{name: found.get(name) for name in ("words", "scores", "mass", "given")},
            "kept_places": found.get(KEPT),
            "judges": [each.to_dict() for each in self.rulings],
            "warnings": list(self.attribution.notes.get("warnings", ())),
        }

    def to_json(self) -> str:
        """One line of strict JSON: no NaN, no infinity."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return view("case")(self)


def _said(attribution: Attribution) -> str:
    """The prompt's text; of a chat what its messages say, with its template blotted out."""
    prompt = attribution.prompt
    if not prompt.turns or not prompt.offsets:
        return prompt.text
    own = {place for turn in prompt.turns for token in turn.tokens for place in range(*prompt.offsets[token])}
    return "".join(character if place in own else "\0" for place, character in enumerate(prompt.text))
