"""A small decoder whose causes are known: trained on facts from a grammar, so that the words that decide each answer are known.

python -m benchmarks.known_causes train --store FOLDER      # about 20 minutes on one core; the checkpoint stays in FOLDER
python -m benchmarks.known_causes judge --store FOLDER      # AUROC of every method against the true words, with intervals
python -m benchmarks.known_causes table --store benchmarks/known_rows      # the same of what was measured, without a model

A sentence asks for one fact: the subject and the relation decide the answer, and nothing else does. `distractors` are other subjects in a
clause of their own. In `pairs` a colour and a shape decide together, and neither does alone. In `twice` the subject is said two times.
The truth is counterfactual: a word is a cause if, with another word of its kind in its place, the grammar gives another answer; a
subject that is said twice counts at both places. AUROC against it needs no removal operator, so it is a check that none can bias.
Everything is drawn with a seed.
"""

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import noiser
from noiser.results.scores import auroc
from noiser.results.statistics import ClusterJackknife

STARTS, ENDS = ["bor", "dal", "fen", "gor", "hal", "jun", "kes", "lom", "mar", "nev"], ["an", "el", "is", "ok", "um", "yr"]
SUBJECTS = [start + end for start in STARTS for end in ENDS]
RELATIONS = ("capital", "river", "leader", "sport", "metal")
FIRST, LAST = ("za", "ze", "zi", "zo", "zu", "qua", "que", "qui"), ("bra", "cto", "fli", "gna", "mpe", "rto", "sta", "vre")
ANSWERS = [first + last for first in FIRST for last in LAST]
COLOURS = ("red", "blue", "green", "white", "black", "pink", "grey", "brown")
SHAPES = ("circle", "square", "star", "cross", "ring", "cube", "cone", "disk")
OPENINGS = (
    "note that",
    "we know that",
    "as they say",
    "in short",
    "of course",
    "yesterday i read that",
    "it is written that",
    "everyone says that",
)
KINDS = ("single", "distractors", "pairs", "twice")
SEED = 18
SIZE: dict[str, Any] = {
    "hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 8, "num_attention_heads": 5, "num_key_value_heads": 5,
}  # fmt: skip
"""About 10 million parameters."""
BATCH, STEPS, RATE = 64, 1_600, 1e-3
ROWS = 200
METHODS = (
    "recency", "random", "uniform", "last_attention", "input_x_gradient", "occlusion", "integrated_gradients",
    "noiser:bound=rms+scale=1", "noiser:bound=rms+scale=4", "noiser:bound=rms+samples=3", "noiser:bound=rms+scale=16",
    "noiser:bound=none", "noiser:bound=replace", "noiser", "noiser:bound=linf", "lime:pairs=true", "shapley:samples=200",
)  # fmt: skip


class Fact(NamedTuple):
    """A sentence without its last word, that word, and the positions of the words that decide it."""

    words: Sequence[str]
    answer: str
    causes: Sequence[int]


def tables() -> dict[tuple[str, str], str]:
    """The answer to every subject and relation, and to every colour and shape."""
    rng = random.Random(SEED)
    pairs = [(subject, relation) for subject in SUBJECTS for relation in RELATIONS] + [(c, s) for c in COLOURS for s in SHAPES]
    return {pair: rng.choice(ANSWERS) for pair in pairs}


def make(kind: str, rng: random.Random, answers: dict[tuple[str, str], str]) -> Fact:
    """One fact of a kind. Each cause is checked: another word of its kind gives another answer for most words."""
    words = rng.choice(OPENINGS).split()
    if kind == "pairs":
        colour, shape = rng.choice(COLOURS), rng.choice(SHAPES)
        words += f"the sign of the {colour} {shape} is".split()
        return Fact(words, answers[colour, shape], [words.index(colour), words.index(shape)])
    subject, relation = rng.choice(SUBJECTS), rng.choice(RELATIONS)
    causes = []
    if kind == "distractors":
        others = rng.sample([each for each in SUBJECTS if each != subject], 2)
        words += f"unlike {others[0]} and {others[1]} ,".split()
    if kind == "twice":
        words += f"{subject} is far away and".split()
        causes.append(words.index(subject))
    words += f"the {relation} of {subject} is".split()
    causes += [len(words) - 4, len(words) - 2]
    return Fact(words, answers[subject, relation], causes)


