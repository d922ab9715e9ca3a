"""Both directions of Inseq: our methods as its host runs them, and its methods as ours.

Mutants caught, at home in Inseq: the padding handed on with the ids; the mask upside down; the target of the step before;
options dropped, or only those of `load_model` kept; `abs()` or a normalising output class; unknown options passed over; a
new engine at each step; the logit attributed when Inseq was asked for it.
Its methods as ours: the text tokenised again, or the sequence built by Inseq, which drops tokens that read like padding;
the model's prediction in place of the target; `finally` left out of a restoring block; hooks, gradients, the attention
implementation, the unknown token or the padding side not put back; a seed that seeds one generator of three; the pickle
read unasked; `except BaseException`, which would swallow Ctrl-C.
"""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, T5Config

import noiser
from noiser.errors import DeviceMemoryError, ModelError, NoiserError, OptionError
from noiser.lm.as_found import as_found
from noiser.methods import find
from noiser.methods.inseq import inseq_scores
from tests.conftest import byte_tokenizer, tiny
from tests.test_left_as_found import PROMPT, raise_at, same, state

inseq = pytest.importorskip("inseq")
import noiser.integrations.inseq as ours  # noqa: E402

FEW = {"samples": 2, "steps": 3}
LETTERS = list(range(67, 90))
ROOT = Path(__file__).parents[1]


def hosted(model=None, tokenizer=None, **options):
    return inseq.load_model(model or tiny("llama"), "noiser", tokenizer=tokenizer or byte_tokenizer(), **options)


def letters_only(*_):
    return LETTERS


def expected(host, sequence, step, **options):
    """What our own door says of that step: the prefix's ids in, the step's token as the target."""
    end = sequence.attr_pos_start + step
    ids = [token.id for token in sequence.target]
    return noiser.attribute(noiser.LanguageModel(host.model, host.tokenizer), ids[:end], target=ids[end], **options).scores[0]


def check_every_step(host, out, **options):
    for sequence in out.sequence_attributions:
        assert sequence.target_attributions.shape[1] > 0
        for step in range(sequence.target_attributions.shape[1]):
            shown = sequence.target_attributions[:, step].numpy()
            ours_says = expected(host, sequence, step, **options)
            np.testing.assert_allclose(shown[: len(ours_says)], ours_says, atol=1e-6)
            assert np.isnan(shown[len(ours_says) :]).all()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_forced_generations_get_our_scores_at_every_step(family):
    host = hosted(tiny(family))
    out = host.attribute(["abcdef", "xy"], ["abcdefghi", "xyz"], show_progress=False, samples=3, seed=1, steps=3)
    assert [len(sequence.target) for sequence in out.sequence_attributions] == [9, 3]
    check_every_step(host, out, samples=3, seed=1, steps=3)


def test_a_left_padded_batch_with_step_scores_gets_our_scores():
    host = hosted(samples=2)
    generation = {"max_new_tokens": 3, "do_sample": False, "prefix_allowed_tokens_fn": letters_only}
    out = host.attribute(
        ["abcdefgh", "xyz", "pq"], generation_args=generation, show_progress=False, attribute_target=True, step_scores=["probability"], steps=3
    )
    check_every_step(host, out, **FEW)
    for sequence in out.sequence_attributions:
        lm = noiser.LanguageModel(host.model, host.tokenizer)
        ids = [token.id for token in sequence.target]
        start = sequence.attr_pos_start
        found = noiser.attribute(lm, ids[:start], target=ids[start], **FEW).target.prob
        assert float(sequence.step_scores["probability"][0]) == pytest.approx(found, abs=1e-5)


def test_inseq_shows_aggregates_saves_and_loads_the_signed_scores_unchanged(tmp_path):
    host = hosted()
    out = host.attribute("abcdef", "abcdefgh", show_progress=False, **FEW)
    raw = out.sequence_attributions[0].target_attributions
    assert (raw.nan_to_num() < 0).any() and (raw.nan_to_num() > 0).any()
    aggregated = out.aggregate().sequence_attributions[0].target_attributions
    torch.testing.assert_close(aggregated, raw, equal_nan=True, rtol=0, atol=0)
    assert "abc"[0] in out.show(display=False, return_html=True)
    out.save(tmp_path / "out.json")
    loaded = inseq.FeatureAttributionOutput.load(tmp_path / "out.json")
    torch.testing.assert_close(loaded.aggregate().sequence_attributions[0].target_attributions, raw, equal_nan=True, rtol=0, atol=0)


def test_what_we_cannot_explain_is_refused_in_our_words():
    with pytest.raises(OptionError, match=r"noiser has no option 'sample'; it has samples, steps"):
        hosted().attribute("ab", "abc", show_progress=False, sample=5)
    with pytest.raises(OptionError, match="no option 'sample'"):
        hosted(sample=5)
    with pytest.raises(OptionError, match="explains the target's probability"):
        hosted().attribute("ab", "abc", show_progress=False, attributed_fn="logit")
    t5 = AutoModelForSeq2SeqLM.from_config(T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, bos_token_id=1))
    with pytest.raises(ModelError, match="encoder-decoder"):
        hosted(t5)


