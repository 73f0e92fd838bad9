"""Sidecar: a thread for what may lag behind the masks (recording, annotated video, previews), with a bounded queue."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from rt_avsac.errors import UserError
from rt_avsac.flow import Prediction, Window
from rt_avsac.messages import MaskMessage

QUEUE = 32  # windows of 640x480: 30 MB
Sink = Callable[[Window, Prediction, MaskMessage], None]

_log = logging.getLogger(__name__)


class Sidecar:
    """Hands every window to its sinks, in order; a context manager that empties the queue at its end.

    `patient`: a full queue makes `put` wait (deterministic runs) instead of dropping. A sink that fails is not called
    again: what it raised is kept in `error`, the masks go on.
    """

    def __init__(self, sinks: dict[str, Sink], patient: bool) -> None:
        self._sinks = dict(sinks)
        self._patient = patient
        self._queue: deque[tuple[Window, Prediction, MaskMessage]] = deque()
        self._condition = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="sidecar", daemon=True)
        self.dropped = 0
        self.error: UserError | None = None

    def __enter__(self) -> Sidecar:
        if self._sinks:
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._condition:
            self._ending = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def put(self, window: Window, prediction: Prediction, message: MaskMessage) -> None:
        """From the loop; does not wait unless `patient`."""
        if not self._sinks:
            return
        with self._condition:
            if self._patient:
                self._condition.wait_for(lambda: len(self._queue) < QUEUE or not self._thread.is_alive())
            if len(self._queue) >= QUEUE:
                self.dropped += 1
                return
            self._queue.append((window, prediction, message))
            self._condition.notify_all()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._queue or self._ending)
                if not self._queue:
                    return
                item = self._queue.popleft()
                self._condition.notify_all()
            for name, sink in list(self._sinks.items()):
                try:
                    sink(*item)
                except Exception as error:
                    del self._sinks[name]
                    known = error if isinstance(error, UserError) else UserError(f"{name}: stopped: {error!r}")
                    self.error = self.error or known
                    _log.error("%s", known, exc_info=not isinstance(error, UserError))
