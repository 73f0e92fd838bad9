"""Pair the newest frame with the second of sound that ends at it: Latest slot, AudioRing, Aligner."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from rt_avsac.config import LiveSettings
from rt_avsac.flow import AudioChunk, AudioStatus, Frame, Window

T = TypeVar("T")
SAMPLE_RATE_HZ = 16_000  # of everything behind the sources
WINDOW_SAMPLES = 15_600  # 0.975 s: what the network hears
RING_SECONDS = 4.0  # a window, plus the oldest frame that is still worth one
SILENT_SOURCE_NS = 300_000_000  # a source that has written nothing for so long is not waited for
CLIPPED = 0.999


class Latest(Generic[T]):
    """One slot between two threads; the newest item wins, and what it overwrote unseen is counted."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._item: T | None = None
        self._error: Exception | None = None
        self._closed = False
        self.overwritten = 0

    def put(self, item: T) -> None:
        with self._condition:
            if self._closed:
                return
            self.overwritten += self._item is not None
            self._item = item
            self._condition.notify_all()

    def take(self, timeout_s: float) -> T | None:
        """The unseen item, waiting for one; None after the timeout or once closed. Raises what `fail` left."""
        with self._condition:
            self._condition.wait_for(lambda: self._item is not None or self._error or self._closed, timeout_s)
            item, self._item = self._item, None
            if item is None and self._error is not None:
                raise self._error
            return item

    def fail(self, error: Exception) -> None:
        """`take` raises this from now on, after the item that is still unseen."""
        with self._condition:
            self._error = error
            self._condition.notify_all()

    def close(self) -> None:
        """No more items; the unseen one can still be taken."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    @property
    def finished(self) -> bool:
        """Closed, and nothing left to take."""
        with self._condition:
            return self._closed and self._item is None


@dataclass(slots=True)
class _Segment:
    """A run of contiguous samples: ring position `first` was captured at `time_ns`."""

    first: int
    time_ns: int
    epoch: int
    next_start: int


class AudioRing:
    """The last seconds of mono sound with capture times; one thread writes, any thread cuts.

    The sample clock improves while it runs, so the newest chunk's time counts for its whole contiguous run;
    another epoch or a jump in `start` begins a new run, placed by its own time.
    """

    def __init__(self, sample_rate_hz: int = SAMPLE_RATE_HZ, seconds: float = RING_SECONDS) -> None:
        self.sample_rate_hz = sample_rate_hz
        self._buffer = np.zeros(int(sample_rate_hz * seconds), np.float32)
        self._written = 0
        self._segments: deque[_Segment] = deque()
        self._condition = threading.Condition()
        self._last_write_ns: int | None = None
        self._closed = False

    def _span_ns(self, samples: int) -> int:
        return round(samples * 1_000_000_000 / self.sample_rate_hz)

    def write(self, chunk: AudioChunk) -> None:
        """Append samples [n, channels] (averaged to mono) of this ring's rate; ValueError for another rate."""
        if chunk.sample_rate_hz != self.sample_rate_hz:
            raise ValueError(f"audio ring: asked {chunk.sample_rate_hz} Hz, holds {self.sample_rate_hz} Hz")
        samples = chunk.samples if chunk.samples.ndim == 1 else chunk.samples.mean(axis=1)
        count, capacity = len(samples), len(self._buffer)
        with self._condition:
            last = self._segments[-1] if self._segments else None
            if last is None or last.epoch != chunk.epoch or last.next_start != chunk.start:
                last = _Segment(self._written, chunk.time_ns, chunk.epoch, chunk.start)
                self._segments.append(last)
            last.time_ns = chunk.time_ns - self._span_ns(self._written - last.first)
            last.next_start = chunk.start + count
            kept = samples[-capacity:]
            begin = (self._written + count - len(kept)) % capacity
            head = min(len(kept), capacity - begin)
            self._buffer[begin : begin + head] = kept[:head]
            self._buffer[: len(kept) - head] = kept[head:]
            self._written += count
            while len(self._segments) > 1 and self._segments[1].first <= self._written - capacity:
                self._segments.popleft()
            self._last_write_ns = time.monotonic_ns()
            self._condition.notify_all()

    def close(self) -> None:
        """Nothing more will come: nobody waits for it."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    @property
    def end_ns(self) -> int | None:
        """Time at which the newest sample ends; None before the first."""
        with self._condition:
            return self._end_ns()

    def _end_ns(self) -> int | None:
        if not self._segments:
            return None
        last = self._segments[-1]
        return last.time_ns + self._span_ns(self._written - last.first)

    @property
    def quiet_ns(self) -> float:
        """How long ago something was written; infinite before the first."""
        last_ns = self._last_write_ns
        return math.inf if last_ns is None else time.monotonic_ns() - last_ns

    def wait_for(self, end_ns: int, timeout_s: float) -> bool:
        """True once the sound up to `end_ns` is here, False after the timeout or when nothing more will come."""
        half_sample_ns = 500_000_000 // self.sample_rate_hz

        def is_here() -> bool:
            known_ns = self._end_ns()
            return known_ns is not None and known_ns + half_sample_ns >= end_ns

        with self._condition:
            self._condition.wait_for(lambda: self._closed or is_here(), timeout_s)
            return is_here()

    def cut(self, end_ns: int, num_samples: int) -> tuple[NDArray[np.float32], int, int, AudioStatus]:
        """The `num_samples` that end at `end_ns` → (float32 [n], start_ns, end_ns, status); zero where there are none.

        The times returned are those of the samples (within half a sample of what was asked). Status: ok = all
        there; late = the newest ones are not here yet; gap = older ones were lost; missing = none at all.
        """
        out = np.zeros(num_samples, np.float32)
        have = np.zeros(num_samples, np.bool_)
        actual_end_ns, reached = end_ns, False
        with self._condition:
            capacity = len(self._buffer)
            for number, segment in enumerate(self._segments):
                is_last = number + 1 == len(self._segments)
                stop = self._written if is_last else self._segments[number + 1].first
                offset = round((end_ns - segment.time_ns) * self.sample_rate_hz / 1_000_000_000)
                zero = segment.first + offset - num_samples  # ring position of out[0], in this segment's time
                low = max(segment.first, self._written - capacity, zero)
                high = min(stop, zero + num_samples)
                if low < high:
                    positions = np.arange(low, high) % capacity
                    out[low - zero : high - zero] = self._buffer[positions]
                    have[low - zero : high - zero] = True
                if is_last:
                    reached = zero + num_samples <= stop
                    actual_end_ns = segment.time_ns + self._span_ns(offset)
        status: AudioStatus = "ok"
        if not have.any():
            status = "missing"
        elif not have.all():
            status = "gap" if reached or self._closed else "late"
        return out, actual_end_ns - self._span_ns(num_samples), actual_end_ns, status


class Aligner:
    """Windows: the newest frame and the sound that ends at its capture time. One thread.

    A frame waits at most `max_audio_wait_ms` for its sound, and not at all for a source that went quiet; then it
    goes out as late, gap or missing, never not at all. `counts` has windows by status.
    """

    def __init__(self, latest: Latest[Frame], ring: AudioRing | None, settings: LiveSettings) -> None:
        self.latest = latest
        self.ring = ring
        self.max_wait_s = settings.max_audio_wait_ms / 1000
        self.counts: Counter[AudioStatus] = Counter()

    def next(self, timeout_s: float) -> Window | None:
        """The window of the newest unseen frame; None if no frame came in time. Raises the camera's error."""
        frame = self.latest.take(timeout_s)
        return None if frame is None else self.window(frame)

    def window(self, frame: Frame, wait: bool = True) -> Window:
        """The window of this frame; `wait` False where nobody writes meanwhile (a file played step by step)."""
        began_ns = time.monotonic_ns()
        if self.ring is None:
            span_ns = WINDOW_SAMPLES * 1_000_000_000 // SAMPLE_RATE_HZ
            silence = np.zeros(WINDOW_SAMPLES, np.float32)
            self.counts["missing"] += 1
            return Window(frame, silence, frame.time_ns - span_ns, frame.time_ns, "missing")
        if wait and self.ring.quiet_ns < SILENT_SOURCE_NS:
            self.ring.wait_for(frame.time_ns, self.max_wait_s)
        wait_ns = time.monotonic_ns() - began_ns
        audio, start_ns, end_ns, status = self.ring.cut(frame.time_ns, WINDOW_SAMPLES)
        self.counts[status] += 1
        clipped = bool(np.abs(audio).max() >= CLIPPED)
        return Window(frame, audio, start_ns, end_ns, status, wait_ns, clipped)
