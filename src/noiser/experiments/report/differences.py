"""How a run differs from the paper, in sentences: from the run's own settings, and from what is known of the released code."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from noiser.experiments.folder import RunFolder
from noiser.experiments.report import paper

PRINTED = {"known": 1209, "longra": 573, "wikibio": 238}
"""Rows of the published data sets."""
Fingerprint = Mapping[str, Any]
Options = Sequence[Mapping[str, Any]]


def differences(folder: RunFolder) -> Iterator[str]:
    """One sentence or two for each difference."""
    yield from _models(folder.fingerprint)
    yield from _data(folder.fingerprint)
    yield from _methods(folder.fingerprint)
    yield from _metrics(folder.fingerprint)
    yield from answer_differences(folder.fingerprint["metrics"])
    yield (
        "Samples: the released code silently drops a sample at any exception, and draws new masks and a new random baseline for every "
        "method. Here every trial has a status, all rows are compared on the samples that each of them has, and they share the masks."
    )
    yield "The paper prints no intervals, and no control except random. Its tables cannot tell which of its differences are noise."
    for suspect in paper.tables()["suspect"]:
        where = f"{', '.join(suspect['models'])} on {suspect['data']}" + (f", {suspect['method']}" if "method" in suspect else "")
        yield f"Printed cells marked {paper.SUSPECT} ({where}): {suspect['why']}."


def _models(fingerprint: Fingerprint) -> Iterator[str]:
    for label, model in fingerprint["models"].items():
        column = paper.column(label)
        if column == paper.AVERAGE:
            yield f"Model: {label} is not among the paper's six, which are larger. It stands beside their averages."
        else:
            yield f"Model: {label} stands beside the paper's {column}; here it ran in {model['dtype']}, revision {model['revision']}."
    yield (
        "Number format: the released code names none, so it ran in float32 (transformers 4) or in the checkpoint's own format "
        "(transformers 5)."
    )


def _data(fingerprint: Fingerprint) -> Iterator[str]:
    for label, data in fingerprint["data"].items():
        kind = data["kind"]
        if kind not in PRINTED:
            yield f"Data: {label} is not among the paper's."
        elif not data["complete"]:
            yield (
                f"Data: {label} has {data['rows']:,} rows in the format of {kind}, of which {PRINTED[kind]:,} were published: "
                "its numbers are not the paper's numbers."
            )
        if data["limit"] is not None:
            yield f"Data: of {label} at most {data['limit']:,} prompts were used, the first that are kept; the paper uses all."
        if kind in ("known", "longra") and data["match"] != "token":
            yield f"Data: {label} is kept by match={data['match']}; the paper keeps what the next token answers (match=token)."
    generated = [label for label, data in fingerprint["data"].items() if data["generate"]]
    if generated:
        yield f"Continuations ({', '.join(generated)}): each generated token counts the same; the sample's value is the mean over them."


def _methods(fingerprint: Fingerprint) -> Iterator[str]:
    names = {method["method"] for method in fingerprint["methods"].values()}
    methods = [method for method in fingerprint["methods"].values() if "options" in method]
    if any(method["method"] == "noiser" and method["options"].get("variant") == "paper" for method in methods):
        yield (
            "Noiser as the paper defines it: k_min never flips the prediction, and scores are not divided by their signed sum. The "
            "released code takes the last midpoint tried, which may flip, and divides: noiser:variant=official."
        )
    if names & {"last_attention", "attention_rollout"}:
        yield "Attention: weights as they are. The released code applies one more softmax, which makes them nearly uniform."
    if "occlusion" in names:
        yield "Occlusion and LIME: signed drops of probability. Inseq, which the paper builds on, gives their absolute values."
    steps = {str(method["options"].get("steps")) for method in methods if method["method"].endswith("integrated_gradients")}
    if steps:
        points = ", ".join("as many as the scores need to add up" if each == "adaptive" else f"{each} fixed ones" for each in sorted(steps))
        yield f"Integrated gradients: points on the path here: {points}. Inseq, which the paper builds on, takes 50 by default."
    if "deeplift" in names:
        yield "DeepLIFT: Captum's rules do not cover SiLU and GELU, where it then equals input x gradient; rules=all covers them."


def _metrics(fingerprint: Fingerprint) -> Iterator[str]:
    protocols = {metric["options"].get("protocol") for metric in fingerprint["metrics"].values()}
    if "matched" in protocols:
        yield (
            "Protocol matched: only the order of the tokens counts, and every method keeps the same mean share. In the paper scores "
            "enter as probabilities, so methods with larger scores keep more of the prompt and win by that: see the constant row there."
        )
    if "official" in protocols:
        yield (
            "Protocol official: the Hellinger distance without its outer root, and scores as the released code passes them on. But all "
            "methods share the masks, and there are as many as asked for instead of one."
        )
    if "paper" in protocols:
        yield "Protocol paper: scores as shares of attribution mass, the distance with its root, in [0, 1]."


def answer_differences(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The differences in what judges are asked; none without a judge. `metrics` are those of a run's fingerprint."""
    answers = [metric["options"] for metric in metrics.values() if metric["metric"] == "answerability"]
    minimums = [metric["options"] for metric in metrics.values() if metric["metric"] == "minimum_top_p"]
    if not answers and not minimums:
        return
    yield from _judging(metrics, [*answers, *minimums])
    if answers:
        yield (
            "The rates with no words, with random words of the same number, with the kept words shuffled and with a hidden instruction, "
            "and both intervals, are ours. Of these the paper prints only how often its judge is right with all words."
        )
    shares = {options["share"] for options in answers if options.get("share") != paper.tables()["judge"]["kept_share"]}
    if shares:
        yield f"Kept: {', '.join(f'{share:g}' for share in sorted(shares))} of the words; the paper keeps half of them."
    yield from _minimum_top_p(minimums)


def _judging(metrics: Mapping[str, Mapping[str, Any]], judged: Options) -> Iterator[str]:
    judges = dict.fromkeys(str(metric["judge"].get("judge")) for metric in metrics.values() if metric.get("judge"))
    yield f"Judge: {', '.join(judges) or 'not named'} here; the paper's is {paper.tables()['judge']['model']} at temperature 0."
    yield (
        "Judge: it gets the words as data, in a JSON array, and never sees the right word. If its server can, it replies in a fixed "
        "structure. The released code sends the words as plain text and takes any reply as it comes."
    )
    yield (
        "Replies: refusals and replies without an answer count as wrong and are shown. In the released code an empty reply leaves the "
        "denominator."
    )
    if any(options.get("variant") == "paper" for options in judged):
        yield (
            "Answers: words are compared after Unicode normalisation, with case folded and without punctuation. The released code compares "
            "them exactly."
        )
        yield (
            "Top-1 and top-5: separate questions, for one word and for five; top-5 is right if one of the five named words is. The "
            "released code always asks for five, and for top-5 looks for the answer among all words of the reply."
        )
    if any(options.get("variant") == "official" for options in judged):
        yield "variant=official: asks for five words whatever the form, compares exactly, and top-5 takes any word of the reply."


def _minimum_top_p(minimums: Options) -> Iterator[str]:
    if any(options.get("search") == "bisection" for options in minimums):
        yield (
            "Minimum top-p: found by bisection, which assumes that a judge that answers with some words also answers with more. "
            "search=sweep drops one word after the other, as the paper does."
        )
    if any(options.get("variant") == "paper" for options in minimums):
        yield (
            "Minimum top-p: the share at the last right answer; a sample that is wrong with all words is out and counted. The "
            "released code takes the first wrong share, and 1 if the answer is never wrong."
        )
