"""The embedding table of a model that runs elsewhere: one tensor of its safetensors files, and what its embedding module does with it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.utils.hub import cached_file

from noiser.errors import ModelError
from noiser.lm.checkpoint import INDEX, read_json, weight_files

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """The embeddings of all tokens, in the checkpoint's own dtype."""

    weight: Float[Tensor, "vocab dim"]
    scale: float
    """What the model's embedding module multiplies them by. Gemma's does so with the root of their size."""
    dtype: torch.dtype
    """The dtype in which embeddings are perturbed and sent."""
    revision: str
    """A hash of the tensor and of the configuration."""

    def embeddings(self, token_ids: Sequence[int]) -> Float[Tensor, "tokens dim"]:
        """The output of the model's embedding module for these tokens."""
        return self.weight[torch.tensor(token_ids)].to(self.dtype) * self.scale


def read_table(path: str, config: Any, dtype: torch.dtype, *, trusted: bool, **options: Any) -> EmbeddingTable:
    """Read the table from a folder, or from a hub model. Of a folder's files, only the bytes of this tensor are read.

    `trusted`: the model's own Python code may run. `options` fetch the files of a hub model; of its weights that is the one file with the
    table. Raises ModelError if the checkpoint
    has no such tensor, or if the family computes embeddings in another way than by a look-up and one factor.
    """
    name, module = _embedding_module(config, trusted)
    scale = getattr(module, "scalar_embed_scale", 1.0)
    if not isinstance(module, nn.Embedding) or (type(module) is not nn.Embedding and not isinstance(scale, float | int)):
        raise ModelError(f"the embedding module of {config.model_type} is a {type(module).__name__}, which is more than a table")
    weight = _find(_files(path, f"{name}.weight", **options), f"{name}.weight", tuple(module.weight.shape), path)
    if not weight.is_floating_point():
        raise ModelError(f"the embedding table in {path} is quantised ({weight.dtype}): give the tokenizer and table of the original model")
    return EmbeddingTable(weight, float(scale), dtype, f"sha256:{_digest(weight, config)}")


def _embedding_module(config: Any, trusted: bool) -> tuple[str, Any]:
    """The name of the input embedding module, and the module without numbers."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config.get_text_config(), trust_remote_code=trusted)
    module = model.get_input_embeddings()
    return next(name for name, each in model.named_modules() if each is module), module


def _files(path: str, name: str, **options: Any) -> Iterator[Path]:
    """The weight files, of a hub model only that which its index names for the tensor."""
    if Path(path).is_dir():
        yield from weight_files(Path(path))
        return
    index = cached_file(path, INDEX, _raise_exceptions_for_missing_entries=False, **options)
    places = read_json(Path(index)).get("weight_map", {}) if index else {}
    ending = _ending(name)
    names = {file for key, file in places.items() if _ending(key) == ending} if isinstance(places, dict) else set()
    for file in sorted(names) or [WEIGHTS]:
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise ModelError(
                f"{path} names {file!r} as a file of weights, which is no safetensors file: give a folder with the model's files"
            )
        found = cached_file(path, file, **options)
        assert found is not None
        yield Path(found)


def _find(files: Iterator[Path], name: str, shape: tuple[int, ...], path: str) -> Tensor:
    """The tensor of this name, or the only one of this shape whose name has the same ending: a checkpoint may have another prefix."""
    alike: dict[str, Path] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118  (it is no mapping)
                if _ending(key) == _ending(name) and tuple(opened.get_slice(key).get_shape()) == shape:
                    alike[key] = file
    chosen = name if name in alike else next(iter(alike)) if len(alike) == 1 else None
    if chosen is None:
        found = f"several: {', '.join(sorted(alike))}" if alike else "none"
        raise ModelError(f"the weights in {path} need one tensor {name} of shape {list(shape)}, the embedding table; there is {found}")
    with safe_open(alike[chosen], "pt") as opened:
        return opened.get_tensor(chosen)


def _ending(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _digest(weight: Tensor, config: Any) -> str:
    content = {key: value for key, value in config.to_dict().items() if not key.startswith("_") and key != "transformers_version"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode())
    digest.update(weight.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
