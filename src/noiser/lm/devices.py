"""Where a model computes, how much goes through it at once, and what happens if that does not fit into memory."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from noiser.errors import DeviceMemoryError, ModelError
from noiser.lm.checkpoint import keeps_logits

MIB = 1 << 20
TOO_LARGE = "one row of this prompt does not fit into memory, even alone: shorten the prompt or use a smaller dtype"


@dataclass(frozen=True)
class Placement:
    """The devices that a model computes on. Offloaded weights wait elsewhere (CPU, disk) and are loaded for each call."""

    home: torch.device
    """The device of the input embeddings. The engine keeps inputs, logits and gradients there. Keys and values stay with their
    layer."""
    weights: dict[torch.device, int]
    """Bytes of weights that each device computes with, offloaded ones included. The home comes first."""
    visiting: dict[torch.device, int]
    """Bytes of offloaded weights for each device. A gradient needs all of them at once."""
    widest: dict[torch.device, int]
    """Bytes of the largest offloaded module for each device. Without a gradient no more is loaded at the same time."""

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Every device that computes, the home first."""
        return tuple(self.weights)


def placement_of(model: Any) -> Placement:
    """Read the placement from the weights, and from accelerate's hooks if weights are offloaded.

    Raises ModelError if nothing would load an offloaded weight.
    """
    embedding = model.get_input_embeddings()
    modules = list(_computing_modules(model, None))
    embedding_device = next((device for module, device, _, _ in modules if module is embedding), embedding.weight.device)
    home = _checked_device(model, embedding_device)
    weights, visiting, widest = {home: 0}, dict[torch.device, int](), dict[torch.device, int]()
    for _, module_device, size, offloaded in modules:
        device = _checked_device(model, module_device)
        weights[device] = weights.get(device, 0) + size
        if offloaded:
            visiting[device] = visiting.get(device, 0) + size
            widest[device] = max(widest.get(device, 0), size)
    return Placement(home, weights, visiting, widest)


def has_accelerate_hook(model: Any) -> bool:
    """Whether accelerate moves the inputs and outputs of the whole model."""
    return getattr(model, "_hf_hook", None) is not None


def _computing_modules(module: Any, parent_device: torch.device | None) -> Iterator[tuple[Any, torch.device, int, bool]]:
    """For every module with weights of its own: the module, its device, its bytes, and whether they are offloaded."""
    device = _execution_device(module) or parent_device
    sizes: dict[torch.device, int] = {}
    for weight in module.parameters(recurse=False):
        sizes[weight.device] = sizes.get(weight.device, 0) + weight.numel() * weight.element_size()
    for weight_device, size in sizes.items():
        offloaded = weight_device.type == "meta"
        yield module, (device or weight_device) if offloaded else weight_device, size, offloaded
    for child in module.children():
        yield from _computing_modules(child, device)


def _execution_device(module: Any) -> torch.device | None:
    """The device that accelerate's hook on this module names. None without a hook."""
    hook = getattr(module, "_hf_hook", None)
    devices = [getattr(part, "execution_device", None) for part in getattr(hook, "hooks", [hook])]
    named = [device for device in devices if device is not None]
    return torch.empty(0, device=named[-1]).device if named else None


def _checked_device(model: Any, device: torch.device) -> torch.device:
    if device.type == "meta":
        raise ModelError(
            f"{type(model).__name__} has weights on the device 'meta', which holds no numbers, and no hook of accelerate that loads them. "
            "Load it with from_pretrained(..., device_map='auto'), or give its name or folder"
        )
    return device


@dataclass
class Budget:
    """Limits of one batch. It is the only state of the engine that changes while it works: it shrinks on out-of-memory."""

    tokens: int
    """Tokens through the model."""
    rows: int
    """Rows of logits, each as wide as the vocabulary."""
    length: int
    """Tokens packed into one sequence. Attention costs the square of it."""

    def learn(self, tokens: int, rows: int) -> None:
        """Note that a batch of this size fits after a larger one did not. The limit that it is nearer to shrinks."""
        if tokens * self.rows >= rows * self.tokens:
            self.tokens = min(self.tokens, tokens)
        else:
            self.rows = min(self.rows, rows)


