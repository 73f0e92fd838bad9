"""Sound of any rate to another one in a stream: windowed-sinc polyphase filter that holds back only 3 ms."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

ZERO_CROSSINGS = 48  # of the sinc on each side: 3 ms at 16 kHz
ROLL_OFF = 0.985  # of the lower Nyquist frequency: whole up to 7.5 kHz, and what folds stays above that
KAISER_BETA = 8.0  # stop band below -80 dB


class Resampler:
    """Mono float32 blocks of `rate_in_hz` in, blocks of `rate_out_hz` out; output k is the sound at k / rate_out.

    soxr's stream resampler does the same with 37 ms of hold-back, which alone would make every window late.
    ValueError for a rate that is not positive.
    """

    def __init__(self, rate_in_hz: int, rate_out_hz: int) -> None:
        if rate_in_hz <= 0 or rate_out_hz <= 0:
            raise ValueError(f"resampler: asked {rate_in_hz} to {rate_out_hz} Hz, rates must be positive")
        divisor = math.gcd(rate_in_hz, rate_out_hz)
        self.up, self.down = rate_out_hz // divisor, rate_in_hz // divisor
        cutoff = ROLL_OFF * min(1.0, rate_out_hz / rate_in_hz)  # in units of the input's Nyquist frequency
        self.half = 0 if self.up == self.down else math.ceil(ZERO_CROSSINGS / cutoff)
        offsets = np.arange(-self.half, self.half + 1)
        distance = offsets[None, :] - np.arange(self.up)[:, None] / self.up  # input samples, [phase, tap]
        inside = np.clip(1 - (distance / (self.half + 1)) ** 2, 0, None)
        taps = cutoff * np.sinc(cutoff * distance) * np.i0(KAISER_BETA * np.sqrt(inside)) / np.i0(KAISER_BETA)
        self._taps = (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
        self._held = np.zeros(self.half, np.float32)  # input from `_first` on that is still needed
        self._first = -self.half
        self._produced = 0

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """All output that these samples [n] complete."""
        if self.up == self.down:
            return samples
        held = np.concatenate([self._held, samples])
        end = self._first + len(held)  # input samples known so far
        # output k needs input up to floor(k * down / up) + half
        stop = max(self._produced, ((end - self.half) * self.up - 1) // self.down + 1)
        position = np.arange(self._produced, stop, dtype=np.int64) * self.down
        low = position // self.up - self.half - self._first
        windows = np.lib.stride_tricks.sliding_window_view(held, 2 * self.half + 1) if len(low) else held[None, :0]
        out = np.einsum("kt,kt->k", windows[low], self._taps[position % self.up]) if len(low) else held[:0]
        self._produced = stop
        keep = stop * self.down // self.up - self.half
        self._held = held[max(0, keep - self._first) :].copy()
        self._first = end - len(self._held)
        return np.asarray(out, np.float32)

    def flush(self) -> NDArray[np.float32]:
        """The output still held back at the end of the stream."""
        return self.push(np.zeros(self.half, np.float32)) if self.half else np.zeros(0, np.float32)
