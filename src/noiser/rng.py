"""Random numbers keyed by meaning: they do not depend on what else ran, in which order, or on which machine."""

import hashlib
import json

import numpy as np

Key = int | str | float | tuple["Key", ...]


def generator(*key: Key) -> np.random.Generator:
    """A counter-based generator (Philox). Its 128-bit key is a hash of `key`, for example `(seed, input_ids, "noise")`."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
