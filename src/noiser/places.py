"""Where things are kept on this machine."""

import os
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
