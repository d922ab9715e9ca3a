"""Every causal family of transformers is equal to whole forward passes, or refused with a reason.

`make families` runs the slow test and writes docs/models.md. Mutants caught by the daily sample: `LayoutCheck.capacity` returns
`wanted` (gpt_neo), `new_cache` always returns a DynamicCache (qwen3_next), no mask for chunks (llama4_text), the
model gets the clean embeddings themselves (ctrl).
"""

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests.lm.families import FAMILIES, WINDOWS, Outcome, compare, has_window

DAILY = ["gpt_neo", "llama4_text", "gemma3_text", "mistral", "phi3", "gpt2", "opt", "bloom", "mpt", "qwen3_next", "falcon_h1", "mamba",
         "jamba", "ctrl", "recurrent_gemma"]  # fmt: skip
SECONDS = 240
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


def forked(family: str, window: str, results: Path) -> Outcome:
    """The outcome of one family, in a process of its own: a family that fills the memory or hangs costs itself only."""
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        outcome = compare(family, window)
        with results.open("a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        return Outcome(family, window, "not built", f"it takes more than {SECONDS} s or too much memory, even in this size")
    return Outcome(**json.loads(results.read_text().splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.families
@pytest.mark.timeout(6 * 3600)
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_every_family_is_equal_or_refused(tmp_path, capsys):
    outcomes = []
    for family in FAMILIES:
        for window in WINDOWS if has_window(family) else ["small"]:
            outcomes.append(forked(family, window, tmp_path / "results.jsonl"))
            with capsys.disabled():
                print(outcomes[-1], flush=True)
    PAGE.write_text(page(outcomes))
    assert not [outcome for outcome in outcomes if outcome.kind == "WRONG"]
    built = [outcome for outcome in outcomes if outcome.kind != "not built"]
    assert len([outcome for outcome in built if outcome.kind == "equal"]) >= 0.95 * len(built)


def page(outcomes: list[Outcome]) -> str:
    """docs/models.md."""
    counts = {kind: len({o.family for o in outcomes if o.kind == kind}) for kind in ("equal", "refused", "not built", "WRONG")}
    import transformers

    rows = [
        f"| {o.family} | {o.window if has_window(o.family) else '-'} | {o.kind} | {o.layouts or '-'} | {o.detail.replace('|', '/')} |"
        for o in outcomes
    ]
    return "\n".join(
        [
            "# Models",
            "",
            "`make families` builds every causal family of transformers "
            f"{transformers.__version__} as a tiny random model and compares noiser with whole forward passes: occlusion at 5, 12, 40, "
            "100 and 300 tokens and Noiser at a fixed scale up to 40, short prompts before long ones and long before short, alone and "
            "two together, with windows and chunks of 8 and of 128 tokens. Equal means within 1e-4 of the largest score.",
            "",
            f"Families: {counts['equal']} equal, {counts['refused']} refused with the reason, {counts['WRONG']} wrong. "
            f"{counts['not built']} could not be built from a small configuration, or fail in transformers itself.",
            "",
            "`packed` rows share one sequence and reuse keys and values, `full` rows are whole prompts: slower, with the same numbers.",
            "",
            "| family | window | result | layout | largest difference, or the reason |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
