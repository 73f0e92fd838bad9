"""Clock: which clock a message's times belong to, and how it relates to the wall clock (stdlib only)."""

from __future__ import annotations

import functools
import platform
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """`id` names the clock; its time + `realtime_offset_ns` is nanoseconds since 1970.

    "monotonic@<boot id>" is time.monotonic_ns() since that boot; any other id is a clock that does not run in real
    time ("media": a file played as fast as it goes).
    """

    id: str
    realtime_offset_ns: int

    @classmethod
    def here(cls) -> Clock:
        """This machine's clock, now (the offset follows steps of the wall clock)."""
        return cls(f"monotonic@{_boot_id()}", time.time_ns() - time.monotonic_ns())

    def offset_ns(self) -> int | None:
        """What turns a time of this clock into one of time.monotonic_ns() here; None if it is not in real time."""
        here = Clock.here()
        if self.id == here.id:
            return 0
        return self.realtime_offset_ns - here.realtime_offset_ns if self.id.startswith("monotonic@") else None


@functools.cache
def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:  # not Linux: one clock per machine, as far as its name tells them apart
        return platform.node()
