"""Attention weights as the model computes them, layer by layer, none kept longer than needed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from noiser.errors import ModelError
from noiser.lm.prefix import Clean

Fold = Callable[[Tensor | None, Float[Tensor, "seq seq"]], Tensor]
"""What is made of the layers so far (None at first) and the next one's weights, mean over heads: rows attend to columns."""
TOLERANCE = 0.02
"""How far the distribution of the run that gives weights away may lie from the clean run's, in total variation."""


def attention_maps(model: Any, clean: Clean, fold: Fold) -> Tensor:
    """Fold every layer's weights, mean over heads, float32. A layer's heads are let go before the next layer runs.

    Raises ModelError where the model does not return weights, or computes something else when it does.
    """
    folded: list[Tensor | None] = [None]
    layers = 0

    def take(_module: Any, _arguments: Any, output: Any) -> Any:
        nonlocal layers
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, Tensor) or weights.dim() != 4 or weights.shape[-2:] != 2 * (len(clean.prompt),):
            return None
        layers += 1
        folded[0] = fold(folded[0], weights[0].float().mean(0))
        return (output[0], None, *output[2:])

    with _eager(model), _hooked(_innermost(model), take):
        logits = model(inputs_embeds=clean.embeds[None], use_cache=False, logits_to_keep=1).logits[0, -1].float()
    expected = model.config.get_text_config().num_hidden_layers
    if layers != expected or folded[0] is None:
        raise ModelError(
            f"{type(model).__name__} gave the attention weights of {layers} of its {expected} layers: its attention, "
            f"{model.config._attn_implementation!r}, does not return them. Load it with attention='eager' (--attention eager), or with "
            "from_pretrained(..., attn_implementation='eager') if you load it yourself"
        )
    gap = float((logits.softmax(-1) - clean.probs).abs().sum() / 2)
    if not gap <= TOLERANCE:
        raise ModelError(f"{type(model).__name__} predicts something else (by {gap:.2g}) with the attention that returns its weights")
    return folded[0]


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
