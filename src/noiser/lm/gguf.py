"""Convert GGUF files, once, into the user's cache."""

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from noiser.lm.checkpoint import unify_model_errors
from noiser.lm.completeness import check_elements, check_loaded
from noiser.lm.gguf_header import read_header
from noiser.lm.revision import file_digest
from noiser.storage import cache_folder

FORMAT = 2
"""Raise it when the conversion changes, so that an old result is not used for a new one."""


def convert(gguf: Path) -> tuple[Path, str]:
    """A folder with the weights of `gguf` as safetensors, dequantised to float32, and the file's SHA-256.

    The first call converts, which takes some 20 s for 100 MB. The folder gets its final name only when it is complete, so a
    kill or a second process at the same time does no harm: the first process to finish wins, with equal content.
    """
    digest = file_digest(gguf)
    folder = cache_folder() / f"gguf-{FORMAT}-{digest[:32]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_old_partials(folder.parent)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            _write_safetensors(gguf, partial)
            _move(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder, digest


def _remove_old_partials(parent: Path) -> None:
    """Remove what killed conversions left behind more than a day ago."""
    for partial in parent.glob(".partial-*"):
        if time.time() - partial.stat().st_mtime > 86_400:
            shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, folder: Path) -> None:
    for file in partial.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _write_safetensors(gguf: Path, folder: Path) -> None:
    """Copy the weights into a fresh model, because transformers refuses to save one that was loaded from GGUF.

    Raises ModelError before anything is written if the file is damaged or not complete.
    """
    shapes = read_header(gguf).tensors
    options: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    with unify_model_errors(f"cannot read {gguf} as a GGUF model"):
        check_elements(AutoConfig.from_pretrained(gguf.parent, **options), shapes, str(gguf))
        from_pretrained: Any = AutoModelForCausalLM.from_pretrained
        loaded, loading = from_pretrained(
            gguf.parent, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        check_loaded(loading, str(gguf))
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
        config = loaded.config
        vars(config).pop("quantization_config", None)
        fresh = type(loaded)(config)
        fresh.load_state_dict(loaded.state_dict())
        fresh.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
