"""Pauses between attempts to open a lost source: doubling, with jitter, cut short by a stop."""

from __future__ import annotations

import random
import threading


class Backoff:
    """`wait(stop)` sleeps the next pause; `reset()` after a success."""

    def __init__(self, min_s: float, max_s: float) -> None:
        self.min_s, self.max_s = min_s, max_s
        self._next_s = min_s

    def reset(self) -> None:
        self._next_s = self.min_s

    def pause_s(self) -> float:
        """The next pause: 50 to 100 % of 0.5, 1, 2 … `max_s`, so that many clients do not knock at once."""
        pause_s, self._next_s = self._next_s, min(self._next_s * 2, self.max_s)
        return pause_s * random.uniform(0.5, 1.0)

    def wait(self, stop: threading.Event) -> bool:
        """True if the stop came."""
        return stop.wait(self.pause_s())