def test_the_engine_is_made_once_and_leaves_all_as_found(monkeypatch):
    made = []
    monkeypatch.setattr(ours, "LanguageModel", lambda *given: made.append(1) or noiser.LanguageModel(*given))
    host = hosted()
    host.model.train()
    before = state(host.model, host.tokenizer)
    for _ in range(2):
        host.attribute("abcd", "abcdefg", show_progress=False, **FEW)
    assert len(made) == 1
    before["tokenizer's backend"] = after = None  # Inseq tokenises with padding and truncation, and leaves them set
    after = state(host.model, host.tokenizer) | {"tokenizer's backend": None}
    same(before, after)


def test_bfloat16_too():
    host = hosted(tiny("llama").to(torch.bfloat16))
    check_every_step(host, host.attribute("abcdef", "abcdefgh", show_progress=False, **FEW), **FEW)


def test_the_real_model_and_tokenizer_of_ours(smol):
    with as_found(smol.model, smol.tokenizer):
        host = hosted(smol.model, smol.tokenizer)
        text = "The Eiffel Tower is located in the city of"
        out = host.attribute(text, text + " Paris", show_progress=False, **FEW)
        check_every_step(host, out, **FEW)
    assert out.sequence_attributions[0].target[-1].token == "ĠParis"


def test_inseqs_command_line_with_our_methods_in_it(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    arguments = ["--model_name_or_path", tmp_path / "model", "--attribution_method", "noiser", "--input_texts", "abcd"]
    arguments += ["--generated_texts", "abcdef", "--device", "cpu", "--attribution_kwargs", '{"samples": 2, "steps": 3}']
    arguments += ["--save_path", tmp_path / "out.json", "--hide"]
    command = [sys.executable, "-m", "noiser.integrations.inseq", "attribute", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    saved = inseq.FeatureAttributionOutput.load(tmp_path / "out.json")
    check_every_step(hosted(), saved, **FEW)


def test_without_inseq_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "inseq.attr.feat", None)
    with pytest.raises(NoiserError, match=r"pip install 'noiser\[inseq\]'"):
        find("inseq:saliency")
    code = "import sys; sys.modules['inseq'] = None; import noiser.integrations.inseq"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "pip install 'noiser[inseq]'" in ended.stderr


def test_inseq_is_imported_when_asked_for():
    code = "import sys, noiser.attribution as a; assert 'inseq' not in sys.modules; a.noiser.methods.find('inseq:lime'); assert 'inseq' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


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
    model, tokenizer = tiny("llama"), byte_tokenizer()
    with as_found(model, tokenizer):
        model.set_attn_implementation("eager")
        host = inseq.load_model(model, name, tokenizer=tokenizer)
        own = host.attribute("abcdefgh", "abcdefghZ", show_progress=False, **options).aggregate()
    found = noiser.attribute(noiser.LanguageModel(model, tokenizer), "abcdefgh", f"inseq:{name}", "Z", **{k: str(v) for k, v in options.items()})
    assert found.target.rank > 0 and found.method == f"inseq:{name}" and found.notes["inseq"] == inseq.get_version()
    np.testing.assert_allclose(found.scores[0], own.sequence_attributions[0].target_attributions[:8, 0], atol=1e-6)


def test_value_zeroing_runs_where_inseq_runs_it_and_fails_in_inseqs_words_where_not():
    found = noiser.attribute(noiser.LanguageModel(tiny("bloom"), byte_tokenizer()), PROMPT, "inseq:value_zeroing")
    assert found.scores.sum() == pytest.approx(1, abs=1e-5)
    assert "does not look at the target" in found.notes["warnings"][0]
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


@pytest.mark.parametrize("name", ["attention", "deeplift", "value_zeroing", "lime", "gradient_shap", "layer_gradient_x_activation", "occlusion"])
@pytest.mark.parametrize("tokens", [{}, {"pad_token": None}])
def test_model_tokenizer_and_generators_are_as_found(name, tokens):
    model, tokenizer = difficult(**tokens)
    lm = noiser.LanguageModel(model, tokenizer)
    find("inseq:lime")  # imports Inseq, which may draw
    before, python = state(model, tokenizer), random.getstate()
    try:
        inseq_scores(lm, [67, 68, 69, 70], 5, name, {})
    except NoiserError:
        assert name == "value_zeroing"
    same(before, state(model, tokenizer))
    assert random.getstate() == python


@pytest.mark.parametrize(
    ("error", "becomes"),
    [(ValueError("no"), NoiserError), (KeyboardInterrupt(), KeyboardInterrupt), (torch.OutOfMemoryError("full"), DeviceMemoryError)],
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
    with pytest.raises(OptionError, match=r"inseq:integrated_gradients has no option 'steps'; it has .*n_steps.*seed"):
        noiser.attribute(lm, PROMPT, "inseq:integrated_gradients", steps=3)
    with pytest.raises(OptionError, match="seed wants an int"):
        noiser.attribute(lm, PROMPT, "inseq:lime", seed="x")
    with pytest.raises(OptionError, match="there is no method"):
        find("saliancy")
    with pytest.raises(NoiserError, match="pickle"):
        noiser.attribute(lm, PROMPT, "inseq:reagent")


def test_the_cost_counts_inseqs_seconds():
    found = noiser.attribute(noiser.LanguageModel(tiny("llama"), byte_tokenizer()), PROMPT, "inseq:lime", n_samples=100)
    plain = noiser.attribute(noiser.LanguageModel(tiny("llama"), byte_tokenizer()), PROMPT, "inseq:lime", n_samples=2)
    assert found.cost.seconds > 3 * plain.cost.seconds > 0
