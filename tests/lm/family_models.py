"""Every causal family of transformers as a tiny random model."""

import inspect
import re
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCAB = 300
MOST_PARAMETERS = 5_000_000
FAMILIES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

SIZES = {
    "hidden": (64, "hidden_size hidden_size_global n_embd d_model embed_dim word_embed_proj_dim attention_hidden_size lru_width"),
    "inner": (96, "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_inner dff"),
    "experts' inner": (32, "moe_intermediate_size shared_expert_intermediate_size"),
    "layers": (4, "num_hidden_layers n_layer num_layers n_layers"),
    "both halves": (2, "encoder_layers decoder_layers"),
    "heads": (4, "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads"),
    "key heads": (2, "num_key_value_heads num_kv_heads linear_num_key_heads"),
    "head size": (16, "head_dim v_head_dim linear_key_head_dim linear_value_head_dim qk_head_dim q_lora_rank kv_lora_rank"),
    "rotary size": (8, "rotary_dim qk_rope_head_dim qk_nope_head_dim"),
    "positions": (512, "max_position_embeddings n_positions max_seq_len context_length n_ctx"),
    "experts": (4, "num_experts num_local_experts n_routed_experts moe_num_experts expert_num linear_num_value_heads"),
    "experts a token": (2, "num_experts_per_tok moe_top_k moe_k"),
    "one": (1, "n_group topk_group n_shared_experts first_k_dense_replace mamba_n_groups n_groups"),
    "state": (8, "mamba_d_state mamba_chunk_size state_size ssm_state_size chunk_size mamba_d_state"),
    "state heads": (4, "mamba_n_heads mamba_num_heads time_step_rank mamba_dt_rank"),
    "state head size": (32, "mamba_d_head mamba_head_dim"),
    "state inner": (128, "mamba_d_ssm"),
    "expansion": (2, "mamba_expand"),
    "vocabulary": (VOCAB, "vocab_size vocab_size_per_layer_input"),
    "layer inputs": (8, "hidden_size_per_layer_input"),
    "indexer": (8, "index_head_dim index_topk"),
    "indexer heads": (2, "index_n_heads"),
}  # fmt: skip
UNLIKE = re.compile(r"layer_types|interval|period|pattern|layers_block|no_rope|layer_indices|attention_types|mlp_only|dense")
"""Options of families whose layers are not all alike: such a family has four layers, any other two."""
WINDOW_NAMES = ("sliding_window", "sliding_window_size", "attention_chunk_size", "window_size", "local_attention", "attention_window_size")
INKLING = {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 16, "rel_extent": 64}
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2}
SPECIFIC: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "falcon": {"new_decoder_architecture": True},
    "mamba2": {"num_heads": 4, "head_dim": 32, "n_groups": 1, "expand": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1, 3]},
    "nemotron_h": {"hybrid_override_pattern": "M*M*"},
    "zamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "attention_head_dim": 32, "attention_hidden_size": 128},
    "zamba2": {"num_hidden_layers": 6, "layers_block_type": ["mamba", "hybrid"] * 3, "num_mem_blocks": 1},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_shape": (16, 32), "axial_pos_embds_dim": (32, 32), "attn_layers": ["local", "local"], "is_decoder": True},
    "ernie4_5_moe": {"moe_k": 2, "moe_num_experts": 4},
    "axk2": {"num_key_value_heads": 4, "index_head_dim": 16},
    "deepseek_v32": {"num_key_value_heads": 4, "index_head_dim": 16},
    "glm_moe_dsa": {"num_key_value_heads": 4, "index_head_dim": 16},
    "dots3_note_text": {
        "num_key_value_heads": 4,
        "index_head_dim": 16,
        "shared_experts_intermediate_size": 32,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 16,
    },
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "longcat_flash": {
        "ffn_hidden_size": 96,
        "expert_ffn_hidden_size": 32,
        "moe_topk": 2,
        "zero_expert_num": 2,
        "num_layers": 2,
        "head_dim": 8,
        "num_key_value_heads": 4,
    },
    "kimi_linear": {"linear_head_dim": 16, "linear_num_heads": 4, "num_key_value_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "inkling_text": {**INKLING, "logits_mup_width_multiplier": 1.0, "local_layer_ids": [0, 2]},
    "inkling2_text": {**INKLING, "layer_types": ["hybrid_sliding", "hybrid"] * 2},
    "cpmant": {"dim_head": 16, "dim_ff": 96},
    "gemma3n_text": {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 0},
    "gemma4_text": {"hidden_size_per_layer_input": 0},
    "gemma4": {"image_token_id": 290, "audio_token_id": 291, "video_token_id": 292},
    "gemma4_unified": {"image_token_id": 290, "audio_token_id": 291, "video_token_id": 292},
    "dots3_note_vision_encoder": {"num_hidden_layers": 42, "adapter_in_dim": 64, "adapter_out_dim": 64},
    "dots3_note_audio_encoder": {"adapter_input_size": 64, "adapter_out_dim": 64},
    "xlstm": {"qk_dim_factor": 1.0},
    **dict.fromkeys(("gemma3_text", "laguna", "mellum"), MIXED),
    "zaya": {"num_experts_per_tok": 1, "layer_types": ["hybrid_sliding", "hybrid"] * 2},
    "xlm": {"emb_dim": 64, "n_words": VOCAB, "causal": True},
    "roc_bert": {"pronunciation_vocab_size": 10, "shape_vocab_size": 10},
    "blt": {"encoder_hash_byte_group_vocab": 50},
    "phi4_multimodal_audio": {"num_blocks": 2, "ext_pw_out_channel": 64, "depthwise_separable_out_channel": 64, "nemo_conv_channels": 64},
    "xmod": {"default_language": "en_XX"},
    "xlnet": {"d_inner": 96},
    "mpt": {"max_seq_len": 512},
    "dbrx": {
        "max_seq_len": 512,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0},
        "ffn_config": {"hidden_size": 64, "ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
    },
}
"""What a family needs besides, to be built and run at all."""


