"""Read the header of a GGUF file, and refuse whatever the file itself cannot hold, before anything is allocated.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from noiser.errors import ModelError

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
