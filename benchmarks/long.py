"""Long prompts: which document comes first, what coarse to fine finds, and ContextCite's figures.

python -m benchmarks.long run [--minutes 60]          # all parts in rounds: retrieval, ContextCite's figures, coarse to fine
python -m benchmarks.long table [retrieval | confidence | ablations | recall]

`run` goes on where it stopped. Records are ids and values in benchmarks/long_rows/; prompts are made again from their ids
(benchmarks/long_prompts.py). The default model, in float32 on one thread. Records without `dtype` are of an earlier run in bfloat16, where
rows are whole prompts: occlusion and noise took about twice the token-forwards there. The tables' costs are
those of float32.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import noiser
from benchmarks import long_ablations, long_recall
from benchmarks.long_prompts import Needle, make
from benchmarks.long_records import LIME, append, by_id, lines, masks_spec, rows
from noiser.lm.documents import QUESTION
from noiser.lm.following import follow
from noiser.lm.model import LanguageModel
from noiser.results.statistics import wilson
from noiser.rng import generator
from noiser.views.citations import confidence
from noiser.views.sources import SourcePart

SERIES = {("one", 2): 30, ("one", 8): 30, ("both", 8): 16, ("hop", 8): 11, ("one", 32): 10, ("both", 32): 10}
"""How many prompts of a kind with so many documents are generated. Two needed documents of two would come first whatever a method does."""
NOISER, DRAWS, DRAWN = "noiser:bound=rms+scale=4+samples=3", "noiser:bound=rms+scale=4+samples=10", 10
QUICK = ("occlusion", NOISER, "input_x_gradient:aggregation=sum", "input_x_gradient:aggregation=l2", "last_attention", "attention_rollout")
SUMMED = QUICK[2:]
"""Methods without `unit`: the scores of a document's tokens are added up. `sum` is signed, `l2` has sizes only; attention has no sign."""
SHAPLEY = "shapley:samples=64"
CHEAP = tuple(label for label in QUICK if label != NOISER)
PLAN: tuple[tuple[Sequence[str], int, float], ...] = (
    ((*QUICK, "masks", SHAPLEY), 2, 4), ((DRAWS,), 2, 2), (QUICK, 8, 2), (("masks",), 8, 1), ((SHAPLEY,), 8, 0.5), ((DRAWS,), 8, 0.25),
    (CHEAP, 32, 0.25), ((NOISER, "masks"), 32, 0.05),
)  # fmt: skip
"""Methods, number of documents, and prompts for each of a round: what costs more has fewer."""
ABLATIONS, SHAPLEY_ABLATIONS, RECALL = 0.5, 0.25, 0.25
ROUNDS = range(2, 61, 2)
"""Each round goes on to so many prompts (times the above), so that a part of the time gives a part of everything."""
HALF = np.log(0.5)
AMBIGUOUS = ("one-8-2",)
"""Another name in the prompt begins with the answer's first token."""


def load() -> LanguageModel:
    """The default model, on one thread."""
    torch.set_num_threads(1)
    return noiser.load()


def of_id(name: str) -> Needle:
    """The prompt of a record."""
    kind, count, number = name.split("-")
    return make(kind, int(count), int(number))


def target_ids(lm: LanguageModel, needle: Needle) -> tuple[int, ...]:
    """What is explained: the first token of the answer; for two persons, both names up to the second's given name."""
    prompt = lm.prompt(needle.question, documents=needle.documents)
    ids = follow(lm.tokens, prompt, needle.answer).ids
    return ids if needle.kind == "both" else ids[:1]


def screen(lm: LanguageModel, until: float, limit: int) -> None:
    """For each generated prompt: whether the greedy tokens are the answer's, and the answer's log-probability without each needed
    document, and without all of them."""
    done = {line["id"] for line in lines("screen")}
    for (kind, count), number in SERIES.items():
        for needle in (make(kind, count, index) for index in range(min(number, _screened_at(count, limit)))):
            if needle.id not in done and time.monotonic() < until:
                append("screen", lm, screened(lm, needle))


def _screened_at(count: int, limit: int) -> int:
    """How many prompts of a kind a round needs: none is left out up to 8 documents."""
    return 60 if count <= 8 else limit // 4


def screened(lm: LanguageModel, needle: Needle) -> dict[str, Any]:
    """The record of one prompt."""
    ids = target_ids(lm, needle)
    whole, greedy, tokens = _log_prob(lm, needle, (), ids)
    without = [_log_prob(lm, needle, (each,), ids)[:2] for each in needle.needed]
    every = _log_prob(lm, needle, needle.needed, ids)[:2] if len(needle.needed) > 1 else without[0]
    line = {"id": needle.id, "tokens": tokens, "target": ids, "needed": needle.needed, "distractors": needle.distractors}
    return {**line, "greedy": greedy, "log_prob": whole, "without": without, "without_all": every}


