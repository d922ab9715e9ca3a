"""Every causal family of transformers is equal to whole forward passes, or refused with a reason.

`make families` runs the slow test and writes docs/models.md. Mutants caught by the daily sample: `LayoutCheck.capacity` returns
`wanted` (gpt_neo), `new_cache` always returns a DynamicCache (qwen3_next), no mask for chunks (llama4_text), the
model gets the clean embeddings themselves (ctrl), one mask for rows that want one each (xglm), no pass without a gradient after
one that fails (rwkv).
"""

import hashlib
import json
import os
import re
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
import transformers

if sys.platform != "win32":
    import resource

from tests.lm.families import LENGTHS, PLACES, SAMPLES, WHOLE, WINDOWS, Outcome, compare
from tests.lm.family_models import FAMILIES, UNBUILT, has_window, options

DAILY = ["gpt_neo", "llama4_text", "gemma3_text", "mistral", "phi3", "gpt2", "opt", "bloom", "mpt", "qwen3_next", "falcon_h1", "mamba",
         "jamba", "ctrl", "recurrent_gemma", "xglm", "rwkv"]  # fmt: skip
SECONDS = 400
MEMORY = 6 << 30
"""Seconds of a core and bytes of memory that one family under one window may take."""
PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("family", DAILY)
def test_a_family_is_equal_to_whole_passes(family):
    outcome = compare(family, "small", (5, 40))
    assert outcome.kind == "equal", outcome


@dataclass(frozen=True)
class Results:
    """What was found so far, in a file that survives a stop: a second start goes on where the first stopped."""

    file: Path

    def known(self, family: str, window: str) -> Outcome | None:
        """The outcome under these settings. The last one counts."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        found, wanted = (json.loads(line) for line in reversed(lines)), settings(family, window)
        return next((Outcome(**entry["outcome"]) for entry in found if entry.get("settings") == wanted), None)

    def add(self, outcome: Outcome) -> None:
        """Append a line."""
        with self.file.open("a") as file:
            file.write(json.dumps({"settings": settings(outcome.family, outcome.window), "outcome": asdict(outcome)}) + "\n")

    def finish(self) -> None:
        """The next start begins anew: noiser may have changed."""
        self.file.rename(self.file.with_suffix(".done"))


def settings(family: str, window: str) -> str:
    """What a result belongs to, besides noiser's own source: the versions, what is compared, and the family's configuration."""
    config = {} if family in UNBUILT else options(family, WINDOWS[window])
    compared = hashlib.sha256(repr((LENGTHS, PLACES, WHOLE, SAMPLES, config)).encode()).hexdigest()[:16]
    return f"{family}, {window}, torch {torch.__version__}, transformers {transformers.__version__}, {compared}"


def results_file(config: pytest.Config) -> Path:
    """FAMILIES_RESULTS, or a file in pytest's cache folder."""
    named = os.environ.get("FAMILIES_RESULTS")
    return Path(named) if named else config.cache.mkdir("families") / "results.jsonl"


