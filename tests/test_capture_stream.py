"""A live stream read too slowly, on a clock of the test's own: what is skipped, and that the stamps stay true."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rt_avsac import capture_stream
from rt_avsac.config import LiveSettings

MS = 1_000_000
BEGAN_NS = 1_000 * MS
FRAME_NS = 33 * MS


class LiveStream:
    """A camera of 30 pictures a second, a key frame every 15; a read takes `read_ns`, and waits for a new picture."""

    format, duration, size = SimpleNamespace(name="rtsp"), None, -1

    def __init__(self, read_ns: int = 50_000) -> None:
        self.now_ns, self.read_ns = BEGAN_NS, read_ns
        self.streams = SimpleNamespace(video=[SimpleNamespace(type="video")])

    def demux(self, streams: list[Any]) -> Iterator[Any]:
        for number in itertools.count():
            self.now_ns = max(self.now_ns + self.read_ns, BEGAN_NS + number * FRAME_NS)
            image = np.full((1, 1, 3), number)
            picture = SimpleNamespace(pts=number * FRAME_NS, to_ndarray=lambda format, image=image: image)
            yield SimpleNamespace(
                stream=streams[0], size=1, pts=picture.pts, time_base=Fraction(1, 1_000_000_000), duration=0,
                is_keyframe=number % 15 == 0, decode=lambda picture=picture: [picture],
            )  # fmt: skip


def read(
    stream: LiveStream, monkeypatch: pytest.MonkeyPatch, busy_ns: int, span_ns: int
) -> tuple[list[int], list[int], int]:
    """Ages of the pictures when they are given, the errors of their stamps (both ns), and how many were skipped."""
    monkeypatch.setattr(capture_stream, "time", SimpleNamespace(monotonic_ns=lambda: stream.now_ns))
    skipped: list[str] = []
    ages_ns, errors_ns = [], []
    for shot in capture_stream._shots(stream, LiveSettings(), threading.Event(), None, skipped.append):
        true_ns = BEGAN_NS + int(shot.image[0, 0, 0]) * FRAME_NS
        ages_ns.append(stream.now_ns - true_ns)
        errors_ns.append(shot.time_ns - true_ns)
        if stream.now_ns - BEGAN_NS >= span_ns:
            break
        stream.now_ns += busy_ns
    return ages_ns, errors_ns, len(skipped)


def test_who_keeps_up_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ages_ns, errors_ns, num_skipped = read(LiveStream(), monkeypatch, busy_ns=30 * MS, span_ns=10_000 * MS)
    assert num_skipped == 0
    assert max(ages_ns) < FRAME_NS
    assert max(np.abs(errors_ns)) < 1 * MS


@pytest.mark.parametrize("read_us", [50, 3000])
def test_who_is_too_slow_skips_to_the_newest_and_the_stamps_stay_true(
    monkeypatch: pytest.MonkeyPatch, read_us: int
) -> None:
    stream = LiveStream(read_us * 1000)  # a busy machine takes long over what is there already
    ages_ns, errors_ns, num_skipped = read(stream, monkeypatch, busy_ns=80 * MS, span_ns=20_000 * MS)
    assert num_skipped > 200
    assert 500 * MS < max(ages_ns) < 1500 * MS
    assert sum(age_ns < 50 * MS for age_ns in ages_ns) >= 5, "the newest again and again"
    assert max(np.abs(errors_ns)) < 5 * MS, "late by our own doing, not by the camera's"
