"""GGUF files, converted once into the user's cache."""

import hashlib
import os
import shutil
import struct
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from noiser.errors import ModelError
from noiser.storage import cache_folder

FORMAT = 1
"""Raise it when the conversion changes, so that old results are not taken for new ones."""


def converted(gguf: Path) -> tuple[Path, str]:
    """A folder in safetensors format with the weights of `gguf`, dequantised to float32, and the file's SHA-256.

    Converted the first time, which takes some 20 s for 100 MB. The folder appears under its final name only when it is
    whole, so a kill or a second process at the same moment does no harm: whoever comes first wins, with equal content.
    """
    digest = _sha256(gguf)
    folder = cache_folder() / f"gguf-{FORMAT}-{digest[:32]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            _convert(gguf, partial)
            _move(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder, digest


def _sweep(parent: Path) -> None:
    """Remove what conversions that were killed left behind a day ago or earlier."""
    for left in parent.glob(".partial-*"):
        if time.time() - left.stat().st_mtime > 86_400:
            shutil.rmtree(left, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _move(partial: Path, folder: Path) -> None:
    for file in partial.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _convert(gguf: Path, folder: Path) -> None:
    """Copy the weights into a fresh model: one that was loaded from GGUF refuses to be saved."""
    try:
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # A damaged file claims lengths and types at will, and the reader then fails in any of these ways.
    except (OSError, ValueError, LookupError, ArithmeticError, NotImplementedError, MemoryError, struct.error) as error:
        raise ModelError(f"cannot read {gguf} as a GGUF model: {error}") from error
    config = loaded.config
    vars(config).pop("quantization_config", None)
    fresh = type(loaded)(config)
    missing = set(fresh.state_dict()) - set(loaded.state_dict())
    assert not missing, f"the conversion of {gguf} lacks {sorted(missing)}"
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
