"""Ahead: cuts the next window while the network works on this one, so that waiting for sound costs no frames."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from rt_avsac.flow import SourceState, Window
from rt_avsac.sync import Latest

POLL_S = 0.1


class Windows(Protocol):
    """Where windows come from: live sources, or a recording. One thread calls `next`."""

    def next(self, timeout_s: float) -> Window | None: ...
    def check(self) -> None: ...
    @property
    def ended(self) -> bool: ...
    @property
    def states(self) -> dict[str, SourceState]: ...
    @property
    def drops(self) -> dict[str, int]: ...
    def describe(self) -> dict[str, object]: ...


class Ahead:
    """One window in the network, one in this slot, the newest wins; a context manager. `take` from one thread.

    With a sound block of 20 ms a frame waits up to that long for its sound: in turn with a network of 15 ms that is
    more than a frame time, side by side it is not (`benchmarks/live_latency.py --in-turn` shows the difference).
    """

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._slot: Latest[tuple[Window, int]] = Latest()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)

    def __enter__(self) -> Ahead:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and not self._windows.ended:
                window = self._windows.next(POLL_S)
                if window is not None:
                    self._slot.put((window, time.monotonic_ns() - window.wait_ns))
            self._slot.close()
        except Exception as error:  # the loop decides; it reads it from the slot
            self._slot.fail(error)

    def take(self, timeout_s: float) -> tuple[Window, int] | None:
        """The newest window and when its frame was taken, ns; None after the timeout. Raises what ended the sources."""
        return self._slot.take(timeout_s)

    @property
    def ended(self) -> bool:
        return self._slot.finished

    @property
    def overwritten(self) -> int:
        """Windows that the network had no time for."""
        return self._slot.overwritten


class InTurn:
    """The same face without a thread: every window, each when it is asked for."""

    overwritten = 0

    def __init__(self, windows: Windows) -> None:
        self._windows = windows

    def __enter__(self) -> InTurn:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def take(self, timeout_s: float) -> tuple[Window, int] | None:
        window = self._windows.next(timeout_s)
        return None if window is None else (window, time.monotonic_ns() - window.wait_ns)

    @property
    def ended(self) -> bool:
        return self._windows.ended
