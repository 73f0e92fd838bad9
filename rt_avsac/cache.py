"""Cache: where this user's bundles, and what runtimes learn while they build, are kept."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """$XDG_CACHE_HOME/rt-avsac, by default ~/.cache/rt-avsac; it need not be there yet."""
    # not Path.home(): it raises for a user without an entry and without HOME, as containers have
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "rt-avsac"
