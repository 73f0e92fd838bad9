"""Waiting in tests: for a condition, with a deadline, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], object], deadline_s: float = 20.0, what: str = "the condition") -> float:
    """Seconds until it held. AssertionError after the deadline."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < deadline_s, f"waited {deadline_s} s in vain for {what}"
        time.sleep(0.005)
    return time.monotonic() - began