def in_a_process(family: str, window: str, results: Results) -> Outcome:
    """The outcome of one family, in a process of its own: a family that fills the memory or hangs costs itself only."""
    found = results.known(family, window)
    if found is not None:
        return found
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        with suppress(BaseException):
            results.add(compare(family, window))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    found = results.known(family, window)
    if found is None:
        slow = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
        why = f"it takes more than {SECONDS} s of a core" if slow else f"its process ends with status {status}"
        found = Outcome(family, window, "not compared", f"{why}, even in this size")
        results.add(found)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Mutants: the settings are not looked at; the outcome of a process that dies is not written."""
    results, module = Results(tmp_path / "results.jsonl"), sys.modules[__name__]
    monkeypatch.setattr(module, "compare", lambda family, window: Outcome(family, window, "equal"))
    assert in_a_process("llama", "small", results).kind == "equal"
    monkeypatch.setattr(module, "compare", lambda family, window: os._exit(7))
    assert in_a_process("llama", "small", results).kind == "equal"
    assert in_a_process("gpt2", "small", results).kind == in_a_process("gpt2", "small", results).kind == "not compared"
    monkeypatch.setattr(module, "SAMPLES", 7)
    assert in_a_process("llama", "small", results).kind == "not compared"


@pytest.mark.slow
@pytest.mark.families
@pytest.mark.timeout(12 * 3600)
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_every_family_is_equal_or_refused(request, capsys):
    results, equal = Results(results_file(request.config)), set(re.findall(r"^\| (\S+) \|.*\| equal \|", PAGE.read_text(), re.MULTILINE))
    outcomes = []
    compare("llama", "small", (5,))  # what is imported once here is not imported in every process
    try:
        for family, window in sorted(units(), key=lambda unit: (unit[0] in equal, unit)):  # those that the page lacks come first
            outcomes.append(in_a_process(family, window, results))
            with capsys.disabled():
                print(outcomes[-1], flush=True)
    finally:
        PAGE.write_text(page([known for unit in units() if (known := results.known(*unit))]))
    results.finish()
    assert not [outcome for outcome in outcomes if outcome.kind == "WRONG"]
    built = [outcome for outcome in outcomes if outcome.kind != "not built"]
    assert len({outcome.family for outcome in built if outcome.kind == "equal"}) >= 0.95 * len({outcome.family for outcome in built})


INTRODUCTION = """# Models

`make families` builds every causal family of transformers {version} as a tiny random model of two to six layers. It compares noiser with
whole forward passes: occlusion and Noiser at a fixed scale, at 5, 12, 40, 100 and 300 tokens, short prompts before long ones and long
before short, alone and two together, with windows and chunks of 8 and of 128 tokens.

Occlusion explains every token of prompts up to 100 tokens, and Noiser of prompts up to 40. Of a longer prompt, the engine runs the rows
of {places} tokens, and of every prompt {places} tokens are compared. Equal means within 1e-4 of the largest score. A larger difference is
measured again in float64: a wrong mask, position or window is as wrong there, and a tie that the last bits decide is gone.

Families: {counts}. Of those that were built, {share:.0%} run.{missing}

`packed` rows share one sequence and reuse keys and values, `full` rows are whole prompts: slower, with the same numbers. Gemma 4 is built
without inputs per layer (`hidden_size_per_layer_input` 0). With them it is refused, as Gemma 3n is: its layers look ids up.

| family | window | result | layout | largest difference, or the reason |
|---|---|---|---|---|
"""


MISSING = """

**This page is not complete.** The run was stopped before these families, or before their second window: {names}. `make families` goes
on with them."""


def units() -> list[tuple[str, str]]:
    """Each family with each of its windows."""
    return [(family, window) for family in FAMILIES for window in (WINDOWS if has_window(family) else ["small"])]


def page(outcomes: list[Outcome]) -> str:
    """docs/models.md."""
    families = {kind: {o.family for o in outcomes if o.kind == kind} for kind in ("equal", "refused", "WRONG", "not built", "not compared")}
    built = {o.family for o in outcomes} - families["not built"]
    missing = sorted({family for family, _ in set(units()) - {(o.family, o.window) for o in outcomes}})
    rows = [
        f"| {o.family} | {WINDOWS[o.window] if has_window(o.family) else '-'} | {o.kind} | {o.layouts or '-'} "
        f"| {' '.join(o.detail.replace('|', '/').split())} |\n"
        for o in sorted(outcomes, key=lambda o: (o.family, WINDOWS[o.window]))
    ]
    head = INTRODUCTION.format(
        version=transformers.__version__,
        places=PLACES,
        counts=", ".join(f"{len(names)} {kind}" for kind, names in families.items() if names),
        share=len(families["equal"] - families["WRONG"]) / max(1, len(built)),
        missing=MISSING.format(names=", ".join(missing)) if missing else "",
    )
    return head + "".join(rows)
