"""The benchmark for GPUs, in miniature on the CPU: it runs to its end, and its models have the size that they say."""

import sys

import pytest
import torch
from benchmarks import gpu
from transformers import AutoModelForCausalLM


@pytest.mark.parametrize("shape", ["qwen2-0.5b", "llama-3-8b"])
def test_shapes_have_the_size_of_the_real_models(shape):
    """Mutants: untied embeddings of the small one; 24 layers of the large one."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(gpu.SHAPES[shape]())
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(gpu.PARAMETERS[shape], rel=0.005)


def test_it_runs_to_its_end_and_prints_every_table(monkeypatch, capsys):
    """Mutant: a method that is not there."""
    monkeypatch.setattr(sys, "argv", ["gpu", "--shapes", "tiny", "--device", "cpu", "--prompts", "3", "--repeats", "1"])
    gpu.main()
    printed = capsys.readouterr().out
    assert all(f"| {method} |" in printed for method in (*gpu.METHODS, "soft_nc")) and "nan" not in printed
    assert printed.count("|---|") > 4 and "times faster than the loop" in printed
