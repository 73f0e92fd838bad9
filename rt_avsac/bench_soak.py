"""`rt-avsac bench --soak HOURS`: does memory grow, does latency? The whole pipeline on the demo for hours."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rt_avsac import machine
from rt_avsac.config import LiveSettings
from rt_avsac.messages import MaskMessage

MAX_GROWTH_MB_PER_HOUR = 8.0
MIN_HOURS = 1 / 6  # of looks: in less, what settles is taken for growth (15 s: "119 MB an hour")
MIN_LOOKS = 10
STRETCH_S = 20.0  # or a 50th of a shorter soak
SAY_S = 60.0


@dataclass
class Trend:
    """What is looked at from time to time: one entry of each list a stretch; time begins with the first mask."""

    stretch_s: float
    began_s: float = 0.0  # time.monotonic()
    hours: list[float] = field(default_factory=list)  # since then, at the end of the stretch
    memory_mb: list[float] = field(default_factory=list)  # resident, at its end
    p50_ms: list[float] = field(default_factory=list)  # of its masks with sound, capture to publish
    max_ms: list[float] = field(default_factory=list)
    _stretch_ms: list[float] = field(default_factory=list)
    _ends_s: float = 0.0

    def add(self, total_ms: float) -> bool:
        """A mask was published; True when it ended a stretch."""
        now_s = time.monotonic()
        if not self.began_s:
            self.began_s, self._ends_s = now_s, now_s + self.stretch_s
        self._stretch_ms.append(total_ms)
        if now_s < self._ends_s:
            return False
        self._ends_s = now_s + self.stretch_s
        self.hours.append(round((now_s - self.began_s) / 3600, 5))
        self.memory_mb.append(machine.memory_mb().get("resident", 0.0))
        self.p50_ms.append(round(float(np.median(self._stretch_ms)), 3))
        self.max_ms.append(round(max(self._stretch_ms), 3))
        self._stretch_ms.clear()
        return True

    def growth(self) -> tuple[float, float] | None:
        """MB an hour (least squares) and MB in all, after the first tenth; None: too short to tell."""
        settled = slice(len(self.hours) // 10, None)
        hours, memory = np.array(self.hours[settled]), np.array(self.memory_mb[settled])
        if len(hours) < MIN_LOOKS or self.hours[-1] < MIN_HOURS:
            return None
        return float(np.polyfit(hours, memory, 1)[0]), float(memory[-1] - memory[0])


def growth_text(result: dict[str, Any]) -> str:
    """What the table and the picture say of it."""
    if result["growth_mb_per_hour"] is None:
        return f"too short to tell whether memory grows (at least {MIN_HOURS * 60:.0f} minutes)"
    return f"memory grows {result['growth_mb_per_hour']} MB an hour"


def soak(settings: LiveSettings, hours: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Until the hours are over or Ctrl-C; `say` gets a line a minute."""
    from rt_avsac.pipeline import run
    from rt_avsac.stop import stop_on_signals

    seconds = hours * 3600
    trend = Trend(min(STRETCH_S, seconds / 50))
    said_s = time.monotonic()

    def watch(message: MaskMessage) -> None:
        nonlocal said_s
        if message.audio.silent:  # the network had nothing to do: no latency
            return
        if trend.add(message.latency_ms["total"]) and time.monotonic() - said_s >= SAY_S:
            said_s = time.monotonic()
            left_min = max(0.0, hours - trend.hours[-1]) * 60
            say(
                f"{trend.hours[-1]:.2f} of {hours:g} h: {trend.memory_mb[-1]:.1f} MB, p50 {trend.p50_ms[-1]:.1f} ms, "
                f"max {trend.max_ms[-1]:.1f} ms; {left_min:.0f} min left"
            )

    with stop_on_signals() as stop:
        settings = replace(settings, camera="demo", mic="auto", bind="tcp://127.0.0.1:0", duration_s=seconds)
        summary = run(settings, stop=stop, say=say, on_message=watch)
    grown = trend.growth()
    growth, gained = grown or (0.0, 0.0)
    return {
        "hours": round(summary.seconds / 3600, 4),
        "masks": summary.masks,
        "fps": round(summary.fps, 2),
        "drops": summary.drops,
        "latency_ms": summary.latency_ms,
        "at_hours": trend.hours,
        "memory_mb": trend.memory_mb,
        "p50_ms": trend.p50_ms,
        "max_ms": trend.max_ms,
        "growth_mb_per_hour": round(growth, 2) if grown else None,
        "gained_mb": round(gained, 2) if grown else None,
        # over a short soak the slope is noise: what was really gained must be visible too
        "grows": growth > MAX_GROWTH_MB_PER_HOUR and gained > MAX_GROWTH_MB_PER_HOUR,
    }
