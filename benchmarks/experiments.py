"""What a run costs besides its numbers: workers, the runner's own overhead, continuing a large folder.

python -m benchmarks.experiments workers FILE.json --limit 12     one worker with two threads against two with one each, on Known
python -m benchmarks.experiments overhead --limit 20 --rounds 3   the runner against the bare loop, alternating, in one process
python -m benchmarks.experiments resume --records 100000          continue a finished folder of N records
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import noiser
from noiser.evaluation.runner import EvaluationRunner
from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.experiments.plan import ExecutionConfig, Plan, make_plan
from noiser.experiments.report.reproduce import METHODS
from noiser.experiments.run import prepare, run, run_locally
from noiser.experiments.status import run_status
from noiser.experiments.trials import RunContents, sample_hash
from noiser.storage import Writer, create_once, encode

METRICS = ["soft_ns", "soft_nc"]
CHEAP = ["occlusion", "input_x_gradient", "last_attention"]


class Silent:
    """Progress that nobody sees."""

    def say(self, message: str, *, keep: bool = False) -> None:
        """Nothing."""

    def expect(self, samples: int) -> None:
        """Nothing."""

    def advance(self, failures: int) -> None:
        """Nothing."""


def main() -> None:
    """Choose one of the three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("workers", "overhead", "resume"))
    parser.add_argument("file", nargs="?", help="Known's file")
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cheap", action="store_true", help="overhead: leave the ten methods out")
    parser.add_argument("--records", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        {"workers": workers, "overhead": overhead, "resume": resume}[options.what](options, Path(folder))


def workers(options: Any, folder: Path) -> None:
    """Whole commands: the model is loaded and the prompts are screened in each."""
    words = ["run", "--data", f"known:path={Path(options.file).resolve()}", "--limit", str(options.limit), "--methods", ",".join(METHODS)]
    for count in (1, 2):
        out = folder / f"{count}"
        begin = time.perf_counter()
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "noiser", *words, "--out", str(out), "--shard", f"{which}/{count}"],
                env=os.environ | {"OMP_NUM_THREADS": str(2 // count)}, stderr=subprocess.DEVNULL,
            )
            for which in range(count)
        ]  # fmt: skip
        assert [process.wait() for process in started] == [0] * count
        wall = time.perf_counter() - begin
        stands, records = run_status(RunFolder.open(out)), RecordIndex(RunFolder.open(out)).records.values()
        costs = [record["cost"] for record in records if record.get("cost")]
        forward, backward = (sum(cost[name] for cost in costs) for name in ("forward_tokens", "backward_tokens"))
        working = sum(cost["seconds"] for cost in costs) / count
        size = sum(file.stat().st_size for file in (out / "records").iterdir())
        print(f"{count} worker(s): {stands.done} samples, {wall:.0f} s in all, {60 * stands.done / wall:.2f} a minute;")
        print(f"  at work {working:.0f} s each: {60 * stands.done / working:.2f} samples a minute without loading and screening")
        print(f"  {forward:,} tokens forward, {backward:,} backward; {len(records):,} records, {size / len(records):,.0f} bytes each")
        by_method: dict[str, list[float]] = {}
        for record in records:
            if record.get("cost"):
                by_method.setdefault(record["method"] or "all metrics", []).append(record["cost"]["seconds"])
        print("  median seconds:", ", ".join(f"{name} {statistics.median(seconds):.2f}" for name, seconds in by_method.items()))


