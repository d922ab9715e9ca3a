"""What a model will be once it is loaded: its name, revision and number format, before any weights are read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from noiser.lm.load import explained, hub_answers, locate, pick_device, pick_dtype, quiet_loading


@dataclass(frozen=True)
class Identity:
    """What changes a model's numbers."""

    name: str
    revision: str
    dtype: str


def identify(
    model: str, *, revision: str | None = None, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False
) -> Identity:
    """The name and revision that `load` would give the model, and the dtype it would have. Reads a hub model's configuration,
    not its weights. Raises ModelError like `load`."""
    with quiet_loading():
        path, name, found = locate(model)
    offline = not Path(path).exists() and not hub_answers()
    with explained(name, trust_remote_code):
        config: Any = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code, local_files_only=offline)
    chosen = pick_dtype(dtype, pick_device(device))
    if chosen == "auto":
        chosen = getattr(config.get_text_config(), "dtype", None) or torch.float32
    return Identity(name, found or getattr(config, "_commit_hash", None) or "unknown", str(chosen).removeprefix("torch."))
