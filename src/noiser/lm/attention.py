"""Attention weights as the model computes them, layer by layer, none kept longer than needed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from noiser.errors import ModelError

AttentionReducer = Callable[[Tensor | None, Float[Tensor, "seq seq"]], Tensor]
"""What is made of the layers so far (None at first) and the next one's weights, mean over heads: rows attend to columns. All
of them on the first layer's device."""


@dataclass
class ReducedAttention:
    """What came of the layers."""

    value: Tensor | None = None
    layers: int = 0


@contextmanager
def folding(model: Any, seq: int, fold: AttentionReducer | None) -> Iterator[ReducedAttention]:
    """Run one sequence of `seq` tokens inside: every layer's weights are folded, and its heads let go before the next runs.

    Without a fold nothing is done. Raises ModelError at the end where the model did not return its weights.
    """
    found = ReducedAttention()
    if fold is None:
        yield found
        return

    def take(_module: Any, _arguments: Any, output: Any) -> Any:
        attended, weights, *rest = output if isinstance(output, tuple) and len(output) > 1 else (None, None)
        if not isinstance(weights, Tensor) or weights.dim() != 4 or tuple(weights.shape[-2:]) != (seq, seq):
            return None
        found.layers += 1
        mean = weights[0].float().mean(0)
        found.value = fold(found.value, mean if found.value is None else mean.to(found.value.device))
        return (attended, None, *rest)

    with _eager(model), _hooked(_innermost(model), take):
        yield found
    expected = model.config.get_text_config().num_hidden_layers
    if found.layers != expected or found.value is None:
        raise ModelError(
            f"{type(model).__name__} gave the attention weights of {found.layers} of its {expected} layers: its attention, "
            f"{model.config._attn_implementation!r}, does not return them. Load it with attention='eager' (--attention eager), or with "
            "from_pretrained(..., attn_implementation='eager') if you load it yourself"
        )


def _innermost(model: Any) -> list[Any]:
    """Modules that may return weights: attention by name, without another such module inside (which would count twice)."""
    names = ("attention", "attn")
    named = [module for module in model.modules() if any(name in type(module).__name__.lower() for name in names)]
    return [module for module in named if not any(inner in named for inner in list(module.modules())[1:])]


@contextmanager
def _hooked(modules: list[Any], hook: Callable[..., Any]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Eager attention inside, where the model lets it be set; every configuration as before afterwards."""
    key = "_attn_implementation_internal"
    configs = {id(config): config for module in model.modules() if hasattr(config := getattr(module, "config", None), key)}
    before = [(config, getattr(config, key)) for config in configs.values()]
    try:
        if getattr(model, "_can_set_attn_implementation", lambda: False)():
            model.set_attn_implementation("eager")
        yield
    finally:
        for config, implementation in before:
            setattr(config, key, implementation)
