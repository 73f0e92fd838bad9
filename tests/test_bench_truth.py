"""The bench tells the truth: known delays, losses and drifts are put in, and it has to find them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from rt_avsac import bench_load
from rt_avsac.bench_load import SETTLE, Measured, count
from rt_avsac.config import LiveSettings
from rt_avsac.engines import Outputs
from rt_avsac.flow import Frame, Prediction, Window
from rt_avsac.infer import Segmenter
from rt_avsac.messages import MaskMessage

FRAME_NS = 33_000_000


def messages(frames: list[int], silent: set[int] = frozenset()) -> dict[int, tuple[MaskMessage, int]]:  # type: ignore[assignment]
    """What a run sends of these frames of a camera, and when: a mask 10 ms after its frame."""
    found = {}
    for seq, index in enumerate(frames):
        at_ns = index * FRAME_NS
        message = SimpleNamespace(
            seq=seq,
            audio=SimpleNamespace(silent=index in silent),
            image=SimpleNamespace(frame_index=index),
            t=SimpleNamespace(video_ns=at_ns, publish_ns=at_ns + 9_000_000),
            latency_ms=dict.fromkeys(("capture", "wait", "pre", "infer", "post"), 1.0),
        )
        found[seq] = message, at_ns + 10_000_000
    return found  # type: ignore[return-value]


def arrivals(sent: dict[int, tuple[MaskMessage, int]]) -> dict[int, int]:
    return {seq: sent_ns + 1_000_000 for seq, (_, sent_ns) in sent.items()}


def test_a_slow_engine_is_not_faster_for_a_silent_second() -> None:
    """Every frame while nothing sounds, then every fourth: a quarter of the camera's rate, three frames lost of four."""
    loud = list(range(30, 30 + 4 * (SETTLE + 21), 4))
    sent = messages([*range(30), *loud], silent=set(range(30)))
    measured = Measured()
    count(measured, sent, arrivals(sent))
    assert measured.throughput == pytest.approx(1e9 / FRAME_NS / 4)
    assert (measured.num, measured.drops) == (20, 60)
    assert len(measured.stages["total"].values_ns) == 21


def test_a_stretch_settles_by_windows_in_which_the_network_runs() -> None:
    sent = messages(list(range(60)), silent=set(range(30)))
    measured = Measured()
    count(measured, sent, arrivals(sent))
    assert measured.stages["infer"].frames == list(range(30 + SETTLE, 60))


def test_a_message_that_does_not_arrive_is_dropped() -> None:
    sent = messages(list(range(40)))
    received = arrivals(sent)
    del received[20], received[39], received[3]  # the last before it settled
    measured = Measured()
    count(measured, sent, received)
    assert measured.drops == 2
    assert len(measured.stages["infer"].values_ns) == 40 - SETTLE
    assert len(measured.stages["total"].values_ns) == 40 - SETTLE - 2
