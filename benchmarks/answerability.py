"""Answerability with a judge that can answer: the explained model itself, which reads the kept words as a text.

    python -m benchmarks.answerability --data known:path=known_1000.json --limit 100

It is no judge of the product: it gets no instruction, it only completes a text. With all words it is therefore right on every prompt
that the model answers, so the ceiling is 1 and the methods have room to differ. The second part counts what bisection and the cache
save, and how often bisection and the sweep end at different places.
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


class CompletingJudge:
    """The model as its own judge: its most probable next tokens after the kept words."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self._known: dict[str, tuple[str, ...]] = {}
        self._counts: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """The name in the table."""
        return "the model itself"

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model."""
        return {"judge": self.name, "model": self.lm.name, "revision": self.lm.revision}

    @property
    def counts(self) -> Mapping[str, int]:
        """Prompts, and sequences that ran through the model."""
        return self._counts

    def check(self) -> None:
        """Do nothing: the model is loaded."""

    def answer(self, prompts: Sequence[JudgePrompt]) -> list[Reply | JudgeError]:
        """Return the five most probable tokens, or the first of them. No answer for a prompt without words."""
        self._counts["clues"] += len(prompts)
        texts = dict.fromkeys(text for text in map(_text, prompts) if text and text not in self._known)
        parsed = {text: self.lm.prompt(text) for text in texts}
        self._counts["calls"] += len(parsed)
        requests = [ForwardRequest(prompt, (len(prompt) - 1,)) for prompt in parsed.values()]
        for text, (run,) in zip(parsed, self.lm.forward(requests), strict=True):
            best = run.probs.topk(5).indices.tolist()
            self._known[text] = tuple(self.lm.tokens.surface(token).strip() for token in best)
        return [self._reply(prompt) for prompt in prompts]

    def _reply(self, prompt: JudgePrompt) -> Reply:
        answers = self._known.get(_text(prompt), ())
        return Reply("ok", answers[: 1 if prompt.form == "top1" else 5], " ".join(answers), self.lm.name)


def _text(prompt: JudgePrompt) -> str:
    return " ".join(prompt.words)


def examples(lm: LanguageModel, data: str, limit: int) -> list[Example]:
    """Return the first prompts of a data set that the model answers."""
    name, path, _ = read_label_of_data(data)
    data_set = read(name, path)
    answered = [result for result in screen(lm, data_set.rows, data_set.match, limit) if result.answered]
    return [Example(result.row.prompt, result.target_ids, result.row.id, result.row.group) for result in answered]


def compare_searches(evaluation: Evaluation) -> dict[str, Any]:
    """Count the calls of both searches, and how often they end at different places."""
    shares: dict[tuple[str, str], dict[str, float]] = {}
    calls: Counter[str] = Counter()
    for record in evaluation.records:
        if record.metric.startswith("minimum_top_p") and record.value is not None:
            shares.setdefault((record.sample, record.method), {})[record.metric] = record.value
            calls[record.metric] += int(record.extra["calls"])
    pairs = [tuple(by_metric.values()) for by_metric in shares.values() if len(by_metric) == 2]
    differing = sum(abs(one - other) > 1e-9 for one, other in pairs)
    return {"calls": dict(calls), "compared": len(pairs), "end elsewhere": differing}


def main() -> None:
    """Run the evaluation, and print the tables and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="known-mini")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", help="a file for the answer summaries")
    arguments = parser.parse_args()
    lm = noiser.load(dtype=arguments.dtype)
    chosen, judge = examples(lm, arguments.data, arguments.limit), CompletingJudge(lm)
    start = time.perf_counter()
    evaluation = noiser.evaluate(lm, chosen, METHODS, METRICS, controls=("random",), judges=[judge])
    print(to_text(evaluation, 140))
    seconds = round(time.perf_counter() - start, 1)
    print(json.dumps({"seconds": seconds, "judge": dict(judge.counts), **compare_searches(evaluation)}))
    if arguments.json:
        summaries = answer_summaries(evaluation.records, evaluation.methods, evaluation.metrics)
        Path(arguments.json).write_text(json.dumps([summary.to_dict() for summary in summaries]))


if __name__ == "__main__":
    sys.exit(main())
