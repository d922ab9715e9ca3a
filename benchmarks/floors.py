"""How near is the search of k to the floor, and does `fast` find what `exact` finds, on prompts that nobody chose?

python -m benchmarks.floors run KNOWN.json LONGRA.json [--exact-longra N] [--minutes M]    # goes on where it stopped
python -m benchmarks.floors table                                                            # from what is there

The first 100 rows of Known and the first 20 of LongRA that the model answers, in the paper's variant. The floor is the scoring
pass alone with the prefix reused: samples * T^2 / 2 token-forwards. Nothing here depends on the clock. benchmarks/floors_rows/ keeps
ids and counts, no text. Every second row of Known was looked at while the search was written; the others were not.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import noiser
from noiser.data import read
from noiser.experiments.screening import screen

FILE = Path(__file__).with_name("floors_rows") / "rows.jsonl"
SETS = {"known": 100, "longra": 20}
SAMPLES = 10
LENGTHS = ((1, 11), (12, 24), (25, 10**6))


def answered(lm: noiser.LanguageModel, name: str, file: Path) -> list[tuple[str, str]]:
    """The id and the text of the first rows that the model answers."""
    data = read(name, file)
    found = (each.row for each in screen(lm, list(data.rows), data.match, SETS[name]) if each.answered)
    return [(str(row.id), str(row.prompt)) for row in islice(found, SETS[name])]


def run(files: dict[str, Path], exact_longra: int, minutes: float) -> None:
    """Add rows until all are there, or the time is over."""
    end, lm = time.monotonic() + 60 * minutes, noiser.load()
    rows = {name: answered(lm, name, file) for name, file in files.items()}
    for search, name in (("fast", "known"), ("fast", "longra"), ("exact", "known"), ("exact", "longra")):
        for number, (row, text) in enumerate(rows[name][: exact_longra if (search, name) == ("exact", "longra") else None]):
            if time.monotonic() > end:
                return
            if not any((each["set"], each["row"], each["search"]) == (name, row, search) for each in lines()):
                keep({"set": name, "number": number, "row": row, "search": search} | measured(lm, text, search))


def measured(lm: noiser.LanguageModel, text: str, search: str) -> dict[str, Any]:
    """What one search found and took."""
    found = noiser.attribute(lm, text, search=search)
    notes = {name: found.notes[name] for name in ("k", "k_status", "non_monotone")}
    return {"tokens": len(found.tokens), "forwards": found.cost.forward_tokens, **notes, "scores": found.scores[0].tolist()}


def lines() -> list[dict[str, Any]]:
    """What is there."""
    return list(map(json.loads, FILE.read_text().splitlines())) if FILE.exists() else []


def keep(line: dict[str, Any]) -> None:
    """Add a line to the file."""
    FILE.parent.mkdir(exist_ok=True)
    with FILE.open("a") as sink:
        sink.write(json.dumps(line) + "\n")


def floors(line: dict[str, Any]) -> float:
    """Token-forwards as multiples of the floor."""
    return line["forwards"] / (SAMPLES * line["tokens"] ** 2 / 2)


def table() -> Iterator[str]:
    """Floors by length and search, then whether the two searches agree, then the worst prompts."""
    found = lines()
    yield "| T | rows | search | floors: median | 90 % | largest |"
    yield "|---|---|---|---|---|---|"
    for low, high in LENGTHS:
        for search in ("fast", "exact"):
            inside = [line for line in found if low <= line["tokens"] <= high and line["search"] == search]
            yield from _row(f"{low} to {high}" if high < 10**6 else f"from {low}", inside, search)
    unseen = [line for line in found if line["set"] == "known" and line["number"] % 2 and line["search"] == "fast"]
    yield from _row("Known, rows not looked at", unseen, "fast")
    yield from ("", *_agreement(found), "")
    worst = sorted((line for line in found if line["search"] == "fast"), key=floors)[-5:][::-1]
    yield "Worst: " + ", ".join(f"{line['set']} row {line['row']} (T = {line['tokens']}, {floors(line):.2f})" for line in worst)


def _row(name: str, inside: Sequence[dict[str, Any]], search: str) -> Iterator[str]:
    if inside:
        values = sorted(map(floors, inside))
        high = values[min(len(values) - 1, int(0.9 * len(values)))]
        yield f"| {name} | {len(values)} | {search} | **{statistics.median(values):.2f}** | {high:.2f} | {values[-1]:.2f} |"


def _agreement(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    by_search = {search: {(each["set"], each["row"]): each for each in found if each["search"] == search} for search in ("fast", "exact")}
    both = [(by_search["fast"][row], exact) for row, exact in by_search["exact"].items() if row in by_search["fast"]]
    same = [(fast, exact) for fast, exact in both if fast["k"] == exact["k"]]
    worst = max((float(np.abs(np.subtract(fast["scores"], exact["scores"])).max()) for fast, exact in same), default=0.0)
    yield f"k is equal on {len(same)} of {len(both)} prompts; there the scores differ by at most {worst:.1e}."
    for fast, exact in both:
        if fast["k"] != exact["k"]:
            seen = f"fast saw {fast['non_monotone']} tokens flip and flip back, exact {exact['non_monotone']}"
            yield f"- {fast['set']} row {fast['row']}: k = {fast['k']:.4f} with fast, {exact['k']:.4f} with exact; {seen}"
    counts = [sum(each["non_monotone"] > 0 for each in rows.values()) for rows in by_search.values()]
    yield f"Flips seen not to be monotone: {counts[0]} prompts with fast, {counts[1]} with exact."


def main() -> None:
    """Add rows, or print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("run", "table"))
    parser.add_argument("files", type=Path, nargs="*", help="the files of Known and LongRA")
    parser.add_argument("--exact-longra", type=int, default=5, help="rows of LongRA on which exact runs too")
    parser.add_argument("--minutes", type=float, default=1e9)
    options: Any = parser.parse_args()
    if options.part == "run":
        run(dict(zip(SETS, options.files, strict=True)), options.exact_longra, options.minutes)
    else:
        print("\n".join(table()))


if __name__ == "__main__":
    main()
