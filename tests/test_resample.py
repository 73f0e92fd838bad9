"""The resampler of live sound: exact in time, close to soxr, and never late."""

from __future__ import annotations

import numpy as np
import pytest

from rt_avsac.resample import Resampler

RATES = [8000, 22_050, 32_000, 44_100, 48_000, 96_000]


def stream(rate_in: int, sound: np.ndarray, blocks: list[int]) -> tuple[np.ndarray, float]:
    """The output of `sound` pushed in blocks, and the longest hold-back in ms."""
    resampler, out, begin, produced, held_ms = Resampler(rate_in, 16_000), [], 0, 0, 0.0
    for size in blocks:
        out.append(resampler.push(sound[begin : begin + size]))
        begin, produced = min(len(sound), begin + size), produced + len(out[-1])
        held_ms = max(held_ms, 1000 * (begin / rate_in - produced / 16_000))
    out.append(resampler.flush())
    return np.concatenate(out), held_ms


@pytest.mark.parametrize("rate", RATES)
def test_it_agrees_with_soxr_and_holds_little_back(rate: int) -> None:
    import soxr

    rng = np.random.default_rng(rate)
    t = np.arange(rate) / rate
    tones = [100.0, 440.0, 1000.0, 2500.0, 3300.0] + ([5000.0, 7000.0] if rate > 16_000 else [])
    sound = sum(np.sin(2 * np.pi * f * t + rng.uniform(0, 6)) for f in tones).astype(np.float32) / len(tones)
    ours, held_ms = stream(rate, sound, [rate // 50] * 50)
    theirs = soxr.resample(sound, rate, 16_000, quality="VHQ")
    assert abs(len(ours) - len(theirs)) <= 1
    middle = slice(800, 15_200)  # the ends see the silence around differently
    assert np.abs(ours[middle] - theirs[middle]).max() < 2e-3
    assert held_ms < (4.0 if rate > 16_000 else 7.0)


@pytest.mark.parametrize("rate", RATES)
def test_blocks_of_any_size_give_the_same_samples(rate: int) -> None:
    rng = np.random.default_rng(1)
    sound = rng.standard_normal(5000).astype(np.float32)
    sizes = [*rng.integers(0, 300, 60).tolist(), 20_000]
    cut, _ = stream(rate, sound, sizes)
    whole, _ = stream(rate, sound, [5000])
    assert np.allclose(cut, whole, atol=1e-5)


def test_what_16_khz_cannot_hold_is_removed() -> None:
    t = np.arange(48_000) / 48_000
    out, _ = stream(48_000, np.sin(2 * np.pi * 9500 * t).astype(np.float32), [48_000])
    assert np.abs(out[200:-200]).max() < 1e-4


def test_the_same_rate_passes_through() -> None:
    sound = np.arange(10, dtype=np.float32)
    assert Resampler(16_000, 16_000).push(sound) is sound
    assert len(Resampler(16_000, 16_000).flush()) == 0
    with pytest.raises(ValueError, match="must be positive"):
        Resampler(0, 16_000)
