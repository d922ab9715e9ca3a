"""Every causal family of transformers as a tiny random model, and what the plain algorithms give on it: whole forward passes only."""

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import noiser
from noiser.methods.noiser.noise import paper_noise
from tests.conftest import byte_tokenizer

VOCAB = 300
MOST_PARAMETERS = 3_000_000
LENGTHS = (5, 12, 40, 100, 300)
WINDOWS = {"small": 8, "large": 128}
PLACES = 24
"""How many tokens of a long prompt are compared."""
FAMILIES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

SIZES = {
    "hidden": (64, "hidden_size n_embd d_model embed_dim word_embed_proj_dim attention_hidden_size lru_width"),
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
WINDOW_NAMES = ("sliding_window", "attention_chunk_size", "window_size", "local_attention", "attention_window_size")
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
    "deepseek_v32": {"qk_rope_head_dim": 8, "index_head_dim": 16},
    "glm_moe_dsa": {"qk_rope_head_dim": 8, "index_head_dim": 16},
    "xmod": {"default_language": "en_XX"},
    "xlnet": {"d_inner": 96},
    "mpt": {"max_seq_len": 512},
    "dbrx": {"max_seq_len": 512},
}
"""What a family needs besides, to be built and run at all."""


@dataclass(frozen=True)
class Outcome:
    """What became of one family under one window."""

    family: str
    window: str
    kind: str
    """`equal`, `refused`, `not built` (transformers itself fails), or `WRONG`."""
    detail: str = ""
    layouts: str = ""


def build(family: str, window: int) -> Any:
    """A random model of the family in which an embedding's noise changes the output. Raises whatever transformers raises."""
    known = _options(family)
    options: dict[str, Any] = {name: size for size, names in SIZES.values() for name in names.split() if name in known}
    options |= {name: window for name in WINDOW_NAMES if name in known}
    common = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False, "is_decoder": True}
    options |= {name: value for name, value in common.items() if name in known} | SPECIFIC.get(family, {})
    config = CONFIG_MAPPING[family](**options)
    if config.get_text_config().vocab_size != VOCAB:
        raise ValueError("it is one of several parts, whose sizes its configuration does not take")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) < MOST_PARAMETERS, family
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "conv" not in name and "A_log" not in name:
                embedding = any(part in name for part in ("embed", "wte", "wpe"))
                parameter.normal_(0, (0.03 if "gemma" in family else 0.25) if embedding else 0.2)
    return model


def has_window(family: str) -> bool:
    """Whether the family's configuration has a window or chunk."""
    return any(name in _options(family) for name in WINDOW_NAMES)


def _options(family: str) -> set[str]:
    known = set(inspect.signature(CONFIG_MAPPING[family].__init__).parameters)
    for base in CONFIG_MAPPING[family].__mro__:
        known |= set(getattr(base, "__annotations__", {}))
    return known


def prompts() -> dict[int, tuple[int, ...]]:
    """One prompt of each length, of ids that are not special."""
    rng = np.random.default_rng(7)
    return {length: tuple(rng.integers(5, 255, length).tolist()) for length in LENGTHS}


def _probs(model: Any, rows: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(inputs_embeds=part.clone(), use_cache=False).logits[:, -1].float().softmax(-1) for part in rows.split(8)])


def plain_scores(model: Any, ids: tuple[int, ...], method: str) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that are compared, and their scores from whole forward passes: occlusion, or Noiser at the scale 1."""
    places = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), PLACES)).astype(int))
    with torch.no_grad():
        embeds = model.get_input_embeddings()(torch.tensor(ids))
    clean = _probs(model, embeds[None])[0]
    target, scores = int(clean.argmax()), []
    for place in places:
        rows = embeds[None].clone()
        if method == "occlusion":
            rows[:, place] = 0
        else:
            noise = paper_noise(3, embeds.shape[1], 0, ids).to(embeds)
            rows = rows.repeat(3, 1, 1)
            rows[:, place] += noise.reshape(3, -1)
        scores.append(float(clean[target] - _probs(model, rows)[:, target].mean()))
    return places, np.array(scores)


METHODS = {"occlusion": ("occlusion", LENGTHS), "noiser": ("noiser:bound=none+samples=3", LENGTHS[:3])}
"""Each method with its label, and the lengths that it explains."""


def _difference(attribution: Any, plain: tuple[np.ndarray, np.ndarray]) -> float:
    places, scores = plain
    return float(np.abs(attribution.scores[0][places] - scores).max() / np.abs(scores).max())


def compare(family: str, window: str, lengths: tuple[int, ...] = LENGTHS) -> Outcome:
    """Explain prompts of all lengths alone, short before long and long before short, and two together."""
    try:
        model = build(family, WINDOWS[window])
        plain = {
            (method, n): plain_scores(model, prompts()[n], method) for method, (_, own) in METHODS.items() for n in own if n in lengths
        }
    except Exception as error:  # noqa: BLE001  (whatever transformers raises on its own model)
        return Outcome(family, window, "not built", f"{type(error).__name__}: {error}".splitlines()[0][:160])
    worst, layouts = (0.0, ""), set()
    try:
        for order in (lengths, lengths[::-1]):
            lm = noiser.LanguageModel(model, byte_tokenizer())
            for length in order:
                for method, label in [(method, label) for method, (label, taken) in METHODS.items() if length in taken]:
                    attribution = noiser.attribute(lm, prompts()[length], label)
                    layouts.add(attribution.notes["layout"].split(":")[0])
                    worst = max(worst, (_difference(attribution, plain[method, length]), f"{method}, {length} tokens"))
        lm = noiser.LanguageModel(model, byte_tokenizer())
        for pair in ((lengths[0], lengths[-1]), (lengths[-1], lengths[0])):
            for length, attribution in zip(pair, noiser.attribute_many(lm, [prompts()[n] for n in pair], "occlusion"), strict=True):
                worst = max(worst, (_difference(attribution, plain["occlusion", length]), f"{length} tokens among {pair}"))
    except noiser.NoiserError as error:
        return Outcome(family, window, "refused", str(error))
    kind = "equal" if worst[0] <= 1e-4 else "WRONG"
    return Outcome(family, window, kind, f"{worst[0]:.0e} ({worst[1]})", " and ".join(sorted(layouts)))
