"""When was sample k captured? The min-envelope clock of a stream whose blocks arrive late by a varying amount."""

from __future__ import annotations

from collections import deque

ENVELOPE_NS = 5_000_000_000  # the least delay of the last 5 s is the clock
RECENT_NS = 500_000_000  # if every block of the last 0.5 s …
JUMP_NS = 20_000_000  # … came 20 ms later than the clock says, samples were lost: anchor anew


class _SlidingMin:
    """Least value of the last `span_ns`."""

    def __init__(self, span_ns: int) -> None:
        self.span_ns = span_ns
        self._rising: deque[tuple[int, int]] = deque()  # (time, value), both rising

    def add(self, now_ns: int, value: int) -> int:
        while self._rising and self._rising[-1][1] >= value:
            self._rising.pop()
        self._rising.append((now_ns, value))
        while self._rising[0][0] < now_ns - self.span_ns:
            self._rising.popleft()
        return self._rising[0][1]

    def clear(self) -> None:
        self._rising.clear()


class SampleClock:
    """Position in a stream (ns of content) → time.monotonic_ns() of its capture, from block arrivals.

    A block can only arrive late, so the least `arrival - position` seen lately is the stream's zero. `epoch`
    counts how often the clock was anchored anew: samples of different epochs are not contiguous.
    """

    def __init__(self) -> None:
        self._envelope = _SlidingMin(ENVELOPE_NS)
        self._behind_since_ns: int | None = None  # all blocks since then came JUMP_NS too late …
        self._behind_ns = 0  # … and this is the least of them
        self.zero_ns = 0
        self.epoch = 0
        self.started = False

    def update(self, now_ns: int, position_ns: int, lost: bool = False, was_queued: bool = False) -> None:
        """A block that ends at `position_ns` arrived at `now_ns`; `lost`: samples before it are gone, says the driver.

        `was_queued`: it was there before we asked, so that it is late by our own doing. A stall followed by a burst
        of the old samples leaves the clock as it is; a stall that lost them shows as blocks that stay too late.
        """
        raw_ns = now_ns - position_ns
        if lost and self.started:
            self._anchor(now_ns, raw_ns)
        self.started = True
        self.zero_ns = self._envelope.add(now_ns, raw_ns)
        if raw_ns <= self.zero_ns + JUMP_NS:
            self._behind_since_ns = None
        elif was_queued:
            return
        elif self._behind_since_ns is None:
            self._behind_since_ns, self._behind_ns = now_ns, raw_ns
        else:
            self._behind_ns = min(self._behind_ns, raw_ns)
            if now_ns - self._behind_since_ns >= RECENT_NS:
                self._anchor(now_ns, self._behind_ns)

    def _anchor(self, now_ns: int, zero_ns: int) -> None:
        self._envelope.clear()
        self._behind_since_ns = None
        self.zero_ns = self._envelope.add(now_ns, zero_ns)
        self.epoch += 1

    def time_ns(self, position_ns: int) -> int:
        """Capture time of the content at `position_ns`."""
        return self.zero_ns + position_ns
