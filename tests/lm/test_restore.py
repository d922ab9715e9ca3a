"""Model, tokenizer and global state are after an attribution what they were before, whether it ended well or not.

Mutants caught: `quiet` without `finally`, or restoring with `model.train()`; `model.eval()` in its place; the gradient taken
with `backward()`, which fills `.grad`; `requires_grad_(False)` on the parameters; a hook left behind; `torch.manual_seed`,
`np.random.seed` or a global `torch.randn` anywhere; `torch.set_grad_enabled(False)` without its block; the tokenizer given a
pad token, a padding side, or a truncation; `resize_token_embeddings`; `config._attn_implementation` or `use_cache` set.
"""

import hashlib
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules import module as torch_module
from transformers.utils import logging as hf_logging

import noiser
from noiser.errors import NoiserError, PromptError
from tests.conftest import byte_tokenizer, tiny

PROMPT = "0123456789"
RANDOM = """
import random
import noiser
from tests.conftest import byte_tokenizer, tiny
lm = noiser.LanguageModel(tiny("llama"), byte_tokenizer())
import noiser.attribution.attribute  # rich, which this imports, draws a number while it is imported
before = random.getstate()
noiser.attribute(lm, "0123456789")
assert random.getstate() == before, "python's generator was drawn from"
"""
HOOKS = [name for name in vars(torch.nn.Linear(1, 1)) if name.endswith("_hooks")]
GLOBAL_HOOKS = [name for name in vars(torch_module) if name.startswith("_global_") and name.endswith("_hooks")]


