"""Minimum top-p: how few of the highest words are enough for the answer?"""

from typing import Any, Literal

from noiser.judges.consultation import consult, unwrap
from noiser.judges.protocol import Judge, JudgePrompt, Variant
from noiser.lm.requests import Steps
from noiser.metrics.answerability import Ranked, Words, judged, ranked
from noiser.metrics.sample import MetricContext, ScoresToEvaluate, Value
from noiser.registry import metric
from noiser.results.answerability import Form

WRONG = "wrong with all words"


@metric(
    "minimum_top_p",
    source="Ghasemi Madani et al. 2025, arXiv:2504.02911, section 5.3 and figure 3",
    better="lower",
    measures="the share of the words, highest first, that a judge needs to name the explained word",
    failure_mode="a judge that knows the answer by heart needs one word of anything; compare the random row",
    cost="no rows; about 1 + log2(words) clues to the judge, one after the other; with search=sweep up to one for each word",
    judged=True,
)
def minimum_top_p(
    sample: MetricContext,
    candidate: ScoresToEvaluate,
    judge: Judge,
    *,
    form: Form = "top1",
    search: Literal["bisection", "sweep"] = "bisection",
    variant: Variant = "paper",
    words: Words = "unicode",
    seed: int = 0,
) -> Steps[Value]:
    """The share of the words that are kept at the last right answer when the least important ones go, in (0, 1]; lower is better.

    search   sweep: from all words on, the lowest is dropped until the answer is wrong, as in the paper. bisection: the same
             where an answer once wrong stays wrong with fewer words; where it does not, another place at which the answer turns.
    variant  official: the share at the first wrong answer, 1 where none is wrong, and replies as in answerability.
    form     as in answerability: top1 or top5.
    words    as in answerability: how the prompt is cut into words.

    Undefined where the answer is wrong with all words. One that is never wrong has the share of its last word. Source: Ghasemi
    Madani et al. 2025, arXiv:2504.02911.
    """
    found = ranked(sample, candidate, words, variant, seed)
    if isinstance(found, Value):
        return found
    asked: list[dict[str, Any]] = []
    of = len(found.texts)
    whole = yield from _right(judge, found, of, form, variant, asked)
    detail = {"gold": found.gold, "words": of, "asked": asked}
    if not whole:
        return Value(None, detail, WRONG)
    low, high = 0, of
    while high - low > 1:
        count = (low + high) // 2 if search == "bisection" else high - 1
        if (yield from _right(judge, found, count, form, variant, asked)):
            high = count
        elif search == "sweep":
            break
        else:
            low = count
    plain_calls = of - high + 1 + (high > 1)
    also = {"calls": float(len(asked)), "plain_calls": float(plain_calls), "saved": float(plain_calls - len(asked)), "words": float(of)}
    share = high / of if variant == "paper" else (high - 1) / of if high > 1 else 1.0
    return Value(share, detail | {"kept": high}, extra=also)


def _right(judge: Judge, found: Ranked, count: int, form: Form, variant: Variant, asked: list[dict[str, Any]]) -> Steps[bool]:
    clue = JudgePrompt(found.at(found.top(count)), form, variant)
    (reply,) = yield from consult(judge, [clue])
    asked.append({"count": count, **judged(unwrap(reply), clue, found.gold, form, variant)})
    return asked[-1]["correct"]
