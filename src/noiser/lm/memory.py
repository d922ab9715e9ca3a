"""How many bytes a prompt takes: stated before it runs, and refused on a CPU that has less. There a process that takes too much is killed.

The sums follow a transformer's own tensors, so they are estimates: docs/long.md has them beside what was measured.
"""

from collections.abc import Iterable
from typing import Any

import torch

from noiser.errors import DeviceMemoryError
from noiser.lm.devices import Budget, free_bytes, numbers_per_token
from noiser.lm.forward import MASK_ELEMENTS, layout_of
from noiser.lm.perturbation import PerturbedRows

OTHER_METHOD = "use a method without it (noiser:bound=rms, occlusion), a shorter prompt or a smaller dtype"


def clean_bytes(model: Any, tokens: int) -> int:
    """An unperturbed run: the keys and values of all layers, and the activations of one."""
    return tokens * (_cache_bytes_per_token(model) + _element(model) * numbers_per_token(model)) + _eager_bytes(model, tokens, tokens)


def attention_bytes(model: Any, tokens: int) -> int:
    """Attention weights that are read: those of one layer, their softmax in float32, and the mean over the heads."""
    return clean_bytes(model, tokens) + tokens**2 * (2 * _heads(model) * 4 + 8)


def gradient_bytes(model: Any, tokens: int) -> int:
    """A run with a gradient, of one row: the activations of every layer."""
    layers = getattr(_config(model), "num_hidden_layers", 1)
    per_layer = tokens * _element(model) * numbers_per_token(model) + _eager_bytes(model, tokens, tokens)
    return layers * per_layer


def rows_bytes(model: Any, requested: Iterable[PerturbedRows], budget: Budget, gradient_budget: Budget) -> int:
    """The largest batch of these rows: what goes through one layer, the rows' own keys and values, their mask and their logits."""
    most = 0
    for rows in requested:
        tokens, seq, limit = layout_of(rows).tokens(rows), len(rows.clean.prompt), budget if rows.weights is None else gradient_budget
        at_once = max(tokens, min(tokens * rows.rows, limit.tokens))
        layers = getattr(_config(model), "num_hidden_layers", 1) if rows.weights is not None else 1
        activations = at_once * _element(model) * numbers_per_token(model) * layers
        own = at_once * _cache_bytes_per_token(model) if tokens * seq > MASK_ELEMENTS["cpu"] else 0
        mask = min(tokens * seq, MASK_ELEMENTS["cpu"]) * (_element(model) + 3)
        most = max(most, activations + own + mask + _eager_bytes(model, min(tokens, seq), seq) * layers)
    return most + min(budget.rows, 64) * _config(model).vocab_size * (_element(model) + 12) if most else 0


def check_clean(model: Any, tokens: int, device: torch.device, *, attention: bool) -> None:
    """Raises DeviceMemoryError if a CPU has no room for an unperturbed run of so many tokens."""
    if attention:
        _check(attention_bytes(model, tokens), device, f"the attention weights of {tokens:,} tokens take", OTHER_METHOD)
    _check(clean_bytes(model, tokens), device, f"a run of {tokens:,} tokens takes", "shorten the prompt or use a smaller dtype")


def check_rows(model: Any, perturbed: Iterable[PerturbedRows], device: torch.device) -> None:
    """Raises DeviceMemoryError if a CPU has no room for one of these rows by itself."""
    longest = dict.fromkeys((False, True), 0)
    for rows in perturbed:
        gradient = rows.weights is not None
        longest[gradient] = max(longest[gradient], layout_of(rows).tokens(rows))
    if tokens := longest[True]:
        _check(gradient_bytes(model, tokens), device, f"the gradient of one row of {tokens:,} tokens takes", OTHER_METHOD)
    if tokens := longest[False]:
        _check(clean_bytes(model, tokens), device, f"one row of {tokens:,} tokens takes", "shorten the prompt or use a smaller dtype")


def fits(needed: int, device: torch.device) -> bool:
    """Whether so many bytes are free. Only a CPU is asked: a GPU says so itself when it is full, and its rows are then halved."""
    return device.type != "cpu" or needed <= free_bytes(device)


def _check(needed: int, device: torch.device, what: str, instead: str) -> None:
    if not fits(needed, device):
        raise DeviceMemoryError(f"{what} about {gigabytes(needed)}, and {gigabytes(free_bytes(device))} are free: {instead}")


def gigabytes(count: int) -> str:
    """Bytes for people: `12.5 GB`."""
    return f"{count / 1e9:.3g} GB"


def _config(model: Any) -> Any:
    return model.config.get_text_config()


def _element(model: Any) -> int:
    return next(model.parameters()).element_size()


def _heads(model: Any) -> int:
    return getattr(_config(model), "num_attention_heads", None) or 1


def _cache_bytes_per_token(model: Any) -> int:
    """Keys and values of all layers. Grouped-query attention has fewer heads of them than of queries."""
    config = _config(model)
    hidden = getattr(config, "hidden_size", None) or model.get_input_embeddings().weight.shape[-1]
    size = getattr(config, "head_dim", None) or hidden // _heads(model)
    heads = getattr(config, "num_key_value_heads", None) or _heads(model)
    return 2 * heads * size * getattr(config, "num_hidden_layers", 1) * _element(model)


def _eager_bytes(model: Any, queries: int, keys: int) -> int:
    """The weights of one layer, if the model's attention computes them as a matrix: scores, and their softmax in float32."""
    eager = model.config._attn_implementation == "eager"
    return _heads(model) * queries * keys * (_element(model) + 4) if eager else 0
