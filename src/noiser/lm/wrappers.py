"""Models inside other objects: compiled ones, adapters of PEFT, parallel ones. The engine runs the model inside."""

from typing import Any

from torch.nn import DataParallel
from torch.nn.parallel import DistributedDataParallel

from noiser.errors import ModelError

UNFIT = {
    "PROMPT_TUNING": "puts tokens of its own before the prompt",
    "MULTITASK_PROMPT_TUNING": "puts tokens of its own before the prompt",
    "P_TUNING": "puts tokens of its own before the prompt",
    "PREFIX_TUNING": "puts keys and values of its own before the prompt",
    "CPT": "puts tokens of its own before the prompt",
    "CARTRIDGE": "puts keys and values of its own before the prompt",
    "ADAPTION_PROMPT": "puts keys and values of its own before the prompt",
    "XLORA": "runs the model twice to weigh its adapters",
    "POLY": "needs the number of a task",
}
"""Kinds of adapters that change more than weights, and how."""


def unwrap(model: Any) -> Any:
    """The model inside a wrapper, or the model itself.

    `torch.compile`: the model as it was before, with the same weights. Its rows have many shapes, and each would be compiled
    again. A model of PEFT: the base model, with the adapter's layers in it. Raises ModelError for an adapter that is more than
    a change of weights.
    """
    while True:
        inner = _inner(model)
        if inner is None:
            return model
        model = inner


def _inner(model: Any) -> Any:
    """What is directly inside a wrapper. None if the model is none."""
    if hasattr(model, "_orig_mod"):
        return model._orig_mod
    if isinstance(model, DataParallel | DistributedDataParallel):
        return model.module
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        for name in active_adapters(model):
            check_adapter(model.peft_config[name], name)
        return model.get_base_model()
    return None


def active_adapters(model: Any) -> list[str]:
    """The names of the adapters of PEFT that change the model's numbers. Empty without PEFT."""
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, dict):
        return []
    active = (getattr(module, "active_adapters", None) for module in (model, *model.modules()))
    names = dict.fromkeys(name for listed in active if isinstance(listed, list) for name in listed)  # a method in transformers' own class
    return [name for name in names if name in configs]


def check_adapter(config: Any, name: str) -> None:
    """Raises ModelError for an adapter that is more than a change of weights. `config` is its configuration of PEFT."""
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    why = UNFIT.get(kind) or ("puts tokens of its own before the prompt" if config.is_prompt_learning else "")
    if getattr(config, "alora_invocation_tokens", None):
        why = "is switched on by tokens inside the prompt"
    if why:
        raise ModelError(f"the adapter {name} ({kind}) {why}. Adapters that only change weights are explained: LoRA, DoRA, IA3")


def model_name(model: Any) -> str:
    """The name that a loaded model says of itself, with the names of its adapters."""
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    return "+".join([name, *active_adapters(model)])


def model_revision(model: Any) -> str:
    """The commit of a loaded model, or `unknown`. With adapters it is not known: the commit is the base model's."""
    return "unknown" if active_adapters(model) else getattr(model.config, "_commit_hash", None) or "unknown"