def _log_prob(lm: LanguageModel, needle: Needle, left_out: tuple[int, ...], ids: tuple[int, ...]) -> tuple[float, bool, int]:
    """The answer's log-probability without some documents, whether each of its tokens is the most probable, and the prompt's tokens."""
    kept = [document for place, document in enumerate(needle.documents) if place not in left_out]
    prompt = lm.prompt(needle.question, documents=kept or None)
    found = noiser.attribute(lm, prompt, "uniform", target=list(ids), quantity="log_prob").target
    assert found.value is not None
    return found.value, found.rank == 0, len(prompt)


def group(line: Any) -> str:
    """`answered`: the greedy tokens are the answer, and without each needed document they are not, or half as probable at most.
    `forced`: another answer is more probable, but each needed document still doubles the right one. `other`: a needed document is none
    for the model, or the first token does not tell the answer.
    """
    fell = all(value - line["log_prob"] <= HALF or (line["greedy"] and not greedy) for value, greedy in line["without"])
    return ("answered" if line["greedy"] else "forced") if fell and line["id"] not in AMBIGUOUS else "other"


def chosen(size: int) -> list[Any]:
    """The screened prompts of this size that are not `other`, kinds in turn."""
    found = [line for line in lines("screen") if line["id"].split("-")[1] == str(size) and group(line) != "other"]
    return sorted(found, key=lambda line: (int(line["id"].split("-")[2]), line["id"]))


def retrieval(lm: LanguageModel, until: float, limit: int) -> None:
    """Every method's scores of the documents, of as many screened prompts as the round has."""
    done = {(line["id"], line["method"]) for line in lines("retrieval")}
    for methods, size, share in PLAN:
        for line in chosen(size)[: int(limit * share)]:
            for label in methods:
                if (line["id"], next(iter(LIME)) if label == "masks" else label) in done or time.monotonic() > until:
                    continue
                for record in scored(lm, of_id(line["id"]), label, line["target"]):
                    append("retrieval", lm, record)


def scored(lm: LanguageModel, needle: Needle, label: str, ids: Sequence[int]) -> list[dict[str, Any]]:
    """The records of a method, or of all in LIME, on one prompt."""
    prompt = lm.prompt(needle.question, documents=needle.documents)
    prompt = replace(prompt, spans=tuple(span for span in prompt.spans if span.name != QUESTION))  # the question stays as it is
    options: dict[str, Any] = {} if label == "masks" or label in SUMMED else {"unit": "span"}
    method: Any = masks_spec("span") if label == "masks" else label
    found = noiser.attribute(lm, prompt, method, target=list(ids), quantity="log_prob", **options)
    spans = found.by("span")
    assert len(spans.units.texts) == len(needle.documents)
    seconds = round(found.cost.seconds, 2)
    if label == "masks":
        return [{"id": needle.id, "method": fit, "tokens": LIME[fit] * len(prompt), "seconds": seconds, "scores": values, "stderr": None}
                for fit, values in found.notes["fits"].items()]  # fmt: skip
    stderr = None if spans.stderr is None else spans.stderr[0].tolist()
    tokens = found.cost.forward_tokens + found.cost.backward_tokens
    return [{"id": needle.id, "method": label, "tokens": tokens, "seconds": seconds, "scores": spans.scores[0].tolist(), "stderr": stderr}]


def scores() -> dict[str, dict[str, tuple[list[float], int | None]]]:
    """By prompt and method, the scores of the documents in order, and the tokens that the method takes in float32, if it ran there."""
    found: dict[str, dict[str, tuple[list[float], int | None]]] = {}
    for name, by_method in by_id(lines("retrieval"), lambda line: line["method"]).items():
        count = int(name.split("-")[1])
        controls = {"recency": list(range(count)), "random": generator(0, name, "order").random(count).tolist()}
        found[name] = {label: (values, 0) for label, values in controls.items()}
        found[name] |= {label: (line["scores"][:count], line["tokens"] if "dtype" in line else None) for label, line in by_method.items()}
    return found


def found_first(values: Sequence[float], needed: Sequence[int]) -> tuple[bool, bool]:
    """Whether the needed documents have the first places, and whether one of them has the first. Equal scores come in the order of the
    prompt."""
    order = np.argsort(-np.array(values), kind="stable").tolist()
    return set(order[: len(needed)]) == set(needed), order[0] in needed


def split(name: str) -> str:
    """Which part a prompt belongs to: one to choose with, one kept apart."""
    return ("choose", "apart")[int(name.split("-")[2]) % 2]


Column = tuple[str, Callable[[dict[str, Any]], bool], int]
"""A column's name, the prompts that it counts, and which of `found_first` it counts."""


def _about(kinds: Sequence[str], size: int | None, state: str | None, part: str | None = None) -> Callable[[dict[str, Any]], bool]:
    """Whether a screened prompt has one of these kinds, this size, group and part."""

    def holds(line: dict[str, Any]) -> bool:
        kind, count, _ = line["id"].split("-")
        own = kind in kinds and size in (None, int(count)) and part in (None, split(line["id"]))
        return own and group(line) != "other" and state in (None, group(line))

    return holds


