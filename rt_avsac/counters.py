"""What a run counts: masks, latency percentiles over the whole run and lately, frames per second. Flat in memory."""

from __future__ import annotations

from collections import deque

import numpy as np

BIN_MS = 0.1
NUM_BINS = 50_000  # 5 s; what is slower counts as that
RECENT_NS = 2_000_000_000


class Histogram:
    """Milliseconds in bins of 0.1 ms, so that an hour takes no more room than a second."""

    def __init__(self) -> None:
        self._bins = np.zeros(NUM_BINS, np.int64)
        self.count = 0

    def add(self, value_ms: float) -> None:
        self._bins[min(max(int(value_ms / BIN_MS), 0), NUM_BINS - 1)] += 1
        self.count += 1

    def percentile(self, percent: float) -> float:
        """Upper edge of the bin in which it lies, ms; 0 before the first value."""
        if not self.count:
            return 0.0
        rank = self.count * percent / 100
        return round((int(np.searchsorted(np.cumsum(self._bins), rank)) + 1) * BIN_MS, 1)


class Counters:
    """One `add` per mask message, from the loop."""

    def __init__(self) -> None:
        self.masks = 0
        self.total = Histogram()  # capture → publish
        self.overhead = Histogram()  # … without the network and the wait for the sound
        self.first_ns = self.last_ns = 0
        self._recent: deque[tuple[int, float]] = deque()  # (now_ns, total ms) of the last 2 s

    def add(self, now_ns: int, latency_ms: dict[str, float]) -> None:
        """`now_ns` of time.monotonic_ns(); `latency_ms` of the message."""
        total = latency_ms["total"]
        self.first_ns = self.first_ns or now_ns
        self.last_ns = now_ns
        self.masks += 1
        self.total.add(total)
        self.overhead.add(total - latency_ms["infer"] - latency_ms["wait"])
        self._recent.append((now_ns, total))
        self._forget(now_ns)

    def _forget(self, now_ns: int) -> None:
        while self._recent and self._recent[0][0] < now_ns - RECENT_NS:
            self._recent.popleft()

    def lately(self, now_ns: int) -> tuple[float, dict[str, float]]:
        """Frames per second and {"p50", "p99"} ms of the last 2 s."""
        self._forget(now_ns)
        if not self._recent:
            return 0.0, {}
        span_s = (now_ns - self._recent[0][0]) / 1e9
        # two masks span one frame time, so count the gaps
        fps = (
            (len(self._recent) - 1) / ((self._recent[-1][0] - self._recent[0][0]) / 1e9) if len(self._recent) > 1 else 0
        )
        p50, p99 = np.percentile([total for _, total in self._recent], [50, 99])
        stalled = span_s > 2 * RECENT_NS / 1e9
        return 0.0 if stalled else round(float(fps), 1), {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}
