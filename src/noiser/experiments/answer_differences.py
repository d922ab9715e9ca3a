"""What of the answers of judges is not as in the paper, in sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

from noiser.experiments import paper


def answer_differences(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """One sentence for each difference; none where no judge was asked. `metrics` as a run's identity has them."""
    answers = [each["options"] for each in metrics.values() if each["metric"] == "answerability"]
    least = [each["options"] for each in metrics.values() if each["metric"] == "minimum_top_p"]
    if not answers and not least:
        return
    judges = dict.fromkeys(str(each["judge"]["judge"]) for each in metrics.values() if each.get("judge"))
    yield f"Judge: {', '.join(judges) or 'not named'} here; the paper's is {paper.tables()['judge']['model']} at temperature 0."
    yield (
        "Judge: the words go to it as a JSON array, as data, and the right one is never among what it is told; where its server can, it "
        "replies in a fixed structure. The released code sends them as plain text and takes any reply as it comes."
    )
    yield (
        "Replies: refusals and replies without an answer count as wrong and are shown. In the released code a reply that is empty leaves "
        "the denominator."
    )
    if any(each.get("variant") == "paper" for each in (*answers, *least)):
        yield (
            "Answers: words are compared after Unicode normalisation, with case folded and without punctuation. The released code compares "
            "them exactly."
        )
        yield (
            "Top-1 and top-5: asked for apart, one word and five; top-5 is right where one of the five named words is. The released code "
            "always asks for five, and for top-5 looks for the answer among all words of the reply."
        )
    if any(each.get("variant") == "official" for each in (*answers, *least)):
        yield "variant=official: asks for five words whatever the form, compares exactly, and top-5 takes any word of the reply."
    if answers:
        yield (
            "The rates with no words, with random words of the same number, with the kept words shuffled and with a hidden instruction, "
            "and both intervals, are ours; the paper prints of these only how often its judge is right with all words."
        )
    shares = {each["share"] for each in answers if each.get("share") != paper.tables()["judge"]["kept_share"]}
    if shares:
        yield f"Kept: {', '.join(f'{each:g}' for each in sorted(shares))} of the words; the paper keeps half of them."
    yield from _least(least)


def _least(options: list[Any]) -> Iterator[str]:
    if any(each.get("search") == "bisection" for each in options):
        yield (
            "Minimum top-p: found by bisection, which takes it that who answers with some words answers with more; search=sweep drops one "
            "word after the other, as the paper does."
        )
    if any(each.get("variant") == "paper" for each in options):
        yield (
            "Minimum top-p: the share at the last right answer; a sample that is wrong with all words is out and counted. The "
            "released code takes the first wrong share, and 1 where the answer is never wrong."
        )
