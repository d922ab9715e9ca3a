"""A GGUF file that is damaged or not complete is refused before anything is built, and nothing incomplete is ever cached.

Mutants caught: `read_header` not called; `_check_model` without blocks, sizes or the embedding; `check_loaded` not called;
`_check_places` without one tensor's or all tensors' bytes; a limit of the header (`MOST_...`) not looked at.
"""

import struct

import pytest

import noiser
from noiser.errors import ModelError
from noiser.lm import gguf
from noiser.lm.gguf import read_header
from tests.gguf_built_here import BLOCKS, HIDDEN, TOKENS, write_gguf


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache. After a refusal it must still be empty."""
    monkeypatch.setenv("NOISER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused(file, cache, match):
    with pytest.raises(ModelError, match=match):
        noiser.load(file)
    assert not list(cache.glob("*gguf*"))
    assert not list(cache.glob(".partial*/*"))


def test_a_small_gguf_is_converted_and_explained(tmp_path, cache):
    """Mutant: anything good refused."""
    file = write_gguf(tmp_path / "small.gguf")
    header = read_header(file)
    assert header.tensors["token_embd.weight"] == (HIDDEN, len(TOKENS))
    assert header.metadata["llama.block_count"] == BLOCKS
    assert header.metadata["tokenizer.ggml.tokens"] == len(TOKENS)
    attribution = noiser.attribute(noiser.load(file), "xyz", samples=2, steps=2)
    assert len(attribution.tokens) == 3
    assert len(list(cache.glob("gguf-*"))) == 1


@pytest.mark.parametrize(
    ("leave_out", "match"),
    [("blk.1.", r"lacks the tensors of blk\.1 \(of 2 blocks\)"), ("token_embd", "lacks the tensors of token_embd"),
     ("blk.", r"lacks the tensors of blk\.0")],
)  # fmt: skip
def test_a_missing_block_is_refused_before_the_model_is_built(tmp_path, cache, monkeypatch, leave_out, match):
    """Mutant: `read_header` not called, so that random weights are cached under the file's hash."""
    monkeypatch.setattr(gguf, "AutoModelForCausalLM", None)
    refused(write_gguf(tmp_path / "small.gguf", leave_out=leave_out), cache, match)


@pytest.mark.parametrize(
    ("leave_out", "name"), [("blk.1.attn_q", r"layers\.1\.self_attn\.q_proj\.weight"), ("output_norm", r"model\.norm\.weight")]
)
def test_a_missing_tensor_is_refused_by_name_and_not_cached(tmp_path, cache, leave_out, name):
    """Mutant: `check_loaded` not called."""
    refused(write_gguf(tmp_path / "small.gguf", leave_out=leave_out), cache, f"lack .*{name}")


def test_a_tensor_of_another_shape_is_refused_and_not_cached(tmp_path, cache):
    """Mutant: mis-shaped tensors not looked at."""
    refused(
        write_gguf(tmp_path / "small.gguf", shapes={"blk.0.ffn_up.weight": (95, HIDDEN)}),
        cache,
        r"another shape.*layers\.0\.mlp\.up_proj\.weight \(\(95, 64\), not \(96, 64\)\)",
    )


@pytest.mark.parametrize(
    ("numbers", "match"),
    [({"block_count": 20_000}, r"blk\.2 \(of 20,000 blocks\)"), ({"block_count": 4_000_000_000}, "of 4,000,000,000 blocks"),
     ({"embedding_length": 1 << 30}, "embedding_length=1,073,741,824, but no tensor"),
     ({"feed_forward_length": 1 << 20}, "feed_forward_length"), ({"block_count": 0}, "positive integer; it says 0")],
)  # fmt: skip
def test_what_the_tensors_do_not_make_up_is_refused_before_the_model_is_built(tmp_path, cache, monkeypatch, numbers, match):
    """Mutant: a size in the header not compared with the tensors."""
    monkeypatch.setattr(gguf, "AutoModelForCausalLM", None)
    refused(write_gguf(tmp_path / "small.gguf", **numbers), cache, match)


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def header(*keys, tensors=(), version=3, key_count=None, tensor_count=None):
    counts = struct.pack(
        "<IQQ", version, len(tensors) if tensor_count is None else tensor_count, len(keys) if key_count is None else key_count
    )
    return b"GGUF" + counts + b"".join(keys) + b"".join(tensors)


def tensor(name, shape, kind=0, start=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, start)


NAME = key("general.architecture", 8, text("llama"))
HEADERS = {
    "nothing": (b"", "empty"),
    "text": (b"not a model\n", "begin with GGUF"),
    "cut": (header(NAME)[:-3], "asks for 5 bytes"),
    "name only": (header(NAME), "block_count, a positive integer; it says None"),
    "no name": (header(), "architecture"),
    "version": (header(NAME, version=9), "version is 9"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version is"),
    "keys": (header(key_count=1 << 60), "claims 1,152"),
    "tensors": (header(NAME, tensor_count=1 << 60), "claims 1 keys and 1,152"),
    "long text": (header(text("k") + struct.pack("<IQ", 8, 1 << 62)), "asks for 4,611"),
    "long key": (header(struct.pack("<Q", 1 << 63)), "asks for 9,223"),
    "long array": (header(key("a", 9, struct.pack("<IQ", 0, 1 << 61))), "arrays of more than"),
    "array of texts": (header(key("a", 9, struct.pack("<IQ", 8, 3_000_000))), "asks for 8 bytes"),
    "array of arrays": (header(key("a", 9, struct.pack("<IQ", 9, 1))), "array of arrays"),
    "type": (header(key("a", 77, b"")), "unknown type 77"),
    "not UTF-8": (header(struct.pack("<Q", 1) + b"\xff"), "codec"),
    "dimensions": (header(NAME, tensors=(tensor("a", (1,) * 9),)), "9 dimensions"),
    "large tensor": (header(NAME, tensors=(tensor("a", (1 << 40,)),)), "ends at byte"),
    "overflow": (header(NAME, tensors=(tensor("a", ((1 << 63), 2, 2, 2)),)), "ends at byte"),
    "tensor type": (header(NAME, tensors=(tensor("a", (8,), kind=99),)), "unknown type 99"),
    "twice": (header(NAME, tensors=(tensor("a", (8,)), tensor("a", (8,)))), "there twice"),
    "overlap": (header(NAME, tensors=(tensor("a", (8,)), tensor("b", (8,)))) + bytes(40), "together claim"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_is_refused_by_name(tmp_path, cache, name):
    """Mutants: each check of `gguf_header` left out."""
    content, match = HEADERS[name]
    file = tmp_path / "hostile.gguf"
    file.write_bytes(content)
    refused(file, cache, rf"hostile\.gguf as a GGUF model: .*{match}")
