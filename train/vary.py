"""A window of sound as other rooms and microphones might have given it: speed, frequency response, echo, bandwidth."""

from __future__ import annotations

import numpy as np

from rt_avsac.model.settings import SAMPLE_RATE_HZ
from train.sound import Samples

BANDS = 6  # of the frequency response, evenly over the root of the frequency


def elsewhere(rng: np.random.Generator, window: Samples) -> Samples:
    """float32 [n] → [n], four times of five changed: up to 18 % faster or slower, another frequency response (6 dB a
    band), the echo of a small room, a cheap microphone's bandwidth."""
    if rng.random() >= 0.8:
        return window
    num = len(window)
    rate, start = rng.uniform(0.85, 1.18), rng.uniform(0.0, num) * (rng.random() < 0.3)
    if rng.random() < 0.7:
        positions = (np.arange(num) * rate + start) % num
        window = np.interp(positions, np.arange(num), window, period=num).astype(np.float32)
    spectrum = np.fft.rfft(window)
    hz = np.arange(len(spectrum)) * (SAMPLE_RATE_HZ / num)
    if rng.random() < 0.6:
        place = np.sqrt(hz / hz[-1])
        spectrum *= 10.0 ** (np.interp(place, np.linspace(0.0, 1.0, BANDS), rng.normal(0.0, 6.0, BANDS)) / 20.0)
    if rng.random() < 0.3:
        spectrum *= np.fft.rfft(echo(rng, num))
    if rng.random() < 0.15:
        spectrum /= 1.0 + (hz / rng.uniform(1500.0, 6000.0)) ** 4
    return np.fft.irfft(spectrum, num).astype(np.float32)


def echo(rng: np.random.Generator, num_samples: int) -> Samples:
    """An impulse response: the sound itself, then noise that dies away by 60 dB within 0.1 to 0.8 s."""
    time_s = np.arange(num_samples) / SAMPLE_RATE_HZ
    response = rng.standard_normal(num_samples) * np.exp(-6.9 * time_s / rng.uniform(0.1, 0.8))
    response *= rng.uniform(0.02, 0.2)
    response[0] = 1.0
    return response.astype(np.float32)


def shifted(rng: np.random.Generator, window: Samples) -> Samples:
    """The window moved around in time every other time, with more or less treble."""
    if rng.random() < 0.5:
        window = np.roll(window, int(rng.integers(len(window))))
    return window + np.float32(rng.uniform(-0.5, 0.5)) * np.roll(window, 1)
