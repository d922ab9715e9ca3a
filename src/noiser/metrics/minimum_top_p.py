"""Minimum top-p: how few of the highest words are enough for the judge to find the answer?"""

from typing import Any, Literal

from noiser.judges.consultation import consult, unwrap
from noiser.judges.protocol import Judge, JudgePrompt, Variant
from noiser.lm.requests import Steps
from noiser.metrics.answerability import RankedWords, Words, rank_words, reply_detail
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
    context: MetricContext,
    candidate: ScoresToEvaluate,
    judge: Judge,
    *,
    form: Form = "top1",
    search: Literal["bisection", "sweep"] = "bisection",
    variant: Variant = "paper",
    words: Words = "unicode",
    seed: int = 0,
) -> Steps[Value]:
    """The smallest share of the words, highest first, with which the judge is still right; in (0, 1], lower is better.

    search   sweep: start with all words and drop the lowest one until the answer is wrong, as in the paper. bisection: halve the
             interval between a wrong and a right count. Both agree if a wrong answer stays wrong with fewer words; if not,
             bisection ends at another count at which the answer changes.
    variant  official: the share at the first wrong answer, 1 if no answer is wrong; replies as in answerability.
    form     as in answerability: top1 or top5.
    words    as in answerability: how the prompt is cut into words.

    Undefined if the answer is wrong with all words. If no answer is wrong, the value is the share of one word. Source: Ghasemi Madani
    et al. 2025, arXiv:2504.02911.
    """
    ranked = rank_words(context, candidate, words, variant, seed)
    if isinstance(ranked, Value):
        return ranked
    asked: list[dict[str, Any]] = []
    total = len(ranked.texts)
    whole = yield from _ask(judge, ranked, total, form, variant, asked)
    detail = {"gold": ranked.gold, "words": total, "asked": asked}
    if not whole:
        return Value(None, detail, WRONG)
    low, high = 0, total
    while high - low > 1:
        count = (low + high) // 2 if search == "bisection" else high - 1
        if (yield from _ask(judge, ranked, count, form, variant, asked)):
            high = count
        elif search == "sweep":
            break
        else:
            low = count
    plain_calls = total - high + 1 + (high > 1)
    calls, saved = float(len(asked)), float(plain_calls - len(asked))
    extra = {"calls": calls, "plain_calls": float(plain_calls), "saved": saved, "words": float(total)}
    share = high / total if variant == "paper" else (high - 1) / total if high > 1 else 1.0
    return Value(share, detail | {"kept": high}, extra=extra)


def _ask(judge: Judge, ranked: RankedWords, count: int, form: Form, variant: Variant, asked: list[dict[str, Any]]) -> Steps[bool]:
    """Whether the judge is right with the `count` highest words. The reply is added to `asked`."""
    prompt = JudgePrompt(ranked.at(ranked.top(count)), form, variant)
    (reply,) = yield from consult(judge, [prompt])
    asked.append({"count": count, **reply_detail(unwrap(reply), prompt, ranked.gold, form, variant)})
    return asked[-1]["correct"]
