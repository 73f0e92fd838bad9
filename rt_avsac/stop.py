"""Stop: the event that SIGINT and SIGTERM set, so that a run ends in order, from whatever it is doing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

KILLED = 130  # a second Ctrl-C: at once, without tidying up


class Stopped(BaseException):
    """The stop came inside `at_once`. No Exception, so that nobody on the way takes it for a fault."""


class Stop(threading.Event):
    """A threading.Event; inside `at_once` its signals also raise `Stopped` in the main thread."""

    def __init__(self) -> None:
        super().__init__()
        self._raising = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For work that takes long and looks at no event: compiling, loading. Stopped when the stop came (before)."""
        if self.is_set():
            raise Stopped
        self._raising = True
        try:
            yield
        finally:
            self._raising = False

    def on_signal(self, number: int, frame: object) -> None:
        if self.is_set():
            os._exit(KILLED)
        self.set()
        if self._raising:
            self._raising = False  # once is enough; what tidies up is not to be disturbed
            raise Stopped


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """The stop that SIGINT and SIGTERM set; the second one ends the process at once. Main thread only."""
    stop = Stop()
    before = {number: signal.signal(number, stop.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
