"""Sounds as if recorded elsewhere: same length, finite, the same for the same seed, and really changed."""

from __future__ import annotations

import numpy as np

from train.vary import echo, elsewhere, shifted


def test_a_window_recorded_elsewhere() -> None:
    time_s = np.arange(15_600) / 16_000
    window = (0.1 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
    changed, kept = 0, window.copy()
    for seed in range(40):
        first = elsewhere(np.random.default_rng(seed), window)
        again = elsewhere(np.random.default_rng(seed), window)
        assert first.shape == window.shape
        assert first.dtype == np.float32
        assert np.isfinite(first).all()
        np.testing.assert_array_equal(first, again)
        changed += not np.array_equal(first, window)
    assert 20 < changed < 40  # one in five stays as it is
    np.testing.assert_array_equal(window, kept)


def test_an_echo_dies_away_behind_the_sound() -> None:
    for seed in range(5):
        response = echo(np.random.default_rng(seed), 15_600)
        assert response[0] == 1.0
        assert np.abs(response[1:800]).max() > 5 * np.abs(response[-800:]).max()
        assert np.abs(response[1:]).max() < 1.0


def test_a_shift_keeps_the_samples() -> None:
    window = np.zeros(1000, np.float32)
    window[100] = 1.0
    for seed in range(10):
        moved = shifted(np.random.default_rng(seed), window)
        place = int(np.argmax(np.abs(moved)))
        assert moved[place] == 1.0
        assert np.count_nonzero(moved) == 2
