"""From the records of judges to rates, scores, agreement and the fewest words that are enough. Numbers only."""

from noiser.answers.against import Correlation, Point, faithfulness_against
from noiser.answers.concord import Agreement, judge_agreements
from noiser.answers.least import LeastSummary, least_summaries
from noiser.answers.rates import CONDITIONS, AnswerRow, AnswerSummary, Rate, answer_summaries, answerers

__all__ = [
    "CONDITIONS",
    "Agreement",
    "AnswerRow",
    "AnswerSummary",
    "Correlation",
    "LeastSummary",
    "Point",
    "Rate",
    "answer_summaries",
    "answerers",
    "faithfulness_against",
    "judge_agreements",
    "least_summaries",
]