def retrieval_tables() -> str:
    """Rates with Wilson's intervals, for one needed document and for two, then for the two parts."""
    one: list[Column] = [(f"{state}, {size}", _about(["one"], size, state), 0) for size in (2, 8, 32) for state in ("answered", "forced")]
    two: list[Column] = [
        (f"{kind}, {size}, {what}", _about([kind], size, None), place)
        for kind in ("both", "hop")
        for size in (8, 32)
        for place, what in enumerate(("both first", "one first"))
    ]
    parts: list[Column] = [
        (f"{what} needed, {part}", _about(kinds, 8, None, part), 0)
        for what, kinds in (("one", ["one"]), ("two", ["both", "hop"]))
        for part in ("choose", "apart")
    ]
    return "\n\n".join([_screened(), *filter(None, (_rates(columns) for columns in (one, two, parts)))])


def _screened() -> str:
    """How many prompts are in which group."""
    body = []
    for (kind, size), number in SERIES.items():
        groups = [group(line) for line in lines("screen") if line["id"].startswith(f"{kind}-{size}-")]
        body.append([kind, str(size), str(number), *(str(groups.count(each)) for each in ("answered", "forced", "other"))])
    return rows(["kind", "documents", "generated", "answered", "forced", "other"], body)


def _rates(columns: Sequence[Column]) -> str:
    screened, by_prompt = {line["id"]: line for line in lines("screen")}, scores()
    labels = list(dict.fromkeys(label for found in by_prompt.values() for label in found))
    columns = [column for column in columns if any(column[1](screened[name]) for name in by_prompt)]
    if not columns:
        return ""
    body = []
    for label in labels:
        cells, tokens = [], []
        for _, holds, place in columns:
            names = [name for name, found in by_prompt.items() if label in found and holds(screened[name])]
            right = sum(found_first(by_prompt[name][label][0], screened[name]["needed"])[place] for name in names)
            tokens += [by_prompt[name][label][1] for name in names if "-8-" in name]
            tokens = [each for each in tokens if each is not None]
            low, high = wilson(right, len(names)) if names else (0, 0)
            cells.append(f"{right} of {len(names)} ({low:.2f} to {high:.2f})" if names else "")
        body.append([label, *cells, f"{np.mean(tokens):,.0f}" if tokens else ""])
    return rows(["method", *(name for name, _, _ in columns), "token-forwards at 8"], body)


def confidence_table() -> str:
    """How often the first document is a needed one, by the confidence that `noiser cite` gives it: ten draws, no other document cited."""
    screened, kinds = {line["id"]: line for line in lines("screen")}, ("below 0.95", "0.95 and above")
    counts = {kind: [0, 0] for kind in kinds}
    for line in lines("retrieval"):
        if line["method"] != DRAWS:
            continue
        pairs = zip(line["scores"], line["stderr"], strict=True)
        parts = [SourcePart("span", "", (), score, score, stderr, 0.0) for score, stderr in pairs]
        first = int(np.argmax(line["scores"]))
        sure = confidence(parts[first], parts[:first] + parts[first + 1 :], DRAWN - 1)
        assert sure is not None
        count = counts[kinds[sure >= 0.95]]
        count[0] += first in screened[line["id"]]["needed"]
        count[1] += 1
    return rows(["confidence", "the first document is needed"], [[kind, f"{right} of {total}"] for kind, (right, total) in counts.items()])


def ablations(lm: LanguageModel, until: float, limit: int) -> None:
    """ContextCite's figures on prompts of 8 documents; Shapley values on a part of them."""
    for methods, share in ((long_ablations.METHODS, ABLATIONS), ((*long_ablations.METHODS, SHAPLEY), SHAPLEY_ABLATIONS)):
        for line in chosen(8)[: int(limit * share)]:
            if time.monotonic() < until:
                long_ablations.proceed(lm, of_id(line["id"]), line["target"], methods)


def recall(lm: LanguageModel, until: float, limit: int) -> None:
    """Coarse to fine on prompts of 8 documents."""
    for line in chosen(8)[: int(limit * RECALL)]:
        for label in long_recall.METHODS:
            if time.monotonic() < until:
                long_recall.proceed(lm, of_id(line["id"]), line["target"], label)


def run(minutes: float, only: str | None = None) -> None:
    """All parts in rounds, or one of them, until everything is there or the time is over."""
    lm, until = load(), time.monotonic() + 60 * minutes
    for limit in ROUNDS:
        screen(lm, until, limit)
        for part in (retrieval, ablations, recall):
            if only not in (None, part.__name__):
                continue
            part(lm, until, limit)
            print(f"{part.__name__}, round {limit // 2}", flush=True)


TABLES: dict[str, Callable[[], str]] = {
    "retrieval": retrieval_tables,
    "confidence": confidence_table,
    "ablations": lambda: long_ablations.table({line["id"]: len(line["target"]) for line in lines("screen")}),
    "recall": long_recall.table,
}


def main() -> None:
    """Run a part, or print its tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("of", choices=tuple(TABLES), nargs="?", help="which part")
    parser.add_argument("--minutes", type=float, default=1e9)
    given = parser.parse_args()
    if given.what == "run":
        run(given.minutes, given.of)
    else:
        print("\n\n".join(TABLES[name]() for name in ([given.of] if given.of else TABLES)))


if __name__ == "__main__":
    main()