def state(model, tokenizer):
    """Everything about them, and about the process, that a user could notice a change of."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "weights": {name: hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest() for name, tensor in model.state_dict().items()},
        "tensors": {name: (id(t), tuple(t.shape), t.dtype, str(t.device), t.requires_grad) for name, t in tensors.items()},
        "grad": {name: None if t.grad is None else t.grad.clone().tolist() for name, t in tensors.items()},
        "training": {name: module.training for name, module in model.named_modules()},
        "hooks": {name: [len(vars(module)[kind]) for kind in HOOKS] for name, module in model.named_modules()},
        "global hooks": [len(getattr(torch_module, name)) for name in GLOBAL_HOOKS],
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "config": (model.config.to_dict(), model.config._attn_implementation, model.generation_config.to_dict()),
        "vocabulary": (model.get_input_embeddings().num_embeddings, model.config.vocab_size),
        "tokenizer": (len(tokenizer), tokenizer.padding_side, tokenizer.truncation_side, tokenizer.pad_token, tokenizer.model_max_length),
        "tokenizer's parts": (repr(tokenizer.init_kwargs), tokenizer.special_tokens_map, tokenizer.chat_template, sorted(vars(tokenizer))),
        "tokenizer's backend": tokenizer.backend_tokenizer.to_str(),
        "torch": (torch.get_rng_state().tolist(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()),
        "modes": (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), str(torch.get_default_device())),
        "numpy": repr(np.random.get_state()),
        "surroundings": (dict(os.environ), hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()),
    }


def same(before, after):
    for name in before:
        assert before[name] == after[name], f"{name} changed"


def raise_at(model, number, error):
    """A hook of the user's own, which raises at the model's `number`-th call."""
    calls = []

    def count(*_):
        calls.append(1)
        if len(calls) == number:
            raise error

    model.register_forward_pre_hook(count)
    return calls


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "bloom", "falcon"])
def test_all_is_as_found_after_success(family):
    model, tokenizer = tiny(family), byte_tokenizer()
    before = state(model, tokenizer)
    noiser.attribute(noiser.LanguageModel(model, tokenizer), PROMPT)
    same(before, state(model, tokenizer))


@pytest.mark.parametrize("number", [1, 2, 3, 5, 9])
@pytest.mark.parametrize(
    "error", [ValueError("the user's own"), KeyboardInterrupt(), torch.OutOfMemoryError("full")], ids=lambda error: type(error).__name__
)
def test_all_is_as_found_after_an_exception_in_the_middle(number, error):
    model, tokenizer = tiny("llama").train(), byte_tokenizer()
    calls = raise_at(model, number, error)
    lm = noiser.LanguageModel(model, tokenizer)
    before = state(model, tokenizer)
    with suppress(ValueError, KeyboardInterrupt, torch.OutOfMemoryError, NoiserError):
        noiser.attribute(lm, PROMPT)
    assert len(calls) >= number
    same(before, state(model, tokenizer))


def test_a_keyboard_interrupt_goes_through():
    model = tiny("llama")
    raise_at(model, 9, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        noiser.attribute(noiser.LanguageModel(model, byte_tokenizer()), PROMPT)


def test_all_is_as_found_after_a_refused_prompt_or_target():
    model, tokenizer = tiny("llama").train(), byte_tokenizer()
    lm = noiser.LanguageModel(model, tokenizer)
    before = state(model, tokenizer)
    for arguments in (
        {"prompt": "x" * 65},
        {"prompt": "ab", "target": ""},
        {"prompt": "ab", "target": "x" * 64},
        {"prompt": "ab", "target": 300},
        {"prompt": ""},
    ):
        with pytest.raises(PromptError):
            noiser.attribute(lm, **arguments)
    same(before, state(model, tokenizer))


def test_all_is_as_found_between_the_results_of_many_and_when_they_are_left():
    model, tokenizer = tiny("llama").train(), byte_tokenizer()
    before = state(model, tokenizer)
    results = noiser.attribute_many(noiser.LanguageModel(model, tokenizer), (PROMPT[:n] for n in range(1, 40)), samples=2, steps=3)
    next(results)
    same(before, state(model, tokenizer))
    results.close()
    same(before, state(model, tokenizer))


def test_each_module_keeps_its_own_mode_and_dropout_does_nothing():
    model = tiny("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    calm = noiser.attribute(noiser.LanguageModel(model, byte_tokenizer()), PROMPT)
    model.train()
    model.transformer.h[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    assert set(before.values()) == {True, False}
    lm = noiser.LanguageModel(model, byte_tokenizer())
    first, second = noiser.attribute(lm, PROMPT), noiser.attribute(lm, PROMPT)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert first.notes["k"] == second.notes["k"] == calm.notes["k"]
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_allclose(first.scores, calm.scores, atol=1e-6)


def test_gradients_that_were_there_stay_and_frozen_weights_stay_frozen():
    model, tokenizer = tiny("llama"), byte_tokenizer()
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
        if number % 2 == 0:
            parameter.grad = torch.full_like(parameter, 3.0)
    before = state(model, tokenizer)
    noiser.attribute(noiser.LanguageModel(model, tokenizer), PROMPT)
    same(before, state(model, tokenizer))


def test_padding_and_truncation_that_were_set_stay_set():
    model, tokenizer = tiny("llama"), byte_tokenizer(padding_side="left", truncation_side="left")
    tokenizer("ab", padding="max_length", max_length=16, truncation=True)
    before = state(model, tokenizer)
    attribution = noiser.attribute(noiser.LanguageModel(model, tokenizer), "x" * 20, samples=2, steps=3)
    assert len(attribution.tokens) == 20
    same(before, state(model, tokenizer))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_under_any_gradient_mode_the_result_is_the_same(mode):
    model, tokenizer = tiny("llama"), byte_tokenizer()
    expected = noiser.attribute(noiser.LanguageModel(model, tokenizer), PROMPT)
    with mode():
        before = state(model, tokenizer)
        found = noiser.attribute(noiser.LanguageModel(model, tokenizer), PROMPT)
        same(before, state(model, tokenizer))
    assert found.notes["k"] == expected.notes["k"]
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


def test_another_default_dtype_stays_and_changes_nothing():
    model, tokenizer = tiny("llama"), byte_tokenizer()
    expected = noiser.attribute(noiser.LanguageModel(model, tokenizer), PROMPT)
    torch.set_default_dtype(torch.float64)
    try:
        before = state(model, tokenizer)
        found = noiser.attribute(noiser.LanguageModel(model, tokenizer), PROMPT)
        same(before, state(model, tokenizer))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.notes["k"] == expected.notes["k"]
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)


@pytest.mark.slow
def test_pythons_own_generator_is_not_drawn_from():
    """In a process of its own: the type checker that runs along in these tests draws from it."""
    ended = subprocess.run([sys.executable, "-c", RANDOM], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
