"""For code that is not ours: whatever it does to a model, its tokenizer and the random generators is undone after."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from typing import Any

import numpy as np
import torch

from noiser.lm.devices import hooked


@contextmanager
def restore_after(model: Any, tokenizer: Any) -> Iterator[None]:
    """Inside, others may set what they like; after, also after an exception, all is as it was.

    That is: hooks, submodules, training modes and any other attribute of every module, the configurations (attention
    implementation, pad token), the tokenizer (special tokens, padding, truncation), gradients and `requires_grad`.
    Weights themselves are not copied: code that writes into them is not undone. A model that accelerate has distributed
    over devices stays where it is: inside, its `to` does nothing.
    """
    with ExitStack() as after:
        for tensor in (*model.parameters(), *model.buffers()):
            after.callback(_restore_gradient, tensor, tensor.requires_grad, tensor.grad)
        for owner in (*model.modules(), *_configurations(model), tokenizer):
            after.callback(_attributes_of(owner))
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            after.callback(_restore_backend, backend, backend.padding, backend.truncation)
        if hooked(model):
            model.to = lambda *_, **__: model
        yield


@contextmanager
def drawing_from(seed: int, *devices: torch.device) -> Iterator[None]:
    """Inside, the global generators of Python, NumPy and torch, those of the devices included, start from `seed`; after, each
    goes on where it was."""
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
    """Every configuration object that the model or a part of it holds, each once."""
    found: dict[int, Any] = {}
    waiting = [getattr(module, name, None) for module in model.modules() for name in ("config", "generation_config")]
    while waiting:
        config = waiting.pop()
        if config is not None and id(config) not in found and hasattr(config, "__dict__"):
            found[id(config)] = config
            waiting += [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    return list(found.values())


def _attributes_of(owner: Any) -> Callable[[], None]:
    """What puts back the attributes of an object as they are now, the contents of dicts, lists and sets included."""
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


def _restore_gradient(tensor: torch.Tensor, wanted: bool, gradient: torch.Tensor | None) -> None:
    tensor.grad = gradient
    if tensor.requires_grad != wanted:
        tensor.requires_grad_(wanted)


def _restore_backend(backend: Any, padding: dict[str, Any] | None, truncation: dict[str, Any] | None) -> None:
    """To call a fast tokenizer sets the padding and truncation of its backend."""
    backend.no_padding() if padding is None else backend.enable_padding(**padding)
    backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