UNBUILT = {
    "gemma3n": "it needs the package timm for its images; its text decoder is gemma3n_text",
    "gemma4_assistant": "it drafts tokens for another model, whose keys and values it needs",
    "gemma4_unified_assistant": "it drafts tokens for another model, whose keys and values it needs",
    "musicgen": "it reads codes of sound, and AutoModelForCausalLM does not build it from its configuration",
    "musicgen_melody": "it reads codes of sound, and AutoModelForCausalLM does not build it from its configuration",
}
"""Families that are no language models by themselves, and why."""


def build(family: str, window: int) -> Any:
    """A random model of the family in which an embedding's noise changes the output. Raises whatever transformers raises."""
    if family in UNBUILT:
        raise ValueError(UNBUILT[family])
    config = CONFIG_MAPPING[family](**options(family, window))
    if config.get_text_config(decoder=True).vocab_size != VOCAB:
        raise ValueError("its configuration does not take our sizes")
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"it has {size:,} parameters, as its configuration does not take our sizes")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.any():  # a norm or gate of zero switches off what is behind it
                parameter.normal_(0, 0.2)
            elif parameter.dim() > 1 and "conv" not in name and "A_log" not in name:
                embedding = any(part in name for part in ("embed", "wte", "wpe"))
                parameter.normal_(0, (0.03 if "gemma" in family else 0.25) if embedding else 0.2)
    return model


def options(family: str, window: int) -> dict[str, Any]:
    """The configuration of a family's tiny model."""
    return _options(CONFIG_MAPPING[family], window)


def has_window(family: str) -> bool:
    """Whether the family's configuration has a window or chunk."""
    if family in UNBUILT:
        return False
    classes = [CONFIG_MAPPING[family], *_parts(CONFIG_MAPPING[family]).values()]
    return any(name in _names(config_class) for config_class in classes for name in WINDOW_NAMES)


def _options(config_class: Any, window: int) -> dict[str, Any]:
    """Small sizes for a configuration, and for each of its parts."""
    known = _names(config_class)
    sized: dict[str, Any] = {name: size for size, names in SIZES.values() for name in names.split() if name in known}
    if not any(UNLIKE.search(name) for name in known):
        sized |= dict.fromkeys(sized.keys() & SIZES["layers"][1].split(), 2)
    sized |= {name: window for name in WINDOW_NAMES if name in known}
    common = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False, "is_decoder": True}
    common |= {"use_sliding_window": True, "max_window_layers": 2}
    sized |= {name: value for name, value in common.items() if name in known}
    sized |= {name: {"model_type": part.model_type, **_options(part, window)} for name, part in _parts(config_class).items()}
    return sized | SPECIFIC.get(config_class.model_type, {})


def _parts(config_class: Any) -> dict[str, Any]:
    """The classes of a configuration's parts, such as that of the text decoder in one for text and images."""
    names = getattr(config_class, "sub_configs", {})
    parts = {name: getattr(config_class(), name, None) for name in names} if names else {}
    return {name: type(part) for name, part in parts.items() if part is not None}


def _names(config_class: Any) -> set[str]:
    """The options of a configuration."""
    known = set(inspect.signature(config_class.__init__).parameters)
    for base in config_class.__mro__:
        known |= set(getattr(base, "__annotations__", {}))
    return known
