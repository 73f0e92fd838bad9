"""`rt-avsac sync-test`: how much later than the picture the sound is stamped, by flash and beep; what to set."""

from __future__ import annotations

import argparse
import json
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_avsac.config import LiveSettings
from rt_avsac.errors import UserError
from rt_avsac.flash_beep import Watcher, make_clip, pair
from rt_avsac.live import settings_of
from rt_avsac.sources import camera_kind, mic_plan, open_sources
from rt_avsac.stop import stop_on_signals

MIN_PAIRS = 3
GOOD_MS = 5.0  # |median| up to here needs no setting
LOCKED = 0.1  # flashes whose offsets spread less than this part of a frame come at a fixed place in the frame


class NothingMeasuredError(UserError):
    """Too few flashes had their beep."""

    exit_code = 1


@dataclass(frozen=True)
class Offset:
    """Beep minus flash as the windows have it: > 0 when the sound is stamped later than the picture. Milliseconds.

    A free-running camera sees a flash half a frame late in the mean; `correction_ms` is that half frame, 0 where the
    flashes fall on frames exactly (a file made so). `offset_ms` = median_ms + correction_ms.
    """

    flashes: int
    beeps: int
    pairs: int
    median_ms: float
    std_ms: float
    min_ms: float
    max_ms: float
    correction_ms: float
    mic_latency_ms: float
    camera_latency_ms: float

    @property
    def offset_ms(self) -> float:
        return self.median_ms + self.correction_ms


def measure(watcher: Watcher, settings: LiveSettings) -> Offset:
    """The offset and the two latency settings that remove it. NothingMeasuredError."""
    flashes, beeps = watcher.flashes, watcher.beeps
    offsets = pair(flashes, beeps)
    if len(offsets) < MIN_PAIRS:
        raise NothingMeasuredError(
            f"sync-test: asked for {MIN_PAIRS} flashes with their beep, got {len(offsets)} ({len(flashes)} flashes, "
            f"{len(beeps)} beeps in {len(watcher.frame_times_ns)} frames); play the clip of --make-clip before "
            "camera and microphone, bright and loud"
        )
    return _offset(offsets, len(flashes), len(beeps), watcher.frame_period_ns / 1e6, settings)


def _offset(offsets: NDArray[np.float64], flashes: int, beeps: int, period_ms: float, settings: LiveSettings) -> Offset:
    median_ms, std_ms = float(np.median(offsets)), float(offsets.std())
    correction_ms = 0.0 if std_ms < LOCKED * period_ms else period_ms / 2
    # the sound's setting takes it up; where that would be negative, the picture is the late one
    mic_ms = settings.mic_latency_ms + median_ms + correction_ms
    camera_ms = settings.camera_latency_ms + max(0.0, -mic_ms)
    return Offset(
        flashes,
        beeps,
        len(offsets),
        round(median_ms, 3),
        round(std_ms, 3),
        round(float(offsets.min()), 3),
        round(float(offsets.max()), 3),
        round(correction_ms, 3),
        round(max(0.0, mic_ms), 1),
        round(camera_ms, 1),
    )


def watch(settings: LiveSettings, duration_s: float, stop: threading.Event) -> Watcher:
    """Windows of the sources for `duration_s` of their own time. SourceError."""
    watcher = Watcher()
    with open_sources(settings) as sources:
        first_ns: int | None = None
        while not (stop.is_set() or sources.ended):
            window = sources.next(0.2)
            if window is None:
                continue
            first_ns = window.frame.time_ns if first_ns is None else first_ns
            if window.frame.time_ns - first_ns > duration_s * 1e9:
                break
            watcher.add(window)
    return watcher


def report(found: Offset, settings: LiveSettings) -> str:
    side = "after" if found.offset_ms >= 0 else "before"
    lines = [
        f"{found.pairs} flashes with their beep ({found.flashes} flashes, {found.beeps} beeps)",
        f"beep minus flash: median {found.median_ms:.2f} ms, std {found.std_ms:.2f} ms, "
        f"{found.min_ms:.2f} to {found.max_ms:.2f} ms"
        + (f"; half a frame added: {found.correction_ms:.1f} ms" if found.correction_ms else ""),
    ]
    if abs(found.offset_ms) <= GOOD_MS:
        lines.append(f"the sound is stamped {abs(found.offset_ms):.1f} ms {side} the picture: nothing to set")
    else:
        lines.append(f"the sound is stamped {abs(found.offset_ms):.1f} ms {side} the picture: use")
        lines.append(f"  --set mic_latency_ms={found.mic_latency_ms:g}")
        if found.camera_latency_ms != settings.camera_latency_ms:
            lines.append(f"  --set camera_latency_ms={found.camera_latency_ms:g}")
    return "\n".join(lines)


def main(args: argparse.Namespace) -> int:
    """Measures, or writes the clip to play. 0; NothingMeasuredError (exit code 1)."""
    if args.make_clip:
        make_clip(Path(args.make_clip))
        print(f"{args.make_clip}: play it full screen before camera and microphone, then run rt-avsac sync-test")
        return 0
    with stop_on_signals() as stop:
        settings = settings_of(args)
        kind = camera_kind(settings.camera)
        plan = mic_plan(settings, kind)
        if plan == "none":
            raise UserError("sync-test: asked with --mic none; it needs both a picture and a sound")
        if kind == "file" and plan != "device":
            settings = replace(settings, realtime=False, loop=False)  # nothing to wait for
        elif not args.quiet:
            print(f"watching and listening for {args.duration:g} s: show the flash, sound the beep", flush=True)
        watcher = watch(settings, args.duration, stop)
    found = measure(watcher, settings)
    if not args.quiet:
        print(report(found, settings))
    print(json.dumps({**asdict(found), "offset_ms": round(found.offset_ms, 3)}))
    return 0
