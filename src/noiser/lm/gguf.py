"""Convert GGUF files, once, into the user's cache. A file's header is checked before the file is opened."""

import mmap
import os
import shutil
import struct
import tempfile
import time
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from noiser.errors import ModelError
from noiser.lm.checkpoint import file_digest, unify_model_errors
from noiser.lm.completeness import check_elements, check_loaded
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


FIXED = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""GGUF's value types of fixed size, as formats of `struct`."""
TEXT, ARRAY = 8, 9
MOST_KEYS, MOST_TENSORS, MOST_ELEMENTS = 10_000, 100_000, 4_000_000
"""The most metadata keys, tensors, and elements of metadata arrays. The reader of the package gguf takes microseconds for each."""
MOST_BLOCKS = 2_000
SIZES = ("embedding_length", "feed_forward_length", "vocab_size", "attention.head_count", "attention.head_count_kv", "expert_count")


@dataclass
class Header:
    """What a GGUF file says about itself."""

    metadata: dict[str, Any] = field(default_factory=dict)
    """Values by key. Of an array only its length."""
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes by name, in GGUF's order: the fastest dimension first."""


def read_header(path: Path) -> Header:
    """The header of a GGUF file. Raises ModelError if it is damaged, claims more than the file holds, or lacks a part of the model."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _parse(_Cursor(data))
        _check_model(header)
    except (OSError, ValueError, OverflowError, struct.error) as error:
        raise ModelError(f"cannot read {path} as a GGUF model: {error}") from error
    return header


class _Cursor:
    """Reads values one after another. Raises ValueError instead of reading beyond the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.offset = 0
        self.elements = 0
        """How many elements of arrays were read."""

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.offset:
            raise ValueError(f"its header asks for {count:,} bytes at byte {self.offset:,}; the file has {len(self.data):,}")
        self.offset += count
        return self.data[self.offset - count : self.offset]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode()

    def value(self, kind: int) -> Any:
        if kind == TEXT:
            return self.text()
        if kind == ARRAY:
            return self.skip_array()
        if kind not in FIXED:
            raise ValueError(f"its header has a value of the unknown type {kind}")
        return self.number(FIXED[kind])

    def skip_array(self) -> int:
        """The length of an array."""
        kind, length = self.number("<I"), self.number("<Q")
        self.elements += length
        if kind == ARRAY or self.elements > MOST_ELEMENTS:
            raise ValueError(f"its header has arrays of more than {MOST_ELEMENTS:,} elements, or an array of arrays")
        if kind in FIXED:
            self.take(length * struct.calcsize(FIXED[kind]))
        else:
            for _ in range(length):
                self.value(kind)
        return length


def _parse(cursor: _Cursor) -> Header:
    if cursor.take(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version, tensors, keys = cursor.number("<I"), cursor.number("<Q"), cursor.number("<Q")
    if version not in (2, 3):
        raise ValueError(f"its version is {version}; noiser reads 2 and 3, with the least significant byte first")
    if keys > MOST_KEYS or tensors > MOST_TENSORS:
        raise ValueError(f"its header claims {keys:,} keys and {tensors:,} tensors")
    header = Header()
    for _ in range(keys):
        name = cursor.text()
        header.metadata[name] = cursor.value(cursor.number("<I"))
    places = [_tensor(cursor, header) for _ in range(tensors)]
    _check_places(places, len(cursor.data) - cursor.offset)
    return header


def _tensor(cursor: _Cursor, header: Header) -> tuple[str, int, int]:
    """Read the description of one tensor. Returns its name, its first byte after the header, and its size in bytes."""
    from gguf import GGML_QUANT_SIZES

    name, dimensions = cursor.text(), cursor.number("<I")
    if name in header.tensors or not 1 <= dimensions <= 4:
        raise ValueError(f"the tensor {name!r:.80} is there twice or has {dimensions} dimensions")
    shape = tuple(cursor.number("<Q") for _ in range(dimensions))
    kind, start = cursor.number("<I"), cursor.number("<Q")
    sizes = {int(known): size for known, size in GGML_QUANT_SIZES.items()}
    if kind not in sizes or prod(shape) == 0 or prod(shape) % sizes[kind][0]:
        raise ValueError(f"the tensor {name!r:.80} has the unknown type {kind}, or a shape that does not fit its type: {shape}")
    header.tensors[name] = shape
    return name, start, prod(shape) // sizes[kind][0] * sizes[kind][1]


def _check_places(places: list[tuple[str, int, int]], room: int) -> None:
    """Raises ValueError if a tensor, or all together, need more bytes than the file has after its header."""
    for name, start, size in places:
        if start + size > room:
            raise ValueError(f"the tensor {name!r:.80} ends at byte {start + size:,} of the data, which has {room:,}")
    if sum(size for _, _, size in places) > room:
        raise ValueError(f"its tensors together claim more than the {room:,} bytes of data")


def _check_model(header: Header) -> None:
    """Raises ValueError if the metadata name no model, or one that the tensors do not make up."""
    architecture = str(header.metadata.get("general.architecture", ""))
    if not architecture:
        raise ValueError("its header does not name an architecture (general.architecture)")
    blocks = _positive(header, f"{architecture}.block_count")
    _positive(header, f"{architecture}.embedding_length")
    present = {name.split(".")[1] for name in header.tensors if name.startswith("blk.")}
    lacking = [str(block) for block in range(min(blocks, MOST_BLOCKS + 1)) if str(block) not in present]
    if blocks > MOST_BLOCKS or lacking or "token_embd.weight" not in header.tensors:
        first = f"blk.{lacking[0]} (of {blocks:,} blocks)" if lacking else "token_embd.weight"
        raise ValueError(f"it is not complete: it lacks the tensors of {first}")
    largest = max(max(shape) for shape in header.tensors.values())
    for key in (f"{architecture}.{size}" for size in SIZES):
        value = header.metadata.get(key, 0)
        if isinstance(value, int) and value > largest:
            raise ValueError(f"its header says {key}={value:,}, but no tensor is that large")


def _positive(header: Header, key: str) -> int:
    value = header.metadata.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"its header needs {key}, a positive integer; it says {value!r:.80}")
    return value
