"""Whether the weight files hold what the model needs: no more, no less, in the right shapes."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from noiser.errors import ModelError
from noiser.lm.checkpoint import read_json

Shapes = Mapping[str, tuple[int, ...]]
LAYERS = re.compile(r"(num_(hidden_|decoder_|encoder_)?layers|n_layers?|layer_num|depth)$")
SIZES = re.compile(
    r"(vocab_size|hidden_size|intermediate_size|ffn_dim|n_embd|n_inner|d_model|d_ff|word_embed_proj_dim|embedding_size"
    r"|num_(local_|routed_)?experts|n_routed_experts|num_(attention|key_value|kv)_heads|n_heads?|head_dim)$"
)
MOST_LAYERS = 2_000
OLD_BUFFERS = re.compile(r"(masked_bias|rotary_emb\.inv_freq|attn\.bias|attention\.bias)$")
"""Constants that older versions of transformers saved with the weights. No model reads them today."""


def tensor_shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """The tensors in these safetensors files, from the headers only. Raises ModelError if a header is damaged."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                shapes.update((name, tuple(tensors.get_slice(name).get_shape())) for name in tensors.keys())  # noqa: SIM118  (no mapping)
        except (SafetensorError, OSError, ValueError, MemoryError) as error:
            raise ModelError(f"{file} is not a safetensors file: {error}") from error
    return shapes


def check_sizes(folder: Path, files: Collection[Path], *, trust_remote_code: bool = False) -> None:
    """Raises ModelError if the folder's configuration describes a larger model than its weight files hold.

    It is called before the model is built, so a configuration cannot fill the memory or take hours.
    """
    shapes = tensor_shapes(files)
    check_configured_sizes(read_json(folder / "config.json"), shapes, str(folder / "config.json"))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    check_elements(config, shapes, str(folder), trust_remote_code=trust_remote_code)


def check_configured_sizes(config: Mapping[str, Any], shapes: Shapes, name: str) -> None:
    """Raises ModelError if there are more layers than tensors, or a size that is larger than every dimension of every tensor."""
    largest = 8 * max((max(shape, default=1) for shape in shapes.values()), default=0)  # eight numbers may be packed into one
    for key, value in _integers(config):
        if LAYERS.search(key) and value > min(len(shapes), MOST_LAYERS):
            raise ModelError(
                f"{name} asks for {key}={value:,}, but the weights hold {len(shapes):,} tensors (at most {MOST_LAYERS:,} layers)"
            )
        if SIZES.search(key) and value > largest:
            raise ModelError(f"{name} asks for {key}={value:,}, but no tensor in the weights is that large")


def _integers(config: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, int]]:
    """The integers of a configuration and of the configurations in it, with their keys. Vision and audio parts are left out."""
    for key, value in config.items():
        if isinstance(value, Mapping) and depth < 4:
            yield from _integers(value, depth + 1)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield key, value


def check_elements(config: Any, shapes: Shapes, name: str, *, trust_remote_code: bool = False) -> None:
    """Build the model without memory (torch's `meta` device). Raises ModelError if it needs many more numbers than the files hold."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    needed = sum(parameter.numel() for parameter in model.parameters())
    held = sum(prod(shape) for shape in shapes.values())
    if needed > held * (16 if is_quantized(config) else 2):
        raise ModelError(f"{name} describes a model of {needed:,} parameters, but its weight files hold {held:,} numbers")


def is_quantized(config: Any) -> bool:
    """Whether the weights are stored in a packed form, with scales beside them."""
    return getattr(config, "quantization_config", None) is not None


def check_loaded(loading: Mapping[str, Any], name: str, *, quantized: bool = False) -> None:
    """Raises ModelError if a tensor is missing, unexpected or of another shape. `loading` is transformers' loading information.

    Transformers itself leaves out tied weights, constants that are not saved, and what the model's class says it can ignore.
    """
    unexpected = [] if quantized else [key for key in loading.get("unexpected_keys", ()) if not OLD_BUFFERS.search(key)]
    mismatched = [f"{key} ({tuple(found)}, not {tuple(wanted)})" for key, found, wanted in loading.get("mismatched_keys", ())]
    faults = {
        "lack": loading.get("missing_keys", ()),
        "hold tensors that the model does not have:": unexpected,
        "hold tensors of another shape than the model's:": mismatched,
        "cannot be read:": loading.get("error_msgs", ()),
    }
    said = [f"{fault} {_first(names)}" for fault, names in faults.items() if names]
    if said:
        raise ModelError(f"the weights of {name} do not fit its configuration: they {'; they '.join(said)}")


def _first(names: Collection[str], count: int = 3) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(sorted(names)[:count]) + more
