"""The result of `noiser.answer`: the kept words of one prompt, what each judge was shown, its reply, and whether it is right."""

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
    """Why there is no verdict."""
    detail: Mapping[str, Any]
    """The details of the record: `gold`, `words`, `scores`, `kept`, `mass`, `given`, `forms`. Empty if there was no word to show."""

    @property
    def forms(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """By form and condition (`kept`, `shuffled`, `all`, `none`, `random`, `canary`): the reply and whether it is right.

        For `canary`: whether the judge obeyed the hidden instruction.
        """
        return self.detail.get("forms", {})

    @property
    def first(self) -> Mapping[str, Any]:
        """Its reply to the kept words in the first form. Empty if there is none."""
        return next(iter(self.forms.values()), {}).get(KEPT, {})

    @property
    def correct(self) -> bool | None:
        """Whether the first reply names the explained word. None if there is no verdict."""
        return bool(self.first.get("correct")) if self.status in WITH_VERDICT else None

    def to_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        about = {"judge": self.judge, "model": self.first.get("model"), "status": self.status, "message": self.message}
        return about | {"correct": self.correct, "answers": list(self.first.get("answers", ())), "forms": dict(self.forms)}


@dataclass(frozen=True, eq=False)
class Case:
    """An explanation and the verdicts of judges on its highest words. `print` it, or read `.correct`, `.rulings`, `.to_json()`."""

    attribution: Attribution
    options: Mapping[str, Any]
    """All options of the metric: `share`, `forms`, `variant`, `words`, `checks`, `seed`."""
    rulings: tuple[Ruling, ...]
    """One for each judge, in the order of the judges."""

    @property
    def correct(self) -> bool | None:
        """Whether the first judge named the explained word. None if there is no verdict."""
        return self.rulings[0].correct

    @property
    def detail(self) -> Mapping[str, Any]:
        """The words, their scores and which were kept: the same for all judges. Empty if there was no word to show."""
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
        """The spans of the kept words in the prompt's text: the first character and one past the last."""
        text, kept, stop = _message_text(self.attribution), set(self.detail.get("kept", ())), 0
        for index, word in enumerate(self.detail.get("words", ())):
            start = text.find(word, stop)
            if start >= 0:
                stop = start + len(word)
                if index in kept:
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


def _message_text(attribution: Attribution) -> str:
    """The prompt's text. In a chat the characters of the template are replaced, so that only its messages are left."""
    prompt = attribution.prompt
    if not prompt.turns or not prompt.offsets:
        return prompt.text
    indices = {index for turn in prompt.turns for token in turn.tokens for index in range(*prompt.offsets[token])}
    return "".join(character if index in indices else "\0" for index, character in enumerate(prompt.text))
