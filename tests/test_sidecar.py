"""Sidecar: what may lag never holds up the masks, and a sink that fails spoils nothing else."""

from __future__ import annotations

import threading

import numpy as np

from rt_avsac.errors import DiskError
from rt_avsac.flow import Frame, Prediction, Window
from rt_avsac.messages import MaskMessage
from rt_avsac.sidecar import QUEUE, Sidecar
from tests.wire_samples import masks

PREDICTION = Prediction(np.zeros((2, 2), np.float32), (), 0, 0, -20.0, False)
DEADLINE_S = 30.0


def window(index: int) -> Window:
    frame = Frame(np.zeros((2, 2, 3), np.uint8), index, index)
    return Window(frame, np.zeros(4, np.float32), 0, 0, "ok")


class Collector:
    """A sink that can be held up."""

    def __init__(self) -> None:
        self.indices: list[int] = []
        self.go, self.entered = threading.Event(), threading.Event()

    def __call__(self, window: Window, prediction: Prediction, message: MaskMessage) -> None:
        self.entered.set()
        assert self.go.wait(DEADLINE_S)
        self.indices.append(window.frame.index)


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    sink = Collector()
    with Sidecar({"slow": sink}, patient=False) as sidecar:
        sidecar.put(window(0), PREDICTION, masks())
        assert sink.entered.wait(DEADLINE_S)
        for index in range(1, QUEUE + 6):
            sidecar.put(window(index), PREDICTION, masks())
        assert sidecar.dropped == 5
        sink.go.set()
    assert sink.indices == list(range(QUEUE + 1))  # the end waits for what was taken in


def test_patient_takes_everything() -> None:
    sink = Collector()
    sink.go.set()
    with Sidecar({"sink": sink}, patient=True) as sidecar:
        for index in range(4 * QUEUE):
            sidecar.put(window(index), PREDICTION, masks())
    assert sink.indices == list(range(4 * QUEUE))
    assert sidecar.dropped == 0


def test_a_sink_that_fails_is_left_and_the_others_go_on() -> None:
    good = Collector()
    good.go.set()

    def bad(window: Window, prediction: Prediction, message: MaskMessage) -> None:
        raise DiskError("recording x: cannot be written")

    with Sidecar({"bad": bad, "good": good}, patient=True) as sidecar:
        for index in range(3):
            sidecar.put(window(index), PREDICTION, masks())
    assert good.indices == [0, 1, 2]
    assert isinstance(sidecar.error, DiskError)
