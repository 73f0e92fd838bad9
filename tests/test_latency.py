"""Latency: what a series says of itself, and which percentiles it may claim."""

from __future__ import annotations

import numpy as np
import pytest

from rt_avsac.latency import Series, table
from tests.bench_results import series


def test_summary() -> None:
    found = series(np.arange(1, 1001) / 10).summary()
    assert found["n"] == 1000
    assert found["min"] == pytest.approx(0.1)
    assert found["max"] == pytest.approx(100.0)
    assert found["worst_frame"] == 1999
    for percent in (50, 90, 95, 99):
        assert found[f"p{percent}"] == pytest.approx(percent, abs=0.2)


@pytest.mark.parametrize(
    ("count", "claimed"), [(1, {50}), (99, {50}), (100, {50, 90}), (200, {50, 90, 95}), (999, {50, 90, 95})]
)
def test_a_percentile_without_enough_samples_is_not_claimed(count: int, claimed: set[int]) -> None:
    found = series(np.ones(count)).summary()
    assert {percent for percent in (50, 90, 95, 99) if found[f"p{percent}"] is not None} == claimed
    assert ("n/a" in table({"total": found})) is True


def test_noise_is_the_standard_error_of_p50() -> None:
    """Of the medians of eight blocks, so that drift counts and a lone stall in each does not."""
    drift = np.repeat([9.0, 11.0] * 4, 100)
    drift[::100] = 500
    assert series(drift).summary()["noise"] == pytest.approx(np.sqrt(8 / 7) / np.sqrt(8), abs=1e-4)
    assert series(np.array([9.0, 11.0])).summary()["noise"] == 1.0  # too few for blocks


def test_nothing_measured() -> None:
    assert Series().summary() == {"n": 0}
