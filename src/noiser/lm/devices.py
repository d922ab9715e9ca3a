"""How much goes through the model at once, and what to do when that was too much."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from noiser.errors import DeviceMemoryError, ModelError


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


MIB = 1 << 20
TOO_LARGE = "one row of this prompt does not fit into memory, even alone: shorten the prompt or use a smaller dtype"


@dataclass
class Budget:
    """Limits of one batch. The only thing about the engine that changes while it works: it shrinks on out-of-memory."""

    tokens: int
    """Tokens through the model."""
    rows: int
    """Rows of logits, each as wide as the vocabulary."""
    length: int
    """Tokens packed into one sequence, whose attention costs the square of it."""

    def learn(self, tokens: int, rows: int) -> None:
        """Remember that a batch of this size fits after a larger one did not; whichever limit it is nearer to gives way."""
        if tokens * self.rows >= rows * self.tokens:
            self.tokens = min(self.tokens, tokens)
        else:
            self.rows = min(self.rows, rows)


def plan_budget(model: Any, placement: Placement, tokens: int | None = None) -> Budget:
    """A budget that fits the free memory: half of it for activations on a GPU, a sixteenth (512 MiB at most) on a CPU; of the
    device that has least, where there are several.

    More than some thousand tokens at once brings no speed, so the budget ends there even where memory does not.
    `tokens`, where given, is taken as it is.
    """
    config = model.config.get_text_config()
    bytes_each = next(model.parameters()).element_size()
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    per_token = bytes_each * (12 * config.hidden_size + 4 * inner)
    per_row = config.vocab_size * (bytes_each + 12)
    room = min(_room(device, placement.widest, 16, 512 * MIB) for device in placement.devices)
    most, length = (32768, 1024) if all(device.type == "cuda" for device in placement.devices) else (4096, 256)
    found = max(1, min(most, room // 2 // per_token))
    return Budget(tokens=tokens or found, rows=max(1, room // 2 // per_row), length=length)


def plan_gradient_budget(model: Any, placement: Placement, plain: Budget, tokens: int | None = None) -> Budget:
    """The same where gradients are taken, so that every layer's activations are kept, on the device of the layer: half of what
    is free on a GPU, an eighth (2 GiB at most) on a CPU."""
    config = model.config.get_text_config()
    bytes_each = next(model.parameters()).element_size()
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    per_token = bytes_each * (12 * config.hidden_size + 4 * inner) * config.num_hidden_layers
    per_row = config.vocab_size * (bytes_each + 20)
    rooms = {device: _room(device, placement.visiting, 8, 2048 * MIB) for device in placement.devices}
    total = max(1, sum(placement.weights.values()))
    most = min(room // 2 * total // max(1, placement.weights[device]) // per_token for device, room in rooms.items())
    found = max(1, min(plain.tokens, most))
    return Budget(tokens=tokens or found, rows=max(1, min(rooms.values()) // 2 // per_row), length=plain.length)


def why_no_gradient(placement: Placement) -> str:
    """Empty where gradients can be taken. They keep every weight that a layer computed with, so offloading saves them nothing."""
    for device, size in placement.visiting.items():
        free = free_bytes(device)
        if size > free // 2:
            return (
                f"gradients need all weights in place at once, and {size / 1e9:.3g} GB of this model's are offloaded, where {device} has "
                f"{free / 1e9:.3g} GB free, half of them for weights: use a method without gradients (noiser, occlusion), more or "
                "larger devices, or a smaller dtype"
            )
    return ""


def check_gradient(why_not: str) -> None:
    """Raises ModelError where there is a reason why no gradient can be taken."""
    if why_not:
        raise ModelError(why_not)


def _room(device: torch.device, occupied: dict[torch.device, int], share: int, most: int) -> int:
    """What of a device's free memory activations may take; `share` and `most` hold for a CPU. Offloaded weights come first."""
    free = max(0, free_bytes(device) - occupied.get(device, 0))
    return free // 2 if device.type == "cuda" else min(free // share, most)


def free_bytes(device: torch.device) -> int:
    """Memory that can be had on `device` now, what torch holds without using it included."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return psutil.virtual_memory().available


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's memory is full; a CPU and Apple's GPU say so in a plain RuntimeError."""
    said = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in said)


@contextmanager
def unify_memory_errors() -> Iterator[None]:
    """Turns out-of-memory, in whatever words the device says it, into DeviceMemoryError; anything else passes."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise DeviceMemoryError(TOO_LARGE) from error
        raise


def peak_bytes(devices: Sequence[torch.device]) -> int:
    """On GPUs the most memory allocated since `reset_peak`, each one's own most added up; elsewhere the process's highest
    resident size so far."""
    gpus = [device for device in devices if device.type == "cuda"]
    if gpus:
        return sum(torch.cuda.max_memory_allocated(device) for device in gpus)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak(devices: Sequence[torch.device]) -> None:
    """Start a new measurement on every device that allows one."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
