"""Rotary positions whose frequencies depend on the length of the prompt: one prompt must not change the numbers of another."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def length_class(config: Any, seq: int) -> int:
    """Prompts of one class have the same rotary frequencies and may share a forward pass.

    `dynamic` scaling has frequencies of its own for each length beyond the trained one, `longrope` one set up to the original
    length and another beyond. Everything else has one class.
    """
    result = 0
    for parameters in _scalings(config):
        kind = str(parameters.get("rope_type") or parameters.get("type") or "")
        original = parameters.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
        if "dynamic" in kind and seq > config.max_position_embeddings:
            result = seq
        elif kind == "longrope" and original is not None and seq > original:
            result = max(result, 1)
    return result


def most_tokens(config: Any) -> int | None:
    """The longest prompt, in tokens, that a configuration names. None if it names none, or no real one.

    `dynamic` scaling takes its factor more than the length before scaling, which is what the configuration names.
    """
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
    sizes = (getattr(config, name, None) for name in names)
    limit = next((size for size in sizes if isinstance(size, int) and size > 0), None)
    factors = [parameters.get("factor") for parameters in _scalings(config) if "dynamic" in str(parameters.get("rope_type"))]
    return limit if limit is None or not factors else int(limit * max(factor or 1 for factor in factors))


def _scalings(config: Any) -> Iterator[dict[str, Any]]:
    """The rotary parameters of the model, or of each type of its layers."""
    for name in ("rope_parameters", "rope_scaling"):
        parameters = getattr(config, name, None)
        if isinstance(parameters, dict):
            nested = [value for value in parameters.values() if isinstance(value, dict)]
            yield from nested or [parameters]


@contextmanager
def fresh_frequencies(found: Iterable[Any]) -> Iterator[None]:
    """Inside the block, `dynamic` frequencies follow the forward pass at hand and not those before it.

    transformers keeps the frequencies of the longest prompt so far, so a prompt's numbers depend on what ran before. Afterwards
    the modules are as they were.
    """
    modules = [module for module in found if "dynamic" in str(vars(module).get("rope_type", ""))]
    before = [dict(_state(module)) for module in modules]
    hooks = [module.register_forward_pre_hook(_forget_longest) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, state in zip(modules, before, strict=True):
            for name, value in state.items():
                setattr(module, name, value)


def _state(module: Any) -> list[tuple[str, Any]]:
    """What a forward pass may change in a rotary module."""
    named = [*module._buffers.items(), *vars(module).items()]
    return [(name, value) for name, value in named if name.endswith(("inv_freq", "max_seq_len_cached", "attention_scaling"))]


def _forget_longest(module: Any, _arguments: Any) -> None:
    """Put a rotary module back to the frequencies of short prompts."""
    for name in [name for name in module._buffers if name.endswith("original_inv_freq")]:
        prefix = name.removesuffix("original_inv_freq")
        device = module._buffers[f"{prefix}inv_freq"].device
        module._buffers[f"{prefix}inv_freq"] = module._buffers[name].to(device)
        setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
