"""Inseq's methods as ours: Inseq's own scores on our ids, and nothing of the user's changed by it.

Mutants caught: the text tokenised again, or the sequence built by Inseq, which drops tokens that read like padding; the
end-of-sequence token's own baseline forgotten; the model's prediction in place of the target; hooks, gradients, the
attention implementation, the unknown token, the padding side or the backend's padding not put back; a seed that seeds one
generator of three; the pickle read unasked; `except BaseException`, which would swallow Ctrl-C; memory that ran out told
as a failure of Inseq's; a method's own seconds not counted.
"""

import random
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

import noiser
from noiser.errors import DeviceMemoryError, NoiserError, OptionError
from noiser.lm.restore import drawing_from, restore_after
from noiser.methods import find
from noiser.methods.inseq import inseq_scores
from tests.conftest import byte_tokenizer, tiny
from tests.lm.test_restore import PROMPT, raise_at, same, state

inseq = pytest.importorskip("inseq")
TEXT = "abc</s>defg"
ROOT = Path(__file__).parents[2]


def test_without_inseq_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "inseq.attr.feat", None)
    with pytest.raises(NoiserError, match=r"pip install 'noiser\[inseq\]'"):
        find("inseq:saliency")
    lazy = "import sys, noiser.attribution.attribute, noiser.methods.inseq; assert 'inseq' not in sys.modules; "
    code = lazy + "sys.modules['inseq'] = None; import noiser.integrations.inseq"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "AssertionError" not in ended.stderr, "it is imported only when asked for"
    assert "pip install 'noiser[inseq]'" in ended.stderr


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("saliency", {}),
        ("attention", {}),
        ("occlusion", {}),
        ("integrated_gradients", {"n_steps": 5}),
        ("sequential_integrated_gradients", {"n_steps": 3}),
        ("saliency", {"attributed_fn": "logit"}),
    ],
)
def test_scores_are_inseqs_own_for_a_target_that_is_not_the_prediction(name, options):
    model, tokenizer = tiny("llama"), byte_tokenizer(padding_side="right")
    before = state(model, tokenizer)
    with restore_after(model, tokenizer):  # this time Inseq tokenises, too
        model.set_attn_implementation("eager")
        host = inseq.load_model(model, name, tokenizer=tokenizer)
        own = host.attribute(TEXT, TEXT + "Z", show_progress=False, **options).aggregate()
    same(before, state(model, tokenizer))
    as_text = {option: str(value) for option, value in options.items()}
    found = noiser.attribute(noiser.LanguageModel(model, tokenizer), TEXT, f"inseq:{name}", "Z", **as_text)
    assert found.target.rank > 0 and found.method == f"inseq:{name}" and found.notes["inseq"] == version("inseq")
    np.testing.assert_allclose(found.scores[0], own.sequence_attributions[0].target_attributions[:-1, 0], atol=1e-6)


def test_value_zeroing_runs_where_inseq_runs_it_and_fails_in_inseqs_words_where_not():
    found = noiser.attribute(noiser.LanguageModel(tiny("bloom"), byte_tokenizer()), PROMPT, "inseq:value_zeroing")
    assert found.scores.sum() == pytest.approx(1, abs=1e-5)
    assert "does not depend on the target" in found.notes["warnings"][0]
    with pytest.raises(NoiserError, match=r"Inseq's value_zeroing fails on LlamaForCausalLM: \w+Error: .*"):
        noiser.attribute(noiser.LanguageModel(tiny("llama"), byte_tokenizer()), PROMPT, "inseq:value_zeroing")


def test_special_tokens_in_the_prompt_keep_their_scores():
    ids = [67, 0, 68, 2, 0, 69, 1]
    lm = noiser.LanguageModel(tiny("llama"), byte_tokenizer())
    for name in ("saliency", "occlusion", "attention"):
        assert noiser.attribute(lm, ids, f"inseq:{name}").scores.shape == (1, len(ids))


def difficult(**tokens):
    """A model and tokenizer with everything set that Inseq sets, to another value."""
    model, tokenizer = tiny("llama", pad_token_id=None).train(), byte_tokenizer(padding_side="right", **tokens)
    model.model.layers[0].eval()
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
        if number % 2 == 0:
            parameter.grad = torch.full_like(parameter, 3.0)
    tokenizer("ab", padding="max_length" if tokenizer.pad_token else False, max_length=16, truncation=True)
    return model, tokenizer


