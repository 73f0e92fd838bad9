"""The min-envelope clock against simulated streams with known capture times."""

from __future__ import annotations

import numpy as np
import pytest

from rt_avsac.sample_clock import SampleClock

MS = 1_000_000
BLOCK_NS = 20 * MS


def run(clock: SampleClock, delays_ns: np.ndarray, first: int = 0, drift: float = 0.0) -> list[int]:
    """Blocks that end at true time (first + k) * 20 ms * (1 + drift), each late by its delay → error of the clock."""
    errors = []
    for number, delay_ns in enumerate(delays_ns.tolist(), first + 1):
        true_ns = round(number * BLOCK_NS * (1 + drift))
        clock.update(true_ns + round(delay_ns), number * BLOCK_NS)
        errors.append(clock.time_ns(number * BLOCK_NS) - true_ns)
    return errors


def test_jitter_hardly_moves_the_clock() -> None:
    rng = np.random.default_rng(0)
    late = np.where(rng.random(3000) < 0.05, rng.uniform(0, 15 * MS, 3000), rng.exponential(0.3 * MS, 3000))
    clock = SampleClock()
    errors = np.array(run(clock, late)[50:]) / MS
    assert abs(np.median(errors)) < 0.1
    assert errors.std() < 0.05
    assert clock.epoch == 0


@pytest.mark.parametrize("ppm", [-200, 200])
def test_it_follows_a_sound_card_that_runs_fast_or_slow(ppm: int) -> None:
    clock = SampleClock()
    late = np.random.default_rng(1).exponential(0.3 * MS, 6000)
    errors = np.array(run(clock, late, drift=ppm * 1e-6)[300:]) / MS
    assert np.abs(errors).max() < 2.0
    assert clock.epoch == 0


def test_a_stall_with_a_burst_of_the_old_samples_changes_nothing() -> None:
    clock = SampleClock()
    run(clock, np.zeros(200))
    stalled = np.array([(800 * MS - k * BLOCK_NS) for k in range(40)], float)  # all arrive when the stall ends
    errors = run(clock, np.concatenate([stalled, np.zeros(100)]), first=200)
    assert np.abs(errors).max() == 0
    assert clock.epoch == 0


def test_blocks_that_waited_for_a_slow_reader_say_nothing_of_the_camera() -> None:
    clock = SampleClock()
    run(clock, np.zeros(200))
    for number in range(201, 301):
        clock.update(number * BLOCK_NS + 300 * MS, number * BLOCK_NS, was_queued=True)
    assert clock.time_ns(0) == 0
    assert clock.epoch == 0


def test_samples_lost_without_a_word_are_found_within_half_a_second() -> None:
    clock = SampleClock()
    run(clock, np.zeros(200))
    moved = run(clock, np.full(100, 300.0 * MS), first=200)  # the count of samples is 300 ms short from now on
    assert clock.epoch == 1
    assert moved[0] == 0
    assert set(moved[26:]) == {300 * MS}


def test_an_overflow_is_a_new_beginning_at_once() -> None:
    clock = SampleClock()
    run(clock, np.zeros(200))
    clock.update(201 * BLOCK_NS + 300 * MS, 201 * BLOCK_NS, lost=True)
    assert clock.epoch == 1
    assert clock.time_ns(201 * BLOCK_NS) == 201 * BLOCK_NS + 300 * MS


def test_one_busy_moment_is_no_loss() -> None:
    clock = SampleClock()
    run(clock, np.zeros(100))
    run(clock, np.full(20, 60.0 * MS), first=100)  # 0.4 s of late callbacks
    errors = run(clock, np.zeros(100), first=120)
    assert clock.epoch == 0
    assert not any(errors)
