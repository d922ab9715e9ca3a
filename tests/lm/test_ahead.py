"""Rows that share the pass of the clean run: the same numbers as in a pass of their own.

Mutants caught, each run: the last row left out instead of the clean one (`logits[:-1]`); the gradient of the clean row taken along;
the weights of the rows left out; packed rows behind a clean run without keys; rows ahead of a question about other positions.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import noiser
from noiser.attribution.explain import attribute_each
from noiser.errors import ModelError, NonFiniteError
from noiser.lm.perturbation import Interpolate, PerturbedRows
from noiser.lm.quantity import token_logit_fn
from noiser.lm.requests import ForwardRequest
from noiser.lm.target import Question
from noiser.methods import parse
from tests.conftest import byte_tokenizer, tiny

PROMPT = (7, 200, 31, 150, 31, 99)
METHOD = parse("gradient_shap:baseline=unk")
APART = replace(METHOD, method=replace(METHOD.method, ahead=None))
QUESTIONS = {
    "prediction": {},
    "target": {"target": 17},
    "log_prob": {"target": 17, "quantity": "log_prob"},
    "hellinger": {"quantity": "hellinger"},
    "foil": {"target": 17, "foil": 18},
    "function": {"target": lambda logits: logits[3] - logits[4]},
    "several tokens": {"target": (17, 18)},
    "a foil of several tokens": {"target": 17, "foil": (18, 19)},
    "continuation": {"continuation": (5, 6, 7)},
    "span": {"continuation": (5, 6, 7), "span": (1, 2)},
}
SHARE = {"prediction", "target", "log_prob", "hellinger", "foil", "function"}


@pytest.fixture(scope="module")
def lm():
    lm = noiser.LanguageModel(tiny("llama"), byte_tokenizer())
    noiser.attribute(lm, PROMPT, "occlusion")  # the trial of the model and the check of the layout, which run once
    return lm


def counted(lm, spec, question):
    """The attribution, and how many passes it took."""
    calls = []
    hook = lm.model.register_forward_pre_hook(lambda *_: calls.append(1))
    (found,) = attribute_each(lm, [(PROMPT, Question(**question))], spec, "raise")
    assert isinstance(found, noiser.Attribution)
    hook.remove()
    return found, len(calls)


@pytest.mark.parametrize("question", QUESTIONS)
def test_in_one_pass_the_numbers_are_those_of_two(lm, question):
    (together, passes), (apart, more) = (counted(lm, spec, QUESTIONS[question]) for spec in (METHOD, APART))
    for name in ("scores", "stderr"):
        np.testing.assert_allclose(getattr(together, name), getattr(apart, name), rtol=1e-4, atol=1e-7)
    assert together.targets[0].value == pytest.approx(apart.targets[0].value, rel=1e-5)
    assert (together.cost.forward_tokens, together.cost.backward_tokens) == (apart.cost.forward_tokens, apart.cost.backward_tokens)
    assert more - passes == (question in SHARE)


def test_other_rows_of_such_a_clean_run_are_right(lm):
    """It has no keys and values to reuse, so they run whole."""
    prompt = lm.prompt(PROMPT)
    logit_fn = token_logit_fn("prob", (17,), (len(PROMPT) - 1,))
    assert METHOD.method.ahead is not None
    ahead = replace(METHOD.method.ahead(lm, prompt, METHOD.options), logit_fn_of=lambda _: logit_fn)
    ((together,),) = lm.forward([ForwardRequest(prompt, (len(PROMPT) - 1,), ahead=ahead)])
    (alone,) = lm.clean([prompt])
    assert together.ahead is not None
    values = [
        lm.run_perturbed([PerturbedRows(clean, Interpolate(3, torch.zeros(1, 1)), logit_fn)])[0].values for clean in (together, alone)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_many_prompts_share_their_clean_runs_instead(lm):
    one = noiser.attribute(lm, PROMPT, METHOD)
    first, _ = noiser.attribute_many(lm, [PROMPT, (5, 9, 5)], METHOD)
    assert isinstance(first, noiser.Attribution)
    np.testing.assert_allclose(first.scores, one.scores, rtol=1e-4, atol=1e-7)


def test_without_the_memory_for_all_rows_at_once_they_run_apart():
    small = noiser.LanguageModel(tiny("llama"), byte_tokenizer(), token_budget=len(PROMPT) * 3)
    wide = noiser.LanguageModel(tiny("llama"), byte_tokenizer())
    np.testing.assert_allclose(noiser.attribute(small, PROMPT, METHOD).scores, noiser.attribute(wide, PROMPT, METHOD).scores, rtol=1e-4)


def test_a_row_out_of_memory_is_tried_apart(lm):
    """The first pass with six rows fails as a device does; what comes after it has at most five."""

    def full(_, __, inputs):
        if len(inputs["inputs_embeds"]) == 6:
            raise torch.OutOfMemoryError

    expected = noiser.attribute(lm, PROMPT, METHOD)
    hook = lm.model.register_forward_pre_hook(full, with_kwargs=True)
    try:
        found = noiser.attribute(lm, PROMPT, METHOD)
    finally:
        hook.remove()
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-7)


def test_rows_with_nan_are_an_error_and_not_a_score(lm):
    def broken(_, __, output):
        output.logits[1:] = torch.nan
        return output

    hook = lm.model.register_forward_hook(broken)
    try:
        with pytest.raises(NonFiniteError):
            noiser.attribute(lm, PROMPT, METHOD)
    finally:
        hook.remove()


def test_a_model_that_fails_says_so(lm):
    def failing(*_):
        raise ZeroDivisionError

    hook = lm.model.register_forward_pre_hook(failing)
    try:
        with pytest.raises(ModelError, match="ZeroDivisionError"):
            noiser.attribute(lm, PROMPT, METHOD)
    finally:
        hook.remove()
