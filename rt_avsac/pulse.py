"""Pulse: the status of a run, at 1 Hz and on change: what it counts, how its sources are, what was lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rt_avsac.compose import Composer
from rt_avsac.counters import Counters
from rt_avsac.messages import StatusMessage
from rt_avsac.publish import Publisher
from rt_avsac.sidecar import Sidecar
from rt_avsac.sources import Windows

STATUS_NS = 1_000_000_000


@dataclass
class Pulse:
    """Publishes and shows the status: at 1 Hz and on change. From the loop, so that a hung loop shows as silence."""

    composer: Composer
    publisher: Publisher
    windows: Windows
    show: Callable[[StatusMessage], None]
    max_frame_age_ns: int
    counters: Counters = field(default_factory=Counters)
    sounding: tuple[str, ...] = ()
    sidecar: Sidecar | None = None
    _last: tuple[object, ...] = ()
    _last_ns: int = 0

    def drops(self) -> dict[str, int]:
        """By reason, for the status."""
        lost = self.sidecar.dropped if self.sidecar else 0
        own = {"publish": self.publisher.drops, "sidecar_busy": lost}
        return {reason: count for reason, count in (self.windows.drops | own).items() if count}

    def wire_drops(self) -> dict[str, int]:
        """For every mask message: frames and samples lost on the way to the network, messages that never left."""
        totals = {"video": 0, "audio": 0, "publish": self.publisher.drops}
        for reason, count in self.windows.drops.items():
            if not reason.startswith("window_"):
                totals["audio" if reason.startswith("audio") else "video"] += count
        return totals

    def state(self, now_ns: int) -> tuple[str, str]:
        """running or degraded, and why."""
        states = self.windows.states.values()
        is_whole = all(state in ("ok", "ended") for state in states)
        reasons = [] if is_whole else [str(self.windows.describe()["text"])]
        age_ns = now_ns - self.counters.last_ns
        if self.counters.masks and age_ns > self.max_frame_age_ns and not self.windows.ended:
            reasons.append(f"no frame for {age_ns / 1e9:.0f} s")
        if self.sidecar and self.sidecar.error:
            reasons.append(str(self.sidecar.error))
        text = "; ".join(filter(None, reasons))
        if not self.counters.masks and "lost" not in states:
            return "starting", text
        return ("degraded" if text else "running"), text

    def beat(self, state: str = "") -> None:
        """A status, if it is time for one."""
        now_ns = time.monotonic_ns()
        states = dict(self.windows.states)
        found, text = self.state(now_ns)
        new = (state or found, text, *sorted(states.items()))
        if new == self._last and now_ns < self._last_ns + STATUS_NS:
            return
        self._last, self._last_ns = new, now_ns
        fps, latency_ms = self.counters.lately(now_ns)
        status = self.composer.status(state or found, text, states, fps, latency_ms, self.drops(), self.sounding)
        self.publisher.send(status)
        self.show(status)
