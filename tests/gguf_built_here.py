"""Small GGUF files: a whole Llama of two blocks, or the same with something changed."""

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter
from tokenizers import pre_tokenizers

HIDDEN, WIDE, BLOCKS = 64, 96, 2
TOKENS = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
TENSORS: dict[str, tuple[int, ...]] = {
    "attn_norm.weight": (HIDDEN,), "ffn_norm.weight": (HIDDEN,),
    "attn_q.weight": (HIDDEN, HIDDEN), "attn_k.weight": (HIDDEN, HIDDEN), "attn_v.weight": (HIDDEN, HIDDEN),
    "attn_output.weight": (HIDDEN, HIDDEN),
    "ffn_gate.weight": (WIDE, HIDDEN), "ffn_up.weight": (WIDE, HIDDEN), "ffn_down.weight": (HIDDEN, WIDE),
}  # fmt: skip


def write_gguf(file: Path, *, leave_out: str = "-", shapes: dict[str, tuple[int, ...]] | None = None, **numbers: Any) -> Path:
    """Write the model. `leave_out` is the beginning of names of tensors that are not written; `numbers` replace metadata."""
    writer = GGUFWriter(file, "llama")
    known = {"block_count": BLOCKS, "context_length": 64, "embedding_length": HIDDEN, "feed_forward_length": WIDE, "head_count": 4}
    for key, value in {**known, "head_count_kv": 4, **numbers}.items():
        writer.add_uint32(f"llama.{'attention.' if 'head' in key else ''}{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_uint32("llama.vocab_size", len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3, *[1] * (len(TOKENS) - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {"token_embd.weight": (len(TOKENS), HIDDEN), "output_norm.weight": (HIDDEN,), "output.weight": (len(TOKENS), HIDDEN)}
    names |= {f"blk.{block}.{name}": shape for block in range(BLOCKS) for name, shape in TENSORS.items()}
    numbers_of = np.random.default_rng(0)
    for name, shape in {**names, **(shapes or {})}.items():
        if not name.startswith(leave_out):
            writer.add_tensor(name, numbers_of.normal(0, 0.2, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
