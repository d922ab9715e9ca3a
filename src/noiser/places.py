"""Where things are kept on this machine."""

import os
import secrets
import sys
from pathlib import Path


def cache_folder() -> Path:
    """`NOISER_CACHE`, or the place where this system keeps caches."""
    if chosen := os.environ.get("NOISER_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "noiser" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "noiser"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "noiser"


def write_whole(path: str | Path, content: bytes) -> Path:
    """Write a file so that whoever reads it meanwhile, or after a failure, finds the one before or this one. The path."""
    place = Path(path)
    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        partial.write_bytes(content)
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)
    return place
