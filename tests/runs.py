"""What the tests of runs share: a tiny model in a folder, a few prompts, and a process to fork runs from."""

import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from noiser.experiments.folder import RunFolder
from noiser.experiments.report.report import report
from noiser.storage import scan
from noiser.views.documents import to_markdown
from tests.conftest import byte_tokenizer, tiny

PROMPTS = ["one two", "three four", "five six", "red green", "blue grey", "sun moon", "up down", "left right"]
WORDS = ["--methods", "noiser:steps=4+samples=3,occlusion", "--metrics", "soft_ns:masks=4,soft_nc:masks=4", "--controls", "random,permuted"]


def make_place(folder: Path) -> Path:
    """A folder with a model and a data file of eight prompts in four groups."""
    tiny("llama", vocab_size=259).save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    rows = [{"id": f"p{place}", "prompt": text, "group": f"g{place // 2}"} for place, text in enumerate(PROMPTS)]
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def command(place: Path, out: Path, *more: str) -> list[str]:
    """A run of two methods and two controls under two metrics."""
    return ["run", "--models", str(place / "model"), "--data", str(place / "few.jsonl"), *WORDS, "--out", str(out), *more]


def table(out: Path) -> str:
    """The report without seconds: what has to be the same whatever happened on the way."""
    return to_markdown(report(RunFolder.open(out), timings=False), "figures")


def keys(out: Path) -> Counter:
    """How many times each record is there."""
    return Counter(record["key"] for _, _, record in scan(out / "records") if isinstance(record, dict))


class Forks:
    """Runs in forks of a process of their own."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process

    def run(self, *words: list[str], **more) -> tuple[list[int], float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"all": words, **more}) + "\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        return found["status"], found["seconds"]


@contextmanager
def forks(errors: Path):
    """What the runs say on standard error goes to the file."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    script = [sys.executable, str(Path(__file__).with_name("forked_runs.py"))]
    with errors.open("w") as sink:
        process = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True, env=environment)
        try:
            yield Forks(process)
        finally:
            process.kill()
            process.wait()
