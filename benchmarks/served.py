"""A model behind vLLM's server against the same model loaded here: equal scores? How many seconds, tokens and bytes?

    make vllm                                  # in another terminal
    python -m benchmarks.served vllm:http://127.0.0.1:8000/smollm2-135m smollm2-135m

Prints Markdown for docs/served.md. The server has to run in float32.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch

import noiser
from noiser.data import read
from noiser.lm.served.client import Row
from noiser.lm.served.completions import Ask
from noiser.lm.served.model import ServedModel
from noiser.results.attribution import Attribution

METHODS = ("noiser", "noiser:bound=none", "noiser:bound=rms", "occlusion", "lime:samples=50")
METRICS = ("soft_ns:masks=4", "soft_nc:masks=4")
TIMED = "noiser:bound=rms"


def main() -> None:
    """Compare methods, then metrics, then one and eight requests under way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("served")
    parser.add_argument("tokenizer")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--rows", type=int, nargs=2, metavar=("ROWS", "TOKENS"), help="only time rows, as benchmarks/served_bare.py does")
    arguments = parser.parse_args()
    if arguments.rows:
        _rows(arguments.served, arguments.tokenizer, *arguments.rows)
        return
    prompts = [row.prompt for row in read("known-mini").rows[: arguments.prompts]]
    local, served = noiser.load(arguments.tokenizer), _served(arguments.served, arguments.tokenizer)
    served.clean([served.prompt(prompts[0])])  # the trial is no method's cost
    print("| | largest difference | k equal | seconds: here, served | token-forwards: here, served |\n|---|---|---|---|---|", flush=True)
    for method in METHODS:
        print(_compared(local, served, prompts, method), flush=True)
    print("\n".join(_metrics(local, served, prompts)), flush=True)
    print(f"\n{TIMED}, first three prompts:")
    for connections in (1, 8):
        print(_timed(_served(arguments.served, arguments.tokenizer, connections), prompts[:3], connections), flush=True)


def _served(name: str, tokenizer: str, connections: int = 8) -> ServedModel:
    lm = noiser.load(name, tokenizer, max_connections=connections)
    assert isinstance(lm, ServedModel)
    return lm


def _rows(name: str, tokenizer: str, count: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for connections in (1, 8):
        lm = _served(name, tokenizer, connections)
        ids = [torch.randint(1000, 40_000, (tokens,), generator=generator).tolist() for _ in range(count)]
        rows = [Row(Ask((7042,), 20), tokens, lambda each=each, lm=lm: lm.embeddings(each)) for each in ids]
        for _ in range(3):
            begin = time.perf_counter()
            list(lm.client.answer(rows))
            print(f"{count} rows of {tokens} tokens, {connections} under way: {time.perf_counter() - begin:.2f} s", flush=True)


def _explain(lm: noiser.LanguageModel, prompts: list, method: str) -> tuple[list[Attribution], float]:
    begin = time.perf_counter()
    results = [noiser.attribute(lm, prompt, method) for prompt in prompts]
    return results, time.perf_counter() - begin


def _compared(local: noiser.LanguageModel, served: ServedModel, prompts: list, method: str) -> str:
    (here, here_seconds), (there, there_seconds) = _explain(local, prompts, method), _explain(served, prompts, method)
    gap = max(float(np.abs(a.scores - b.scores).max()) for a, b in zip(here, there, strict=True))
    equal = sum(a.notes.get("k") == b.notes.get("k") for a, b in zip(here, there, strict=True))
    tokens = [sum(each.cost.forward_tokens for each in results) for results in (here, there)]
    k = f"{equal} of {len(prompts)}" if "k" in here[0].notes else ""
    return f"| {method} | {gap:.1e} | {k} | {here_seconds:.1f}, {there_seconds:.1f} | {tokens[0]:,}, {tokens[1]:,} |"


def _metrics(local: noiser.LanguageModel, served: ServedModel, prompts: list) -> Iterator[str]:
    tables, seconds = [], []
    for lm in (local, served):
        begin = time.perf_counter()
        tables.append(noiser.evaluate(lm, prompts, ["occlusion"], list(METRICS), controls=(), ladder=False))
        seconds.append(time.perf_counter() - begin)
    for metric in METRICS:
        pairs = [
            (a.value, b.value)
            for a, b in zip(tables[0].records, tables[1].records, strict=True)
            if a.metric == metric and a.value is not None
        ]
        gap = max(abs(a - b) for a, b in pairs if b is not None)
        yield f"| {metric}, {len(pairs)} values | {gap:.1e} | | both: {seconds[0]:.1f}, {seconds[1]:.1f} | |"


def _timed(lm: ServedModel, prompts: list, connections: int) -> str:
    lm.clean([lm.prompt(prompts[0])])
    before = lm.client.counts.copy()
    _, seconds = _explain(lm, prompts, TIMED)
    sent = lm.client.counts - before
    return (
        f"{connections} under way: {seconds:.1f} s, {sent['rows']:,} rows in {sent['requests']:,} requests, "
        f"{sent['bytes'] / sent['rows']:,.0f} bytes a row"
    )


if __name__ == "__main__":
    main()
