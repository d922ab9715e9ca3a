"""Where a model's weights are and where they compute: on one device, or on several by accelerate's hooks, or offloaded."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from noiser.errors import ModelError


@dataclass(frozen=True)
class Placement:
    """The devices that a model computes on. Offloaded weights wait elsewhere (CPU, disk) and visit theirs for each call."""

    home: torch.device
    """Where embeddings come out. What the engine keeps is there: inputs, logits, gradients; keys and values stay with their layer."""
    weights: dict[torch.device, int]
    """Bytes of weights that each device computes with, offloaded ones included; the home comes first."""
    visiting: dict[torch.device, int]
    """Those that are offloaded. A gradient needs all of them at once."""
    widest: dict[torch.device, int]
    """The most of them that one module has, so that are there at the same time without a gradient."""

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Each one that computes, the home first."""
        return tuple(self.weights)


def placement_of(model: Any) -> Placement:
    """Read off the weights, and off the hooks where the weights are offloaded. Raises ModelError where nothing loads them."""
    embedding = model.get_input_embeddings()
    found = list(_computing(model, None))
    own = next((device for module, device, _, _ in found if module is embedding), embedding.weight.device)
    home = _checked(model, own)
    weights, visiting, widest = {home: 0}, dict[torch.device, int](), dict[torch.device, int]()
    for _, device, size, offloaded in found:
        where = _checked(model, device)
        weights[where] = weights.get(where, 0) + size
        if offloaded:
            visiting[where] = visiting.get(where, 0) + size
            widest[where] = max(widest.get(where, 0), size)
    return Placement(home, weights, visiting, widest)


def hooked(model: Any) -> bool:
    """Whether accelerate moves what goes into the model as a whole and what comes out."""
    return getattr(model, "_hf_hook", None) is not None


def _computing(module: Any, above: torch.device | None) -> Iterator[tuple[Any, torch.device, int, bool]]:
    """Of every module with weights of its own: the module, where it computes, their bytes, whether they are offloaded."""
    device = _execution_device(module) or above
    sizes: dict[torch.device, int] = {}
    for weight in module.parameters(recurse=False):
        sizes[weight.device] = sizes.get(weight.device, 0) + weight.numel() * weight.element_size()
    for where, size in sizes.items():
        offloaded = where.type == "meta"
        yield module, (device or where) if offloaded else where, size, offloaded
    for child in module.children():
        yield from _computing(child, device)


def _execution_device(module: Any) -> torch.device | None:
    """Where accelerate's hook on this module has it compute; None without one."""
    hook = getattr(module, "_hf_hook", None)
    asked = [getattr(each, "execution_device", None) for each in getattr(hook, "hooks", [hook])]
    named = [device for device in asked if device is not None]
    return torch.empty(0, device=named[-1]).device if named else None


def _checked(model: Any, device: torch.device) -> torch.device:
    if device.type == "meta":
        raise ModelError(
            f"{type(model).__name__} has weights on the device 'meta', which holds no numbers, and no hook of accelerate that loads them. "
            "Load it with from_pretrained(..., device_map='auto'), or give its name or folder"
        )
    return device