@pytest.mark.parametrize(
    "name", ["attention", "deeplift", "value_zeroing", "lime", "gradient_shap", "layer_gradient_x_activation", "occlusion"]
)
@pytest.mark.parametrize("tokens", [{}, {"pad_token": None}])
def test_model_tokenizer_and_generators_are_as_found(name, tokens):
    model, tokenizer = difficult(**tokens)
    lm = noiser.LanguageModel(model, tokenizer)
    find("inseq:lime")  # imports Inseq, which may draw
    before = state(model, tokenizer)
    try:
        inseq_scores(lm, [67, 68, 69, 70], 5, name, {})
    except NoiserError:
        assert name == "value_zeroing"
    same(before, state(model, tokenizer))


def test_each_global_generator_is_seeded_and_goes_on_where_it_was():
    def draw():
        return random.random(), float(np.random.random()), float(torch.rand(()))

    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    expected = draw()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    drawn = []
    for _ in range(2):
        with suppress(ValueError), drawing_from(7, torch.device("cpu")):
            drawn.append(draw())
            raise ValueError
    assert drawn[0] == drawn[1] != expected
    assert draw() == expected


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (ValueError("no"), NoiserError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (torch.OutOfMemoryError("full"), DeviceMemoryError),
        (MemoryError(), DeviceMemoryError),
    ],
)
@pytest.mark.parametrize("name", ["deeplift", "attention", "lime"])
def test_all_is_as_found_after_an_exception_inside_inseq(name, error, becomes):
    model, tokenizer = difficult()
    lm = noiser.LanguageModel(model, tokenizer)
    calls = raise_at(model, 1, error)
    before = state(model, tokenizer)
    with pytest.raises(becomes):
        inseq_scores(lm, [67, 68, 69, 70], 5, name, {})
    assert calls
    same(before, state(model, tokenizer))


@pytest.mark.parametrize("name", ["lime", "gradient_shap"])
def test_the_seed_makes_inseqs_draws_repeatable(name):
    lm = noiser.LanguageModel(tiny("llama"), byte_tokenizer())
    first, again, other = (noiser.attribute(lm, PROMPT, f"inseq:{name}", seed=seed) for seed in (1, 1, 2))
    assert first.seed == 1
    np.testing.assert_array_equal(first.scores, again.scores)
    assert np.abs(first.scores - other.scores).max() > 1e-4


def test_unknown_methods_and_options_are_told():
    lm = noiser.LanguageModel(tiny("llama"), byte_tokenizer())
    with pytest.raises(OptionError, match=r"Inseq has no method 'saliancy'; it has attention, .*value_zeroing"):
        noiser.attribute(lm, PROMPT, "inseq:saliancy")
    with pytest.raises(OptionError, match=r"inseq:integrated_gradients has no option 'steps'; it has .*n_steps"):
        noiser.attribute(lm, PROMPT, "inseq:integrated_gradients", steps=3)
    with pytest.raises(OptionError, match="seed wants an int"):
        noiser.attribute(lm, PROMPT, "inseq:lime", seed="x")
    with pytest.raises(OptionError, match="uses no random numbers"):
        noiser.attribute(lm, PROMPT, "inseq:saliency", seed=1)
    with pytest.raises(OptionError, match="there is no method"):
        find("saliancy")
    with pytest.raises(NoiserError, match="pickle"):
        noiser.attribute(lm, PROMPT, "inseq:reagent")


@pytest.mark.parametrize(
    ("name", "options", "forward", "backward"),
    [("saliency", {}, 1, 1), ("integrated_gradients", {"n_steps": 5}, 5, 5), ("occlusion", {}, 11, 0), ("attention", {}, 1, 0)],
)
def test_the_cost_counts_the_tokens_that_inseq_sends_through(name, options, forward, backward):
    lm = noiser.LanguageModel(tiny("llama"), byte_tokenizer())
    cost = noiser.attribute(lm, PROMPT, f"inseq:{name}", **options).cost
    assert (cost.forward_tokens, cost.backward_tokens) == (len(PROMPT) * (1 + forward), len(PROMPT) * backward)


def test_the_cost_counts_inseqs_seconds():
    found = noiser.attribute(noiser.LanguageModel(tiny("llama"), byte_tokenizer()), PROMPT, "inseq:lime", n_samples=100)
    plain = noiser.attribute(noiser.LanguageModel(tiny("llama"), byte_tokenizer()), PROMPT, "inseq:lime", n_samples=2)
    assert found.cost.seconds > 3 * plain.cost.seconds > 0
