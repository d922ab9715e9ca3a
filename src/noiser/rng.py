"""Randomness named by a key: the same numbers whatever else ran, in any order, on every machine."""

import hashlib
import json

import numpy as np

Key = int | str | float | tuple["Key", ...]


def generator(*key: Key) -> np.random.Generator:
    """A counter-based generator (Philox) whose 128-bit key is a hash of `key`, e.g. `(seed, input_ids, "noise")`."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
