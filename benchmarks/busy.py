"""What does one busy neighbour cost? Ten rows of twenty tokens through the default model: python -m benchmarks.busy [--repeats 7].

A process for each way of waiting loads the model. Each then runs the same pass in turns: alone, and beside as many processes that only
compute as there are `--neighbours`. Both sides of a ratio are from the same turn of the same process.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

import noiser
from noiser.lm.spinning import CHOICES

WAYS: dict[str, dict[str, str]] = {
    "as OpenMP does without being told": {},
    "OMP_WAIT_POLICY=PASSIVE (the command line)": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
ROWS, TOKENS = 10, 20
NEIGHBOUR = "while True: pass"


def main() -> None:
    """Print one table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="turns of each process")
    parser.add_argument("--neighbours", type=int, default=1, help="processes that only compute")
    parser.add_argument("--model", default="smollm2-135m", help="a model that noiser can load")
    parser.add_argument(
        "--serve", action="store_true", help="run a pass for each line of input and print its seconds; for the benchmark itself"
    )
    options = parser.parse_args()
    if options.serve:
        serve(options.model)
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before, {options.neighbours} neighbour(s), {options.repeats} turns\n")
    print("| threads wait | seconds alone | beside the neighbour | ratio of the turn |")
    print("|---|---|---|---|")
    for name, variables in WAYS.items():
        alone, beside = measured(variables, options.model, options.repeats, options.neighbours)
        ratios = [b / a for a, b in zip(alone, beside, strict=True)]
        print(f"| {name} | {' | '.join(map(spread, (alone, beside, ratios)))} |", flush=True)


def measured(variables: Mapping[str, str], model: str, repeats: int, neighbours: int) -> tuple[list[float], list[float]]:
    """Seconds of a pass, alone and beside the neighbours, in turns."""
    unset = {*CHOICES, "OMP_NUM_THREADS"}
    environment = {name: value for name, value in os.environ.items() if name not in unset} | dict(variables)
    command = [sys.executable, "-m", "benchmarks.busy", "--serve", "--model", model]
    alone, beside = [], []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for turn in range(-1, repeats):
            first = seconds(process)
            with busy(neighbours):
                second = seconds(process)
            if turn >= 0:
                alone.append(first)
                beside.append(second)
        process.communicate()
    return alone, beside


def seconds(process: subprocess.Popen[str]) -> float:
    """Ask for one pass."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


@contextmanager
def busy(neighbours: int) -> Iterator[None]:
    """So many processes that only compute."""
    processes = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) for _ in range(neighbours)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def serve(name: str) -> None:
    """Run a pass for each line of input, and print the seconds that it took."""
    warnings.simplefilter("ignore")  # that it is busy here is the point
    model = noiser.load(name).model
    embeds = model.get_input_embeddings()(torch.arange(TOKENS)).detach().expand(ROWS, -1, -1)
    with torch.no_grad():
        for _ in sys.stdin:
            begin = time.perf_counter()
            model(inputs_embeds=embeds, use_cache=False, logits_to_keep=1)
            print(time.perf_counter() - begin, flush=True)


def spread(values: list[float]) -> str:
    """Median, smallest and largest."""
    return f"**{statistics.median(values):.2f}** ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