def plan_budget(model: Any, placement: Placement, tokens: int | None = None) -> Budget:
    """A budget that fits the free memory.

    Activations may take half of a GPU's free memory, or a sixteenth of a CPU's (at most 512 MiB). With several devices the
    tightest one decides. More than some thousand tokens at once bring no speed, so the budget ends there. A model that computes
    the logits of every position has as few tokens as rows. `tokens`, if given, replaces the token limit.
    """
    config = model.config.get_text_config()
    element_bytes = next(model.parameters()).element_size()
    per_token = element_bytes * numbers_per_token(model)
    per_row = config.vocab_size * (element_bytes + 12)
    free = min(_activation_bytes(device, placement.widest, 16, 512 * MIB) for device in placement.devices)
    most, length = (32768, 1024) if all(device.type == "cuda" for device in placement.devices) else (4096, 256)
    rows = max(1, free // 2 // per_row)
    planned = max(1, min(most, free // 2 // per_token, most if keeps_logits(model) else rows))
    return Budget(tokens=tokens or planned, rows=rows, length=length)


def plan_gradient_budget(model: Any, placement: Placement, plain: Budget, tokens: int | None = None) -> Budget:
    """The budget for gradients, which keep the activations of every layer on the layer's device.

    Activations may take half of a GPU's free memory, or an eighth of a CPU's (at most 2 GiB).
    """
    config = model.config.get_text_config()
    element_bytes = next(model.parameters()).element_size()
    per_token = element_bytes * numbers_per_token(model) * getattr(config, "num_hidden_layers", 1)
    per_row = config.vocab_size * (element_bytes + 20)
    free = {device: _activation_bytes(device, placement.visiting, 8, 2048 * MIB) for device in placement.devices}
    total = max(1, sum(placement.weights.values()))
    most = min(size // 2 * total // max(1, placement.weights[device]) // per_token for device, size in free.items())
    rows = max(1, min(free.values()) // 2 // per_row)
    planned = max(1, min(plain.tokens, most, plain.tokens if keeps_logits(model) else rows))
    return Budget(tokens=tokens or planned, rows=rows, length=plain.length)


def numbers_per_token(model: Any) -> int:
    """About how many numbers the widest layer holds for one token. Some configurations name a size for each layer (Gemma 3n)."""
    config = model.config.get_text_config()
    hidden = getattr(config, "hidden_size", None) or model.get_input_embeddings().weight.shape[-1]
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    return 12 * hidden + 4 * (max(inner) if isinstance(inner, list | tuple) else inner)


def why_no_gradient(placement: Placement) -> str:
    """The reason why gradients are impossible, or an empty text.

    A gradient keeps every weight that a layer computed with, so offloading saves no memory.
    """
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
    """Raises ModelError if there is a reason why gradients are impossible."""
    if why_not:
        raise ModelError(why_not)


def _activation_bytes(device: torch.device, occupied: dict[torch.device, int], share: int, most: int) -> int:
    """The bytes that activations may take on a device, after its offloaded weights.

    On a CPU: 1 / `share` of the free memory, at most `most`.
    """
    free = max(0, free_bytes(device) - occupied.get(device, 0))
    return free // 2 if device.type == "cuda" else min(free // share, most)


def free_bytes(device: torch.device) -> int:
    """Memory that is available on `device` now, with memory that torch holds without using it."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return psutil.virtual_memory().available


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's memory is full. A CPU and Apple's GPU raise a plain RuntimeError."""
    messages = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(message in str(error) for message in messages)


@contextmanager
def unify_memory_errors() -> Iterator[None]:
    """Turn every kind of out-of-memory error into DeviceMemoryError. Other exceptions pass through."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise DeviceMemoryError(TOO_LARGE) from error
        raise


def peak_bytes(devices: Sequence[torch.device]) -> int:
    """The highest memory use. On GPUs: the most that was allocated since `reset_peak`, summed over the devices. Elsewhere: the
    highest resident size of the process so far."""
    gpus = [device for device in devices if device.type == "cuda"]
    if gpus:
        return sum(torch.cuda.max_memory_allocated(device) for device in gpus)
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def held_bytes(devices: Sequence[torch.device]) -> int:
    """What is in use now, counted as `peak_bytes` counts."""
    gpus = [device for device in devices if device.type == "cuda"]
    return sum(torch.cuda.memory_allocated(device) for device in gpus) if gpus else psutil.Process().memory_info().rss


def reset_peak(devices: Sequence[torch.device]) -> None:
    """Start a new measurement of the peak on every GPU."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)


def slow_bfloat16(dtype: torch.dtype, device: torch.device, capabilities: Mapping[str, Any] | None = None) -> str:
    """One line if bfloat16 runs on a processor without instructions for it; empty if not, and where nobody knows.

    capabilities  what the processor can do, by name; asked of torch by default.
    """
    if dtype != torch.bfloat16 or device.type != "cpu":
        return ""
    found = getattr(torch.cpu, "get_capabilities", dict)() if capabilities is None else capabilities
    if not found or any("bf16" in name and can for name, can in found.items()):
        return ""
    return "this processor has no instructions for bfloat16: float32 is faster here, and more precise"
