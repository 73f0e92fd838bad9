"""Histogram and Counters: percentiles of a long run in flat memory, and of the last two seconds."""

from __future__ import annotations

import numpy as np
import pytest

from rt_avsac.counters import BIN_MS, Counters, Histogram

SECOND_NS = 1_000_000_000


def test_percentiles_are_right_to_a_bin() -> None:
    values = np.random.default_rng(3).gamma(3.0, 8.0, 20_000)
    histogram = Histogram()
    for value in values:
        histogram.add(float(value))
    for percent in (1, 50, 90, 99, 99.9):
        assert histogram.percentile(percent) == pytest.approx(np.percentile(values, percent), abs=2 * BIN_MS)


def test_odd_values_find_a_place() -> None:
    histogram = Histogram()
    assert histogram.percentile(99) == 0.0
    for value in (-1.0, 0.0, 1e9):
        histogram.add(value)
    assert histogram.count == 3


def test_lately_is_the_last_two_seconds() -> None:
    counters = Counters()
    for number in range(300):
        total = 100.0 if number < 200 else 10.0
        counters.add(number * SECOND_NS // 30, {"total": total, "infer": 4.0, "wait": 1.0})
    now_ns = 299 * SECOND_NS // 30
    fps, latency_ms = counters.lately(now_ns)
    assert fps == pytest.approx(30, abs=0.1)
    assert latency_ms == {"p50": 10.0, "p99": 10.0}
    assert counters.masks == 300
    assert counters.overhead.percentile(50) == pytest.approx(95.0, abs=0.2)
    assert counters.lately(now_ns + 3 * SECOND_NS) == (0.0, {})