def overhead(options: Any, folder: Path) -> None:
    """The same samples, methods and metrics; the order alternates from round to round."""
    for name, methods in (("three cheap methods", CHEAP), ("ten methods", list(METHODS)))[: 1 if options.cheap else 2]:
        plan = make_plan(
            {"models": ["smollm2-135m"], "data": ["known-mini"], "methods": methods, "metrics": METRICS, "limit": options.limit}
        )
        prepared = prepare(plan, ExecutionConfig())
        ratios = []
        for number in range(options.rounds):
            times = {}
            for way in ("bare", "run") if number % 2 else ("run", "bare"):
                times[way] = _bare(plan, options.limit) if way == "bare" else _run(prepared, folder / f"{name}-{number}")
            ratios.append(times["run"] / times["bare"])
            print(f"{name}, {options.limit} samples: bare {times['bare']:.1f} s, run {times['run']:.1f} s, {ratios[-1]:.3f}", flush=True)
        print(f"{name}: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


def _bare(plan: Plan, limit: int) -> float:
    from noiser.data import read
    from noiser.experiments.screening import screen

    begin = time.perf_counter()
    lm = noiser.load()
    kept = [row for row in screen(lm, read("known-mini").rows, "token", limit) if row.answered]
    for screened in kept:
        example = noiser.Example(screened.row.prompt, screened.target_ids, screened.row.id, screened.row.group)
        noiser.evaluate(lm, [example], plan.methods, METRICS)
    return time.perf_counter() - begin


def _run(prepared: Any, out: Path) -> float:
    """Seconds in all; says what of them went into samples, and what into making their records and writing them."""
    spent = {"work": 0.0, "write": 0.0}
    real = {"work": EvaluationRunner.run, "write": Writer.write}

    def timed(name: str) -> Any:
        def call(*arguments: Any) -> Any:
            begin = time.perf_counter()
            result = real[name](*arguments)
            result = list(result) if name == "work" else result
            spent[name] += time.perf_counter() - begin
            return result

        return call

    EvaluationRunner.run, Writer.write = timed("work"), timed("write")
    begin = time.perf_counter()
    try:
        assert run(prepared, out, ExecutionConfig(), Silent(), run_locally).complete
    finally:
        EvaluationRunner.run, Writer.write = real["work"], real["write"]
    print(f"  of the run, samples {spent['work']:.1f} s, encoding and flushing records {spent['write']:.3f} s", flush=True)
    return time.perf_counter() - begin


def resume(options: Any, folder: Path) -> None:
    """A folder as a run would have left it, its records copies of real ones under the keys that they have to have."""
    words = ["--methods", "noiser,occlusion,lime", "--metrics", "soft_ns,soft_nc"]
    data = folder / "many.jsonl"
    data.write_text('{"prompt": "The capital of France is", "id": "0"}\n')
    base = [sys.executable, "-m", "noiser", "run", "--data", str(data), *words, "--out"]
    subprocess.run([*base, str(folder / "one")], check=True, stderr=subprocess.DEVNULL)
    real = list(RecordIndex(RunFolder.open(folder / "one")).records.values())
    samples = -(-options.records // len(real))
    data.write_text(
        "".join(json.dumps({"prompt": f"The capital of France is {number}", "id": str(number)}) + "\n" for number in range(samples))
    )
    out = folder / "many"
    plan = make_plan({"models": ["smollm2-135m"], "data": [str(data)], "methods": words[1].split(","), "metrics": METRICS})
    prepared = prepare(plan, ExecutionConfig())
    made = RunFolder.start(out, prepared.fingerprint, {**RunFolder.open(folder / "one").display})
    rows = [{"id": row.id, "group": None, "kept": True, "target_ids": None, "prompt": row.prompt} for row in prepared.datasets["many"].rows]
    (model,) = prepared.fingerprint["models"]
    rows = [
        {**row, "said": "", "prob": 0.0, "reason": "", "fields": {}, "hash": sample_hash(prepared.fingerprint, model, "many", row)}
        for row in rows
    ]
    create_once(made.screening(model, "many"), {"model": model, "data": "many", "rows": rows})
    writer = Writer(made.records)
    for sample in RunContents(made).samples():
        named = dict(zip([*(trial.key for trial in sample.trials), sample.key], real, strict=True))
        writer.write([{**record, "key": key, "sample": sample.id} for key, record in named.items()])
    size = sum(file.stat().st_size for file in made.records.iterdir())
    count = samples * len(real)
    print(f"{count:,} records, {size / 2**20:.0f} MiB, {size / count:,.0f} bytes each; the largest {max(map(len, map(encode, real))):,}")
    commands = {"continuing": [*base, str(out)], **{name: [*base[:3], name, str(out)] for name in ("status", "report")}}
    for what, words in {"importing torch": [sys.executable, "-c", "import noiser.experiments.run"], **commands}.items():
        rounds = [_whole_command(words) for _ in range(options.rounds)]
        times = [seconds for seconds, _ in rounds]
        peak = max(peak for _, peak in rounds)
        print(f"{what}: {statistics.median(times):.1f} s ({min(times):.1f} to {max(times):.1f}), peak {peak:,.0f} MiB")
    begin = time.perf_counter()
    assert len(RecordIndex(made, whole=False).records) == count
    print(f"reading alone: {time.perf_counter() - begin:.1f} s")


def _whole_command(words: list[str]) -> tuple[float, float]:
    """Seconds and MiB of a command from its start to its end."""
    begin = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0
    return time.perf_counter() - begin, used.ru_maxrss / 2**10


if __name__ == "__main__":
    main()
