"""What the documents say is so: their commands exist, their Python runs, their options are all of the options.

Mutants caught: an option renamed in the code only; a Makefile target dropped; an example that no longer imports.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import noiser
from noiser.evaluation.sanity import CHECKS
from noiser.methods import METHODS
from noiser.metrics import METRICS
from tests.conftest import tiny

ROOT = Path(__file__).parents[1]
NAMES = ("README.md", "CONTRIBUTING.md", "docs/method.md", "docs/baselines.md", "docs/faithfulness.md")
README, CONTRIBUTING, METHOD, BASELINES, FAITHFULNESS = ((ROOT / name).read_text() for name in NAMES)
PROMPT = (7, 200, 31, 150, 31, 99)


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_first_two_commands_are_targets_that_make_knows():
    commands = [line.split("#")[0].split() for line in blocks(README, "sh")[0].strip().splitlines()]
    assert commands == [["make", "demo"], ["make", "test"]]
    for _, target in commands:
        shown = subprocess.run(["make", "-n", target, "PYTHON=python3"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert "noiser attribute" in shown if target == "demo" else "pytest" in shown


def test_the_readme_is_short_and_links_to_what_is_there():
    assert README.count("\n") <= 130
    for document in (README, CONTRIBUTING, METHOD, FAITHFULNESS):
        base = ROOT / "docs" if document in (METHOD, FAITHFULNESS) else ROOT
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document):
            assert link.startswith("https://") or (base / link).exists(), link


def test_the_readmes_python_prints_what_it_says(smol, capsys, monkeypatch):
    monkeypatch.setattr(noiser, "load", lambda _: smol)
    exec(blocks(README, "python")[0], {})
    printed, promised = capsys.readouterr().out.splitlines(), blocks(README, "text")[0].splitlines()
    assert printed[0] == promised[0]
    assert len(printed) == len(promised) > 5
    for line, written in zip(printed[1:], promised[1:], strict=True):
        score, token = line.split(" ", 1)
        assert token == written.split(" ", 1)[1]
        assert float(score) == pytest.approx(float(written.split(" ", 1)[0]), abs=0.0015)


@pytest.mark.parametrize("command", ["attribute", "compare", "evaluate", "check", "answer", "run", "report", "serve"])
def test_the_command_line_page_names_every_option(command):
    words = [sys.executable, "-m", "noiser.cli", command, "--help"]
    shown = subprocess.run(words, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"(--[a-z][a-z-]+)", shown)) - {"--help"}
    assert len(options) > 5
    page = (ROOT / "docs" / "cli.md").read_text()
    assert not {option for option in options if f"`{option}" not in page}


def test_the_method_page_names_every_option_with_its_default():
    for name, default in METHODS["noiser"].options.items():
        assert f"| `{name}` | {'none' if default is None else f'`{default}`' if isinstance(default, str) else default} |" in METHOD


def test_the_baselines_page_names_every_other_method_with_its_options_and_defaults():
    rows = [line.split("|") for line in BASELINES.split("\n## ")[0].splitlines() if line.startswith("| `")]
    options = {name: row[3] for row in rows for name in re.findall(r"`([^`]+)`", row[1])}
    assert set(METHODS) - {"noiser"} <= set(options)
    for name in set(METHODS) - {"noiser"}:
        named = re.findall(r"`(\w+)` \((\w[\w.]*)\)", options[name])
        assert named == [(option, str(default)) for option, default in METHODS[name].options.items()], name


def test_the_example_in_contributing_is_a_method(tokenizer):
    exec(blocks(CONTRIBUTING, "python")[0], {})
    try:
        lm = noiser.LanguageModel(tiny("llama"), tokenizer)
        ours = noiser.attribute(lm, PROMPT, "mean_occlusion", share=0.25)
    finally:
        METHODS.pop("mean_occlusion")
    with torch.no_grad():
        embeds = lm.model.get_input_embeddings()(torch.tensor([PROMPT]))
        clean = lm.model(inputs_embeds=embeds).logits[0, -1].softmax(-1)
        for token in range(len(PROMPT)):
            without = embeds.clone()
            without[0, token] = 0.25 * embeds[0, token] + 0.75 * embeds[0].mean(0)
            drop = clean.max() - lm.model(inputs_embeds=without).logits[0, -1].softmax(-1)[clean.argmax()]
            assert ours.scores[0, token] == pytest.approx(drop.item(), abs=1e-6)
    assert ours.seed is None
    assert np.abs(ours.scores).max() > 1e-3


def test_the_faithfulness_page_names_every_metric_with_its_direction_and_every_option():
    rows = {row[1].strip(" `"): row for line in FAITHFULNESS.splitlines() if line.startswith("| `") for row in [line.split("|")]}
    options = {option for entry in METRICS.values() for option in entry.options}
    for name, entry in METRICS.items():
        assert rows[name][2].strip() == entry.better
    for option in options:
        assert f"`{option}`" in FAITHFULNESS, option
    for name in CHECKS:
        assert name in rows


def test_a_cell_can_be_recomputed_as_the_page_says(smol, capsys, monkeypatch):
    monkeypatch.setattr(noiser, "load", lambda: smol)
    _, example = blocks(FAITHFULNESS, "python")
    exec(example, {})
    printed = capsys.readouterr().out
    assert printed in FAITHFULNESS
    names = ["soft_ns:masks=2", "soft_nc:masks=2"]
    found = noiser.evaluate(smol, ["The capital of France is"], ["occlusion"], names, controls=[])
    for record in found.records:
        assert f"**{record.value:.4f}**" in FAITHFULNESS
