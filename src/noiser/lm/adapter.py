"""Adapters of PEFT (LoRA and its kin), and the model inside a wrapper: a compiled model, a parallel one."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch.nn import DataParallel
from torch.nn.parallel import DistributedDataParallel
from transformers.utils.hub import cached_file

from noiser.errors import ModelError, require_extra
from noiser.lm.checkpoint import adapter_weights, folder_revision, read_json
from noiser.lm.completeness import tensor_shapes

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


CONFIG = "adapter_config.json"
FILES = (
    CONFIG,
    "adapter_model.safetensors",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.jinja",
)
"""The files of an adapter that are fetched from the hub. Pickled weights are not among them."""


@dataclass(frozen=True)
class Adapter:
    """The folder of an adapter, and what its configuration says of its base model."""

    folder: Path
    name: str
    revision: str
    base: str
    """The name or folder of the base model. Empty if the adapter names none."""
    base_revision: str | None

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer was saved with the adapter."""
        return (self.folder / "tokenizer_config.json").is_file()


def is_adapter(model: str, *, revision: str | None, offline: bool) -> bool:
    """Whether a model's name is that of an adapter: of a folder, or of the hub."""
    if Path(model).expanduser().exists():
        return (Path(model).expanduser() / CONFIG).is_file()
    with suppress(OSError, ValueError):
        quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
        return cached_file(model, CONFIG, revision=revision, local_files_only=offline, **quiet) is not None
    return False


def find_adapter(adapter: str, *, revision: str | None = None, offline: bool = False) -> Adapter:
    """Find an adapter in a folder, or fetch it from the hub. Its weights are not read.

    Raises MissingExtraError without PEFT, and ModelError if there is no adapter, or none that a model can be built with.
    """
    require_extra("peft", f"{adapter}, an adapter (LoRA),")
    folder = Path(adapter).expanduser()
    commit = ""
    if not folder.exists():
        folder = _fetch(adapter, revision, offline)
        commit = folder.name
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{adapter} holds no {CONFIG}: give the folder that PEFT saved an adapter in, or an adapter of the hub")
    name = adapter if commit else folder.resolve().name
    found = read_json(folder / CONFIG)
    base, base_revision = found.get("base_model_name_or_path"), found.get("revision")
    if not isinstance(found.get("peft_type"), str):
        raise ModelError(f"{folder / CONFIG} names no peft_type; got {found.get('peft_type')!r:.100}")
    return Adapter(
        folder,
        name,
        commit or f"sha256:{folder_revision(folder)}",
        base if isinstance(base, str) and "\0" not in base else "",
        base_revision if isinstance(base_revision, str) else None,
    )


def _fetch(adapter: str, revision: str | None, offline: bool) -> Path:
    if Path(adapter).is_absolute() or adapter.startswith((".", "~")) or adapter.count("/") != 1:
        raise ModelError(f"there is no folder {adapter}")
    try:
        return Path(snapshot_download(adapter, revision=revision, allow_patterns=list(FILES), local_files_only=offline))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot find or reach the adapter {adapter!r}. Offline? Fetch it where there is a network (hf download {adapter}) and give "
            "the folder"
        ) from error


def add_adapter(model: Any, adapter: Adapter, device: torch.device, *, allow_pickle: bool = False) -> Any:
    """Put an adapter into its loaded base model. Returns the model, whose layers now hold the adapter's.

    Raises ModelError if the weights are pickled, if the adapter is more than a change of weights, or if a tensor is missing,
    unexpected or of another shape.
    """
    from peft import PeftConfig, PeftModel

    files = list(adapter_weights(adapter.folder, allow_pickle=allow_pickle))
    config: Any = PeftConfig.from_pretrained(str(adapter.folder))
    check_adapter(config, adapter.name)
    config.inference_mode = True
    shapes = tensor_shapes(files)
    _fit_vocabulary(model, shapes)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # the weights drawn at first are all replaced
        warnings.simplefilter("ignore")
        wrapped = PeftModel(model, config, adapter_name="default")
        mapping = getattr(model, "_checkpoint_conversion_mapping", None) or None
        result = _read_weights(wrapped, adapter, device, mapping)
    missing = _missing(wrapped, shapes) if files and mapping is None else result.missing_keys
    _check_tensors(adapter, missing, result.unexpected_keys)
    return unwrap(wrapped)


def _read_weights(wrapped: Any, adapter: Adapter, device: torch.device, mapping: Any) -> Any:
    """PEFT's report of missing and unexpected tensors. Raises ModelError for a tensor of another shape."""
    try:
        return wrapped.load_adapter(str(adapter.folder), "default", torch_device=str(device), key_mapping=mapping)
    except RuntimeError as error:
        mismatch = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), "")
        if not mismatch:
            raise
        raise ModelError(f"the weights of the adapter {adapter.name} do not fit the model: {mismatch}{_made_for(adapter)}") from error


def _fit_vocabulary(model: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    """Give the base model as many tokens as the adapter's own embeddings have, if it brings input and output embeddings."""
    modules = {id(module): name for name, module in model.named_modules()}
    parts = [model.get_input_embeddings(), model.get_output_embeddings()]
    names = [modules.get(id(part), "?") for part in parts if part is not None]
    rows = [next((shape[0] for key, shape in shapes.items() if key.endswith(f"{name}.weight")), 0) for name in names]
    tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    wanted = max(rows, default=0)
    if wanted > len(parts[0].weight) and (tied or len(set(rows)) == 1):
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(wanted, mean_resizing=False)


def _missing(wrapped: Any, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The tensors that the adapter needs and its file does not hold."""
    from peft import get_peft_model_state_dict

    wanted: Any = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return [name for name in wanted if name not in shapes]


def _check_tensors(adapter: Adapter, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    faults = {"lack": missing, "hold tensors that the model does not have:": unexpected}
    said = [f"{fault} {', '.join(sorted(names)[:3])}{' and others' if len(names) > 3 else ''}" for fault, names in faults.items() if names]
    if said:
        raise ModelError(
            f"the weights of the adapter {adapter.name} do not fit the model: they {'; they '.join(said)}.{_made_for(adapter)}"
        )


def _made_for(adapter: Adapter) -> str:
    return f" The adapter was made for {adapter.base}." if adapter.base else ""
