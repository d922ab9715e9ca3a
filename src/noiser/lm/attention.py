"""Attention weights as the model computes them, reduced layer by layer, so that at most one layer's are in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from noiser.errors import ModelError

AttentionReducer = Callable[[Tensor | None, Float[Tensor, "seq seq"]], Tensor]
"""Takes the result of the layers so far (None at first) and the weights of the next layer, mean over heads; row i holds what
position i attends to. Returns the new result. All tensors are on the first layer's device."""


@dataclass
class ReducedAttention:
    """The reducer's result after the layers that have run."""

    value: Tensor | None = None
    layers: int = 0


@contextmanager
def reduce_attention(model: Any, seq: int, reducer: AttentionReducer) -> Iterator[ReducedAttention]:
    """Reduce the attention weights of one sequence of `seq` tokens that is run inside the block.

    The weights of each layer are freed before the next layer runs. Raises ModelError at the end of the block if the model did
    not return the weights of every layer.
    """
    reduced = ReducedAttention()

    def take_weights(_module: Any, _arguments: Any, output: Any) -> Any:
        attended, weights, *rest = output if isinstance(output, tuple) and len(output) > 1 else (None, None)
        if not isinstance(weights, Tensor) or weights.dim() != 4 or tuple(weights.shape[-2:]) != (seq, seq):
            return None
        reduced.layers += 1
        mean = weights[0].float().mean(0)
        reduced.value = reducer(reduced.value, mean if reduced.value is None else mean.to(reduced.value.device))
        return (attended, None, *rest)

    with _eager_attention(model), _forward_hooks(_attention_modules(model), take_weights):
        yield reduced
    expected = model.config.get_text_config().num_hidden_layers
    if reduced.layers != expected or reduced.value is None:
        raise ModelError(
            f"{type(model).__name__} gave the attention weights of {reduced.layers} of its {expected} layers: its attention, "
            f"{model.config._attn_implementation!r}, does not return them. Load it with attention='eager' (--attention eager), or with "
            "from_pretrained(..., attn_implementation='eager') if you load it yourself"
        )


def _attention_modules(model: Any) -> list[Any]:
    """Modules whose class name says attention. A module that contains another such module is left out, or a layer would
    count twice."""
    names = ("attention", "attn")
    named = [module for module in model.modules() if any(name in type(module).__name__.lower() for name in names)]
    return [module for module in named if not any(inner in named for inner in list(module.modules())[1:])]


@contextmanager
def _forward_hooks(modules: list[Any], hook: Callable[..., Any]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _eager_attention(model: Any) -> Iterator[None]:
    """Eager attention inside the block, if the model allows it to be set. Afterwards every configuration is as before."""
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