def facts(kinds: Sequence[str], seed: int) -> Iterator[Fact]:
    """Facts of these kinds without end."""
    rng, answers = random.Random(seed), tables()
    while True:
        yield make(rng.choice(kinds), rng, answers)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word of the grammar."""
    frame = ["the", "sign", "of", "is", "unlike", "and", ",", "far", "away"]
    known = dict.fromkeys([*" ".join(OPENINGS).split(), *frame, *SUBJECTS, *RELATIONS, *ANSWERS, *COLOURS, *SHAPES])
    vocabulary = {word: number for number, word in enumerate(["<s>", "<unk>", *known])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", pad_token="<s>")


def train(store: Path) -> None:
    """Train and save the model. The loss is that of the whole text; `twice` and `distractors` come as often as the others."""
    words = tokenizer()
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), max_position_embeddings=64, tie_word_embeddings=True, **SIZE))
    size = sum(each.numel() for each in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.05)
    stream, begin = facts(KINDS, SEED + 1), time.perf_counter()
    for step in range(STEPS):
        texts = [" ".join([*fact.words, fact.answer]) for fact in (next(stream) for _ in range(BATCH))]
        batch = words(texts, return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.3f}, {time.perf_counter() - begin:.0f} s", flush=True)
    model.eval().save_pretrained(store)
    words.save_pretrained(store)
    print(f"{size:,} parameters, {time.perf_counter() - begin:.0f} s")


def answered(lm: noiser.LanguageModel, count: int = ROWS) -> dict[str, tuple[list[Fact], int]]:
    """For each kind, the first `count` facts that the model answers, and how many were asked for them (at most four times as many)."""
    found: dict[str, tuple[list[Fact], int]] = {}
    for kind in KINDS:
        stream, asked, right = facts([kind], SEED + 2), 0, []
        while len(right) < count and asked < 4 * count:
            fact = next(stream)
            asked += 1
            if noiser.attribute(lm, " ".join(fact.words), "uniform").target.tokens[0].strip() == fact.answer:
                right.append(fact)
        found[kind] = right, asked
    return found


def judge(store: Path) -> str:
    """AUROC of every method by kind of fact, on ROWS rows of each that the model answers, and what share it answers."""
    lm = noiser.load(str(store))
    asked = answered(lm)
    file = store / "aurocs.jsonl"
    done = read_aurocs(file)
    for method in METHODS:
        for kind, (rows, _) in asked.items():
            if (method, kind) not in done:
                done[method, kind] = aurocs(lm, method, rows)
                with file.open("a") as sink:
                    sink.write(json.dumps({"method": method, "kind": kind, "aurocs": done[method, kind]}) + "\n")
    return "\n".join([*(f"{kind}: {len(rows)} of {of} answered" for kind, (rows, of) in asked.items())])


def read_aurocs(file: Path) -> dict[tuple[str, str], list[float]]:
    """The values so far, by method and kind, in the order of the rows."""
    lines = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    return {(line["method"], line["kind"]): line["aurocs"] for line in lines}


def aurocs(lm: noiser.LanguageModel, method: str, rows: Sequence[Fact]) -> list[float]:
    """One AUROC for each row."""
    found = noiser.attribute_many(lm, [" ".join(row.words) for row in rows], method)
    values = []
    for row, attribution in zip(rows, found, strict=True):
        assert isinstance(attribution, noiser.Attribution)
        assert len(attribution.prompt) == len(row.words)
        values.append(auroc(attribution.scores[0], row.causes))
    return values


def table(done: dict[tuple[str, str], list[float]]) -> str:
    """Means with 95 % intervals over rows, the best method over all kinds first."""
    by_method: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for (method, kind), values in done.items():
        by_method[method][kind] = values
    order = sorted(by_method, key=lambda method: -float(np.mean([value for values in by_method[method].values() for value in values])))
    lines = [f"| method | {' | '.join(KINDS)} | all |", "|---" * (len(KINDS) + 2) + "|"]
    for method in order:
        kinds = [by_method[method].get(kind, []) for kind in KINDS]
        lines.append(f"| {method} | {' | '.join(map(interval, [*kinds, [value for values in kinds for value in values]]))} |")
    return "\n".join(lines)


def paired(done: dict[tuple[str, str], list[float]], first: str) -> str:
    """The mean difference of one method to every other over all rows, with its standard error."""
    whole = {m: np.array([v for kind in KINDS for v in done[m, kind]]) for m in METHODS if all((m, kind) in done for kind in KINDS)}
    lines = [f"| {first} minus | |", "|---|---|"]
    for method, values in whole.items():
        if method != first:
            differences = whole[first] - values
            lines.append(f"| {method} | {differences.mean():+.3f} ({differences.std(ddof=1) / len(values) ** 0.5:.3f}) |")
    return "\n".join(lines)


def interval(values: Sequence[float]) -> str:
    """The mean with its 95 % interval."""
    if not values:
        return ""
    jackknife, array = ClusterJackknife([str(row) for row in range(len(values))]), np.array(values)
    low, high = jackknife.interval(array.mean(), jackknife.means(array))
    return f"{array.mean():.3f} ({low:.3f} to {min(1.0, float(high)):.3f})"


def main() -> None:
    """Train, or judge and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("train", "judge", "table"))
    parser.add_argument("--store", type=Path, required=True)
    options: Any = parser.parse_args()
    options.store.mkdir(parents=True, exist_ok=True)
    if options.part == "train":
        train(options.store)
        return
    if options.part == "judge":
        print(judge(options.store))
    done = read_aurocs(options.store / "aurocs.jsonl")
    print(table(done), paired(done, "noiser"), paired(done, "occlusion"), sep="\n\n")


if __name__ == "__main__":
    main()
