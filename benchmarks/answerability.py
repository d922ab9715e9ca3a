"""What answerability shows with a judge that can answer: the explained model itself, which reads the kept words as a text.

    python -m benchmarks.answerability --data known:path=known_1000.json --limit 100

It is no judge of the product: it is told nothing and follows nothing, it completes. So with all words it is right on every prompt that
the model answers, which makes the ceiling 1 and leaves the methods room to differ. The second part counts what bisection and the
cache save, and how often bisection ends elsewhere than the sweep.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import noiser
from noiser.data import read, read_label_of_data
from noiser.errors import JudgeError
from noiser.experiments.screening import screen
from noiser.judges.protocol import JudgePrompt, Reply
from noiser.lm.model import LanguageModel
from noiser.lm.requests import ForwardRequest
from noiser.results.answerability import answer_summaries
from noiser.results.evaluation import Evaluation
from noiser.results.records import Example
from noiser.views.terminal.evaluation import to_text

METHODS = ("noiser", "occlusion", "integrated_gradients", "lime", "last_attention")
METRICS = ("answerability", "minimum_top_p", "minimum_top_p:search=sweep")


class Reader:
    """The model as its own judge: its most probable next tokens behind the kept words."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm, self._known = lm, {}
        self._counts: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """As in the table."""
        return "the model itself"

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model."""
        return {"judge": self.name, "model": self.lm.name, "revision": self.lm.revision}

    @property
    def counts(self) -> Mapping[str, int]:
        """Clues, and sequences that were run."""
        return self._counts

    def check(self) -> None:
        """It is there."""

    def answer(self, clues: Sequence[JudgePrompt]) -> list[Reply | JudgeError]:
        """The five most probable tokens, or the first of them; nothing where there are no words."""
        self._counts["clues"] += len(clues)
        texts = dict.fromkeys(text for text in map(_text, clues) if text and text not in self._known)
        prompts = {text: self.lm.prompt(text) for text in texts}
        self._counts["calls"] += len(prompts)
        runs = [ForwardRequest(prompt, (len(prompt) - 1,)) for prompt in prompts.values()]
        for text, (clean,) in zip(prompts, self.lm.forward(runs), strict=True):
            best = clean.probs.topk(5).indices.tolist()
            self._known[text] = tuple(self.lm.tokens.surface(token).strip() for token in best)
        return [self._reply(clue) for clue in clues]

    def _reply(self, clue: JudgePrompt) -> Reply:
        answers = self._known.get(_text(clue), ())
        return Reply("ok", answers[: 1 if clue.form == "top1" else 5], " ".join(answers), self.lm.name)


def _text(clue: JudgePrompt) -> str:
    return " ".join(clue.words)


def examples(lm: LanguageModel, data: str, limit: int) -> list[Example]:
    """The first prompts of a set that the model answers."""
    name, path, _ = read_label_of_data(data)
    found = read(name, path)
    kept = [each for each in screen(lm, found.rows, found.match, limit) if each.answered]
    return [Example(each.row.prompt, each.target_ids, each.row.id, each.row.group) for each in kept]


def searches(found: Evaluation) -> dict[str, Any]:
    """Calls of both searches, and how often they end at different places."""
    ends: dict[tuple[str, str], dict[str, float]] = {}
    calls: Counter[str] = Counter()
    for record in found.records:
        if record.metric.startswith("minimum_top_p") and record.value is not None:
            ends.setdefault((record.sample, record.method), {})[record.metric] = record.value
            calls[record.metric] += int(record.also["calls"])
    pairs = [tuple(own.values()) for own in ends.values() if len(own) == 2]
    differing = sum(abs(one - other) > 1e-9 for one, other in pairs)
    return {"calls": dict(calls), "compared": len(pairs), "end elsewhere": differing}


def main() -> None:
    """Run it, and print the tables and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="known-mini")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", help="a file for the answer summaries")
    given = parser.parse_args()
    lm = noiser.load(dtype=given.dtype)
    asked, judge = examples(lm, given.data, given.limit), Reader(lm)
    begin = time.perf_counter()
    found = noiser.evaluate(lm, asked, METHODS, METRICS, controls=("random",), judges=[judge])
    print(to_text(found, 140))
    print(json.dumps({"seconds": round(time.perf_counter() - begin, 1), "judge": dict(judge.counts), **searches(found)}))
    if given.json:
        summaries = answer_summaries(found.records, found.contenders, found.gauges, found.seed)
        Path(given.json).write_text(json.dumps([each.to_dict() for each in summaries]))


if __name__ == "__main__":
    sys.exit(main())
