"""Models for the tests: the real default model, and tiny random models of many families, built from their configurations."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin would make a busy machine many times slower

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

import noiser

VOCAB = 300
TINY: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 4},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 4},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 4},
    "phi3": {"num_key_value_heads": 2, "pad_token_id": 0},
    "olmo2": {"num_key_value_heads": 2},
    "gpt_neox": {},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "bloom": {"n_layer": 2, "n_head": 4},
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": True},
}
COMMON = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "tie_word_embeddings": False,
}  # fmt: skip


def tiny(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random model of a family with fewer than 200,000 parameters. Noise of the size of an embedding changes its output."""
    config = CONFIG_MAPPING[family](**{**COMMON, **TINY[family], **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                embedding = "embed" in name or "wte" in name or "wpe" in name
                parameter.normal_(0, (0.03 if "gemma" in family else 0.25) if embedding else 0.2)
    size = sum(parameter.numel() for parameter in model.parameters())
    assert 10_000 < size < 200_000, f"{family} has {size:,} parameters"
    return model


def byte_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """One token for each byte, as in GPT-2, from id 3. The ids 0, 1 and 2 are special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{piece: 3 + rank for rank, piece in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", **special})


SLOWEST = ("experiments", "judges", "regression", "evaluation", "web", "lm/test_device", "views/test_hostile")
"""Files of tests that take longest. They start first, so that no worker is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first, otherwise in the order of their names."""
    root = Path(__file__).parent
    items.sort(key=lambda item: not item.path.relative_to(root).as_posix().startswith(SLOWEST))


@pytest.fixture(autouse=True)
def _same_global_random_state() -> Any:
    """The library must not draw from the global generators."""
    torch.manual_seed(0)
    return


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def smol() -> noiser.LanguageModel:
    """The real default model, converted into the cache on first use."""
    return noiser.load()
