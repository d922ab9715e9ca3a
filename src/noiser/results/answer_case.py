"""One explained prompt and its judges: the kept words, what each judge sees, what it replies, and whether the reply is correct."""

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
    """The verdict of one judge."""

    judge: str
    status: str
    """`ok`; `refused` or `invalid_answer`, which count as wrong; `undefined` or `error(CLASS)`, which give no verdict."""
    message: str
    """The reason if there is no verdict."""
    detail: Mapping[str, Any]
    """The record's step: `gold`, `words`, `scores`, `kept`, `mass`, `given`, `forms`. Empty if the prompt
    has no word to show."""

    @property
    def forms(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """By form and by the words that the judge sees (`kept`, `shuffled`, `all`, `none`, `random`, `canary`): its reply, and
        whether the reply is correct. For `canary`: whether the judge obeys."""
        return self.detail.get("forms", {})

    @property
    def first(self) -> Mapping[str, Any]:
        """The reply to the kept words in the first form. Empty if there is no reply."""
        return next(iter(self.forms.values()), {}).get(KEPT, {})

    @property
    def correct(self) -> bool | None:
        """Whether this reply names the explained word. None if there is no verdict."""
        return bool(self.first.get("correct")) if self.status in WITH_VERDICT else None

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        values = {"judge": self.judge, "model": self.first.get("model"), "status": self.status, "message": self.message}
        return values | {"correct": self.correct, "answers": list(self.first.get("answers", ())), "forms": dict(self.forms)}


@dataclass(frozen=True, eq=False)
class Case:
    """An explanation and the judges' verdicts on its highest words. See `print`, `.correct`, `.rulings` and `.to_json()`."""

    attribution: Attribution
    options: Mapping[str, Any]
    """All options of the metric: `share`, `forms`, `variant`, `words`, `checks`, `seed`."""
    rulings: tuple[Ruling, ...]
    """One for each judge, in the order of the judges."""

    @property
    def correct(self) -> bool | None:
        """Whether the first judge names the explained word. None if there is no verdict."""
        return self.rulings[0].correct

    @property
    def detail(self) -> Mapping[str, Any]:
        """The words, their scores and the kept ones: the same for all judges. Empty if the prompt has no word to show."""
        return next((ruling.detail for ruling in self.rulings if ruling.detail.get("words")), {})

    @property
    def gold(self) -> str:
        """The explained word."""
        return self.detail.get("gold") or "".join(self.attribution.target.tokens).strip()

    @property
    def kept(self) -> tuple[str, ...]:
        """The words with the highest scores, in the order of the prompt."""
        return tuple(self.detail["words"][index] for index in self.detail.get(KEPT, ()))

    @property
    def spans(self) -> Iterator[Span]:
        """The range of each kept word in the prompt's text: its first character and one past its last."""
        text, kept, stop = _text_of_messages(self.attribution), set(self.detail.get(KEPT, ())), 0
        for index, word in enumerate(self.detail.get("words", ())):
            start = text.find(word, stop)
            if start >= 0:
                stop = start + len(word)
                if index in kept:
                    yield start, stop

    def to_dict(self) -> dict[str, Any]:
        """The case as plain Python values, in the shape of the command line's JSON (schema 1)."""
        first = self.rulings[0].to_dict()
        detail, target = self.detail, self.attribution.target
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
            **{name: detail.get(name) for name in ("words", "scores", "mass", "given")},
            "kept_places": detail.get(KEPT),
            "judges": [ruling.to_dict() for ruling in self.rulings],
            "warnings": list(self.attribution.notes.get("warnings", ())),
        }

    def to_json(self) -> str:
        """One line of strict JSON: no NaN, no infinity."""
        return json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return view("case")(self)


def _text_of_messages(attribution: Attribution) -> str:
    """The prompt's text. In a chat a NUL replaces each character of the template, so only the messages keep their text."""
    prompt = attribution.prompt
    if not prompt.turns or not prompt.offsets:
        return prompt.text
    indices = {index for turn in prompt.turns for token in turn.tokens for index in range(*prompt.offsets[token])}
    return "".join(character if index in indices else "\0" for index, character in enumerate(prompt.text))
