"""What of a run is not as in the paper, in sentences: from the run's own settings, and from what is known of the released code."""

from collections.abc import Iterator, Mapping
from typing import Any

from noiser.experiments.folder import RunFolder
from noiser.experiments.report import paper

PRINTED = {"known": 1209, "longra": 573, "wikibio": 238}


def differences(folder: RunFolder) -> Iterator[str]:
    """One sentence for each difference."""
    yield from _models(folder)
    yield from _data(folder)
    yield from _methods(folder)
    yield from _metrics(folder)
    yield from answer_differences(folder.identity["metrics"])
    yield (
        "Samples: the released code drops a sample at any exception, unseen, and redraws masks and the random baseline for every method. "
        "Here every trial has a status, all rows are compared on the samples that each has, and share the masks."
    )
    yield "The paper prints no intervals and no controls but random: which of its differences are noise cannot be told from its tables."
    for each in paper.tables()["suspect"]:
        where = f"{', '.join(each['models'])} on {each['data']}" + (f", {each['method']}" if "method" in each else "")
        yield f"Printed cells marked {paper.SUSPECT} ({where}): {each['why']}."


def _models(folder: RunFolder) -> Iterator[str]:
    for label, each in folder.identity["models"].items():
        column = paper.column(label)
        if column == paper.AVERAGE:
            yield f"Model: {label} is not among the paper's six, which are larger; beside it stand their averages."
        else:
            yield f"Model: {label} stands beside the paper's {column}; here it ran in {each['dtype']}, revision {each['revision']}."
    yield "Number format: the released code names none, so it ran in float32 (transformers 4) or the checkpoint's own (transformers 5)."


def _data(folder: RunFolder) -> Iterator[str]:
    for label, each in folder.identity["data"].items():
        kind = each["kind"]
        if kind not in PRINTED:
            yield f"Data: {label} is not among the paper's."
        elif not each["complete"]:
            yield (
                f"Data: {label} has {each['rows']:,} rows in the format of {kind}, of which {PRINTED[kind]:,} were published: "
                "its numbers are not the paper's numbers."
            )
        if each["limit"] is not None:
            yield f"Data: of {label} at most {each['limit']:,} prompts were taken, the first that are kept; the paper takes all."
        if kind in ("known", "longra") and each["match"] != "token":
            yield f"Data: {label} is kept by match={each['match']}, the paper keeps what the next token answers (match=token)."
    generated = [label for label, each in folder.identity["data"].items() if each["generate"]]
    if generated:
        yield f"Continuations ({', '.join(generated)}): each generated token counts the same; the mean over them is the sample's value."


def _methods(folder: RunFolder) -> Iterator[str]:
    methods = {each["method"] for each in folder.identity["methods"].values()}
    rows = [each for each in folder.identity["methods"].values() if "options" in each]
    if any(each["method"] == "noiser" and each["options"]["variant"] == "paper" for each in rows):
        yield (
            "Noiser as the paper defines it: k_min never flips the prediction, and scores are not divided by their signed sum. The "
            "released code takes the last midpoint tried, which may flip, and divides: noiser:variant=official."
        )
    if methods & {"last_attention", "attention_rollout"}:
        yield "Attention: weights as they are; the released code takes one more softmax of them, which makes them nearly uniform."
    if "occlusion" in methods:
        yield "Occlusion and LIME: signed drops of probability; Inseq, which the paper builds on, gives their absolute values."
    points = {str(each["options"]["steps"]) for each in rows if each["method"].endswith("integrated_gradients")}
    if points:
        said = ", ".join("as many as the scores need to add up" if each == "adaptive" else f"{each} fixed ones" for each in sorted(points))
        yield f"Integrated gradients: points on the path here: {said}. Inseq, which the paper builds on, takes 50 unless told otherwise."
    if "deeplift" in methods:
        yield "DeepLIFT: Captum's rules do not cover SiLU and GELU, where it then equals input x gradient; rules=all covers them."


def _metrics(folder: RunFolder) -> Iterator[str]:
    protocols = {each["options"].get("protocol") for each in folder.identity["metrics"].values()}
    if "matched" in protocols:
        yield (
            "Protocol matched: only the order of the tokens counts, and every method keeps the same mean share. In the paper scores "
            "enter as probabilities, so methods with larger scores keep more of the prompt and win by that: see the constant row there."
        )
    if "official" in protocols:
        yield (
            "Protocol official: the Hellinger distance without its outer root and scores as the released code hands them on, but with "
            "masks that all methods share, as many as asked for instead of one."
        )
    if "paper" in protocols:
        yield "Protocol paper: scores as shares of attribution mass, the distance with its root, in [0, 1]."


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
