"""The newest frame and the sound that ends at it: slot, ring and aligner."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rt_avsac.config import LiveSettings
from rt_avsac.flow import AudioChunk, Frame
from rt_avsac.sync import WINDOW_SAMPLES, Aligner, AudioRing, Latest
from tests.waiting import until

MS = 1_000_000
SAMPLE_NS = 62_500


def ramp(first: int, count: int) -> np.ndarray:
    """Samples that say which they are."""
    return (np.arange(first, first + count, dtype=np.float32) + 1) / 65536


def chunk(first: int, count: int, zero_ns: int = 0, epoch: int = 0) -> AudioChunk:
    return AudioChunk(ramp(first, count)[:, None], zero_ns + first * SAMPLE_NS, first, epoch=epoch)


def frame(time_ns: int, index: int = 0) -> Frame:
    return Frame(np.zeros((4, 4, 3), np.uint8), time_ns, index)


def test_the_newest_item_wins_and_the_others_are_counted() -> None:
    latest: Latest[int] = Latest()
    assert latest.take(0.0) is None
    for item in range(5):
        latest.put(item)
    assert latest.take(0.0) == 4
    assert latest.take(0.0) is None
    assert latest.overwritten == 4


def test_a_waiting_reader_wakes_at_once_and_at_the_end() -> None:
    latest: Latest[int] = Latest()
    threading.Thread(target=latest.put, args=(7,)).start()
    assert latest.take(10.0) == 7
    threading.Thread(target=latest.close).start()
    assert latest.take(10.0) is None
    assert latest.finished
    latest.put(8)
    assert latest.take(0.0) is None


def test_the_last_item_comes_before_the_error() -> None:
    latest: Latest[int] = Latest()
    latest.put(1)
    latest.fail(OSError("gone"))
    assert latest.take(0.0) == 1
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            latest.take(0.0)


def test_a_cut_ends_at_its_time() -> None:
    ring = AudioRing()
    for first in range(0, 32_000, 320):
        ring.write(chunk(first, 320, zero_ns=5 * MS))
    samples, start_ns, end_ns, status = ring.cut(5 * MS + 20_000 * SAMPLE_NS + 20_000, 1000)
    assert status == "ok"
    assert np.array_equal(samples, ramp(19_000, 1000))
    assert end_ns == 5 * MS + 20_000 * SAMPLE_NS
    assert end_ns - start_ns == 1000 * SAMPLE_NS


def test_what_the_ring_says_of_a_cut() -> None:
    ring = AudioRing(seconds=2.0)
    assert ring.cut(0, 100)[3] == "missing"
    ring.write(chunk(0, 16_000))
    end_ns = 16_000 * SAMPLE_NS
    assert ring.end_ns == end_ns
    assert ring.cut(end_ns, 16_000)[3] == "ok"
    late = ring.cut(end_ns + 100 * SAMPLE_NS, 1000)
    assert late[3] == "late"
    assert np.array_equal(late[0][:900], ramp(15_100, 900))
    assert not late[0][900:].any()
    assert ring.cut(end_ns + 2_000_000_000, 1000)[3] == "missing"
    assert ring.cut(200 * SAMPLE_NS, 1000)[3] == "gap", "sound from before the first sample"
    ring.close()
    assert ring.cut(end_ns + 100 * SAMPLE_NS, 1000)[3] == "gap", "nothing more will come"


def test_lost_samples_leave_a_hole_and_old_ones_are_forgotten() -> None:
    ring = AudioRing(seconds=1.0)
    ring.write(chunk(0, 8000))
    hole = 1000 * SAMPLE_NS
    ring.write(AudioChunk(ramp(9000, 4000), 9000 * SAMPLE_NS, 8000, epoch=1))
    samples, _, _, status = ring.cut(13_000 * SAMPLE_NS, 12_000)
    assert status == "gap"
    assert np.array_equal(samples[:7000], ramp(1000, 7000))
    assert not samples[7000:8000].any()
    assert np.array_equal(samples[8000:], ramp(9000, 4000))
    for first in range(12_000, 40_000, 400):
        ring.write(AudioChunk(ramp(first + 1000, 400), first * SAMPLE_NS + hole, first, epoch=1))
    assert ring.cut(41_000 * SAMPLE_NS, 16_000)[3] == "ok"
    assert ring.cut(41_000 * SAMPLE_NS, 16_100)[3] == "gap"


def test_a_better_clock_moves_the_whole_run() -> None:
    ring = AudioRing()
    ring.write(chunk(0, 320, zero_ns=9 * MS))
    ring.write(chunk(320, 320, zero_ns=2 * MS))
    assert ring.end_ns == 2 * MS + 640 * SAMPLE_NS
    assert np.array_equal(ring.cut(2 * MS + 640 * SAMPLE_NS, 640)[0], ramp(0, 640))


def test_another_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="asked 48000 Hz, holds 16000 Hz"):
        AudioRing().write(AudioChunk(np.zeros(4, np.float32), 0, 0, sample_rate_hz=48_000))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 700), st.integers(0, 90)), min_size=1, max_size=25),
    st.integers(-300, 800),
    st.integers(1, 900),
)
def test_the_ring_agrees_with_a_long_tape(blocks: list[tuple[int, int]], back: int, count: int) -> None:
    """Against the plain model: one long array with every sample at its time."""
    ring, capacity = AudioRing(seconds=0.1), 1600
    tape: dict[int, float] = {}
    place, start, epoch = 0, 0, 0
    for length, hole in blocks:
        if hole > 60:  # samples were lost
            place, epoch = place + hole, epoch + 1
        ring.write(AudioChunk(ramp(place, length), place * SAMPLE_NS, start, epoch=epoch))
        tape |= dict(zip(range(place, place + length), ramp(place, length).tolist(), strict=True))
        place, start = place + length, start + length
    kept = dict(list(tape.items())[-capacity:])
    end = place - back
    samples, _, _, status = ring.cut(end * SAMPLE_NS, count)
    wanted = [kept.get(position, 0.0) for position in range(end - count, end)]
    assert samples.tolist() == wanted
    there = [position in kept for position in range(end - count, end)]
    assert (status == "ok") == all(there)
    assert (status == "missing") == (not any(there))
    if status == "late":
        assert back < 0


def test_a_frame_waits_for_its_sound_and_not_for_long() -> None:
    latest: Latest[Frame] = Latest()
    ring = AudioRing()
    aligner = Aligner(latest, ring, LiveSettings())
    ring.write(chunk(0, 16_000))
    latest.put(frame(16_320 * SAMPLE_NS))
    writer = threading.Timer(0.02, lambda: ring.write(chunk(16_000, 320)))
    writer.start()
    window = aligner.next(1.0)
    writer.join()
    assert window is not None
    assert window.status == "ok"
    assert window.skew_ns == 0
    assert window.wait_ns > 0
    assert np.array_equal(window.audio, ramp(16_320 - WINDOW_SAMPLES, WINDOW_SAMPLES))
    ring.write(chunk(16_320, 320))
    latest.put(frame(17_000 * SAMPLE_NS, 1))
    window = aligner.next(1.0)
    assert window is not None
    assert window.status == "late"
    assert window.wait_ns >= 50 * MS
    assert aligner.counts == {"ok": 1, "late": 1}


def test_nobody_waits_for_a_source_that_is_quiet_or_over() -> None:
    latest: Latest[Frame] = Latest()
    ring = AudioRing()
    aligner = Aligner(latest, ring, LiveSettings(max_audio_wait_ms=60_000.0))
    latest.put(frame(16_000 * SAMPLE_NS))
    window = aligner.next(1.0)
    assert window is not None
    assert window.status == "missing"
    ring.write(chunk(0, 15_900))
    until(lambda: ring.quiet_ns > 300 * MS)
    latest.put(frame(16_000 * SAMPLE_NS))
    window = aligner.next(1.0)
    assert window is not None
    assert window.status == "late"
    ring.write(chunk(15_900, 10))
    ring.close()
    latest.put(frame(16_000 * SAMPLE_NS))
    window = aligner.next(1.0)
    assert window is not None
    assert window.status == "gap"


def test_without_a_ring_every_window_is_missing() -> None:
    latest: Latest[Frame] = Latest()
    aligner = Aligner(latest, None, LiveSettings())
    assert aligner.next(0.0) is None
    latest.put(frame(5))
    window = aligner.next(1.0)
    assert window is not None
    assert window.status == "missing"
    assert window.skew_ns == 0
    assert not window.audio.any()


def test_clipping_is_told() -> None:
    ring = AudioRing()
    loud = np.zeros(16_000, np.float32)
    loud[9000] = -1.0
    ring.write(AudioChunk(loud, 0, 0))
    assert Aligner(Latest(), ring, LiveSettings()).window(frame(10**9)).clipped


def test_cutting_while_another_thread_writes_gives_whole_samples() -> None:
    ring = AudioRing()
    stop = threading.Event()

    def write() -> None:
        first = 0
        while not stop.is_set():
            ring.write(AudioChunk(np.full(320, first // 320 % 1000 + 1, np.float32), first * SAMPLE_NS, first))
            first += 320

    writer = threading.Thread(target=write)
    writer.start()
    until(lambda: (ring.end_ns or 0) > 10**9)
    began = time.monotonic()
    while time.monotonic() - began < 0.5:
        end_ns = ring.end_ns
        assert end_ns is not None
        samples = ring.cut(end_ns, 3200)[0]
        steps = np.diff(samples[samples > 0])
        assert set(np.unique(steps)) <= {0.0, 1.0, -999.0}
    stop.set()
    writer.join()
