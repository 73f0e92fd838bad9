"""Keep a source open: attempts in a daemon thread; pauses between them double, with jitter, and stop at once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from rt_avsac.config import LiveSettings
from rt_avsac.errors import SourceError
from rt_avsac.flow import SourceState


class Backoff:
    """`wait(stop)` sleeps the next pause; `reset()` after a success."""

    def __init__(self, min_s: float, max_s: float) -> None:
        self.min_s, self.max_s = min_s, max_s
        self._next_s = min_s

    def reset(self) -> None:
        self._next_s = self.min_s

    def pause_s(self) -> float:
        """The next pause: 50 to 100 % of 0.5, 1, 2 … `max_s`, so that many clients do not knock at once."""
        pause_s, self._next_s = self._next_s, min(self._next_s * 2, self.max_s)
        return pause_s * random.uniform(0.5, 1.0)

    def wait(self, stop: threading.Event) -> bool:
        """True if the stop came."""
        return stop.wait(self.pause_s())


class HopelessError(SourceError):
    """What was asked will not come by waiting: the run ends whatever --on-source-loss says."""


class Reopener:
    """Runs `attempt` again and again in a daemon thread, as `settings.on_source_loss` says.

    `attempt()` opens the source and feeds it until it ends (returns) or is lost (SourceError); it calls `ok(text)`
    once data flows. `state`, `status_text` and `losses` can be read from any thread; `check` raises the error that
    ended it for good.
    """

    def __init__(self, settings: LiveSettings, name: str, attempt: Callable[[], None]) -> None:
        self.settings, self.name = settings, name
        self.state: SourceState = "opening"
        self.status_text = f"{name}: opening"
        self.losses = 0
        self.stop = threading.Event()
        self._attempt = attempt
        self._backoff = Backoff(settings.reopen_min_s, settings.reopen_max_s)
        self._was_ok = False
        self._error: SourceError | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ok(self, text: str) -> None:
        """Called by the attempt: data flows."""
        self._was_ok = True
        self._backoff.reset()
        self.state, self.status_text = "ok", f"{self.name}: {text}"

    def check(self) -> None:
        """Raise the SourceError that ended the source, if any."""
        if self._error is not None:
            raise self._error

    def join(self, timeout_s: float) -> bool:
        """True if the thread is over (or never began) after a `stop`."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self.stop.is_set():
            try:
                self._attempt()
            except SourceError as error:
                if self.stop.is_set() or self._lost(error):
                    return
            except Exception as error:  # a bug of a driver's wrapper must not end the thread unseen
                if self.stop.is_set() or self._lost(SourceError(f"{self.name}: failed: {error!r}")):
                    return
            else:
                if not self.stop.is_set():
                    self.state, self.status_text = "ended", f"{self.name}: ended"
                return

    def _lost(self, error: SourceError) -> bool:
        """Wait for the next attempt; True if there is none."""
        self.losses += 1
        self.state = "lost"
        policy = self.settings.on_source_loss
        final = policy == "exit" or (policy == "auto" and not self._was_ok)
        if final or isinstance(error, HopelessError):
            self.status_text, self._error = str(error), error
            return True
        pause_s = self._backoff.pause_s()
        self.status_text = f"{error}; opened again in {pause_s:.1f} s"
        return self.stop.wait(pause_s)
