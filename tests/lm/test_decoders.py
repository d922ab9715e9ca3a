"""Only decoders with a head for the next token are explained; everything else is refused in plain words.

Mutants are named in each test. The checkpoints are tiny and random, saved as their own library saves them.
"""

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    MarianConfig,
    MarianMTModel,
)

import noiser
from noiser.errors import ModelError, ModelFailedError
from noiser.lm.trial import TRIAL_TOKENS
from tests.conftest import VOCAB, byte_tokenizer, tiny

BOTH_PARTS = {
    "vocab_size": VOCAB, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "pad_token_id": 0, "decoder_start_token_id": 0,
    "eos_token_id": 2, "forced_eos_token_id": 2,
}  # fmt: skip
BERT = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def saved(tmp_path, model, **config):
    """A folder with this model and a tokenizer, and some values of its configuration changed. None takes a value away."""
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text()) | config
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    return tmp_path


def bert(**options):
    torch.manual_seed(0)
    model = BertLMHeadModel(BertConfig(**BERT, **options)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.3)
    return model


@pytest.mark.parametrize(("kind", "config"), [(MarianMTModel, MarianConfig), (BartForConditionalGeneration, BartConfig)])
def test_an_encoder_decoder_is_refused_and_not_cut_in_two(tmp_path, kind, config):
    """Mutant: `_is_encoder_decoder` looks at `is_encoder_decoder` only (the loaded decoder says False), or is not called."""
    folder = saved(tmp_path, kind(config(**BOTH_PARTS)))
    with pytest.raises(ModelError, match=r"is an encoder-decoder.*alone it would give other numbers"):
        noiser.load(folder)
    decoder = AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(ModelError, match="ForCausalLM is an encoder-decoder"):
        noiser.load(decoder, byte_tokenizer())


@pytest.mark.parametrize(
    ("kind", "use"),
    [
        (LlamaForSequenceClassification, "classifies whole texts"),
        (LlamaForTokenClassification, "classifies tokens"),
        (LlamaModel, "gives hidden states"),
    ],
)
def test_a_checkpoint_without_a_language_model_is_refused_by_its_class(tmp_path, kind, use):
    """Mutant: `check_architecture` is not called in `_check_files` (the message is then about tensors)."""
    with pytest.raises(ModelError, match=rf"{kind.__name__}, which {use}.*config\.json"):
        noiser.load(saved(tmp_path, kind(tiny("llama").config)))


def test_a_head_that_would_be_drawn_at_random_is_refused_by_name(tmp_path):
    """Mutant: `"lack"` left out of the faults of `check_loaded`. Nothing but the weights tells that this was a classifier."""
    folder = saved(tmp_path, LlamaForSequenceClassification(tiny("llama").config), architectures=None)
    with pytest.raises(ModelError, match=r"lack lm_head\.weight; they .*: score\.weight"):
        noiser.load(folder)


def test_a_masked_language_model_is_refused(tmp_path):
    """Mutant: `ForMaskedLM` among the language models."""
    with pytest.raises(ModelError, match="BertForMaskedLM, which fills gaps"):
        noiser.load(saved(tmp_path, BertForMaskedLM(BertConfig(**BERT))))


def test_a_model_that_looks_ahead_is_refused():
    """Mutant: the loop over later tokens left out of `check_decoder`, or `_rounding` 1."""
    with pytest.raises(ModelError, match=r"BertLMHeadModel is not a causal decoder"):
        noiser.attribute(noiser.load(bert(), byte_tokenizer()), "abc", "occlusion")
    result = noiser.attribute(noiser.load(bert(is_decoder=True), byte_tokenizer()), "abc", "occlusion")
    assert abs(result.scores).max() > 0


def test_a_decoder_is_tried_once_and_its_trial_is_counted_apart(tokenizer):
    """Mutant: `_trial_passed` never set, or the trial's tokens in the attribution's cost."""
    lm = noiser.LanguageModel(tiny("gpt_neox"), tokenizer, prefix=False)
    first, second = (noiser.attribute(lm, (7, 200, 31), "uniform").cost.forward_tokens for _ in range(2))
    assert first == second == 3
    assert lm.token_counter.check_tokens == 4 * TRIAL_TOKENS


@pytest.mark.parametrize("error", [RuntimeError("no kernel"), IndexError("index 9"), KeyError("position_bias"), AttributeError("shape")])
def test_whatever_a_model_raises_names_the_model_the_step_and_the_remedy(tokenizer, error):
    """Mutant: `except RuntimeError` in `call_model`."""
    model = tiny("llama")

    def fail(*_):
        raise error

    model.model.layers[1].register_forward_pre_hook(fail)
    message = (
        rf"trial of this model with token ids failed.*LlamaForCausalLM fails on 1 row of 8 tokens: {type(error).__name__}: .*--attention"
    )
    with pytest.raises(ModelFailedError, match=message) as caught:
        noiser.attribute(noiser.load(model, tokenizer), (5, 6, 7), "uniform")
    assert caught.value.__cause__ is error
