"""Protect a model, its tokenizer and the global random generators from code that changes them."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from typing import Any

import numpy as np
import torch

from noiser.lm.devices import has_accelerate_hook
from noiser.lm.quantized import stored_weights
from noiser.lm.rotary import fresh_frequencies


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Evaluation mode and no gradients inside the block. Afterwards each module has its own mode again."""
    modules = list(model.modules())
    training = [module for module in modules if module.training]
    try:
        for module in training:
            module.training = False
        with torch.inference_mode(False), torch.no_grad(), fresh_frequencies(modules), stored_weights(modules):
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def restore_after(model: Any, tokenizer: Any) -> Iterator[None]:
    """Undo changes to the model and the tokenizer when the block ends, also after an exception.

    Restored are the hooks, submodules, training modes and other attributes of every module, the configurations (attention
    implementation, pad token), the tokenizer (special tokens, padding, truncation), gradients and `requires_grad`.
    Weights are not copied: a write into them is not undone. A model that accelerate has distributed over devices is not
    moved: inside the block its `to` does nothing.
    """
    with ExitStack() as stack:
        for tensor in (*model.parameters(), *model.buffers()):
            stack.callback(_restore_gradient, tensor, tensor.requires_grad, tensor.grad)
        for owner in (*model.modules(), *_configurations(model), tokenizer):
            stack.callback(_attribute_restorer(owner))
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            stack.callback(_restore_backend, backend, backend.padding, backend.truncation)
        stack.enter_context(stored_weights(model.modules()))
        if has_accelerate_hook(model):
            model.to = lambda *_, **__: model
        yield


@contextmanager
def drawing_from(seed: int, *devices: torch.device) -> Iterator[None]:
    """Inside the block, the global generators of Python, NumPy, torch and the devices start from `seed`. Afterwards each
    continues where it was."""
    python, numpy = random.getstate(), np.random.get_state()
    gpus = [device for device in devices if device.type == "cuda"]
    with torch.random.fork_rng(gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu.index or 0].manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _configurations(model: Any) -> list[Any]:
    """Every configuration object of the model and its parts, each once."""
    configurations: dict[int, Any] = {}
    waiting = [getattr(module, name, None) for module in model.modules() for name in ("config", "generation_config")]
    while waiting:
        config = waiting.pop()
        if config is not None and id(config) not in configurations and hasattr(config, "__dict__"):
            configurations[id(config)] = config
            waiting += [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    return list(configurations.values())


def _attribute_restorer(owner: Any) -> Callable[[], None]:
    """A function that restores the attributes of an object as they are now, with the contents of dicts, lists and sets."""
    attributes = vars(owner)
    before = dict(attributes)
    contents = [(value, copy(value)) for value in before.values() if isinstance(value, dict | list | set)]

    def restore() -> None:
        for value, content in contents:
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(content)
        attributes.clear()
        attributes.update(before)

    return restore


def _restore_gradient(tensor: torch.Tensor, requires_grad: bool, gradient: torch.Tensor | None) -> None:
    tensor.grad = gradient
    if tensor.requires_grad != requires_grad:
        tensor.requires_grad_(requires_grad)


def _restore_backend(backend: Any, padding: dict[str, Any] | None, truncation: dict[str, Any] | None) -> None:
    """A call to a fast tokenizer changes the padding and truncation of its backend."""
    backend.no_padding() if padding is None else backend.enable_padding(**padding)
    backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
