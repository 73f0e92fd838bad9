"""`rt-avsac live`: options → settings, signals → a stop, a run and its last line."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from rt_avsac.config import LiveSettings, override, read_file, split_assignments
from rt_avsac.errors import DiskError, SourceError, UserError
from rt_avsac.stop import stop_on_signals

if TYPE_CHECKING:
    from rt_avsac.pipeline import Summary

# setting: least and greatest value that makes sense
RANGES: dict[str, tuple[float, float]] = {
    "camera_width": (16, 8192),
    "camera_height": (16, 8192),
    "camera_fps": (1, 1000),
    "camera_latency_ms": (-1000, 1000),
    "mic_latency_ms": (-1000, 1000),
    "max_frame_age_ms": (50, 60_000),
    "max_audio_age_ms": (50, 60_000),
    "max_audio_wait_ms": (0, 1000),
    "reopen_min_s": (0.01, 600),
    "reopen_max_s": (0.01, 3600),
    "num_threads": (1, 256),
    "threshold": (0.01, 0.99),
    "min_area_px": (1, 1 << 20),
    "silence_dbfs": (-200, 0),
    "duration_s": (0, 1e9),
}


def settings_of(args: argparse.Namespace, base: LiveSettings | None = None) -> LiveSettings:
    """`base` (the defaults), under --config, under --set, under the options; held to what makes sense. UserError."""
    settings = base or LiveSettings()
    if args.config:
        settings = override(settings, read_file(args.config), f"config {args.config}")
    settings = override(settings, split_assignments(args.set), "--set")
    given = {field.name: getattr(args, field.name, None) for field in fields(LiveSettings)}
    settings = override(settings, {key: value for key, value in given.items() if value is not None}, "options")
    check(settings)
    return settings


def check(settings: LiveSettings) -> None:
    """UserError for values that cannot work, before anything is opened."""
    from rt_avsac.messages import topic

    for key, (low, high) in RANGES.items():
        value = getattr(settings, key)
        if not low <= value <= high:
            raise UserError(f"setting {key}: asked {value}, which is not between {low:g} and {high:g}")
    try:
        topic(settings.source, "masks")
    except ValueError as error:
        raise UserError(f"setting {error}") from None
    if settings.annotate:
        path = Path(settings.annotate)
        if path.suffix.lower() != ".mp4":
            raise UserError(f"annotated video {path}: asked {path.suffix or 'no suffix'}, it can only be .mp4")
        if not path.parent.is_dir():
            raise DiskError(f"annotated video {path}: no folder {path.parent}; make it first")


def main(args: argparse.Namespace) -> int:
    """Runs until a signal, the end of the file or --duration; 0, or the code of what ended or spoilt it."""
    with stop_on_signals() as stop:
        settings = settings_of(args)
        from rt_avsac.pipeline import run
        from rt_avsac.status import StatusLine

        with StatusLine(settings.log_json, args.quiet, args.verbose) as line:
            found = run(settings, stop=stop, show=line.show, say=line.say)
            line.say(last_line(settings, found))
        return conclude(settings, found, stop.is_set())


def last_line(settings: LiveSettings, found: Summary) -> str:
    drops = " ".join(f"{reason} {count}" for reason, count in found.drops.items()) or "none"
    text = (
        f"{found.masks} masks in {found.seconds:.1f} s ({found.fps:.1f} fps), first after {found.first_mask_s:.1f} s, "
        f"latency p50 {found.latency_ms['p50']} p99 {found.latency_ms['p99']} ms, drops: {drops}"
    )
    written = [path for path in (settings.annotate, settings.record) if path and not found.error]
    return text + "".join(f"; wrote {path}" for path in written)


def conclude(settings: LiveSettings, found: Summary, stopped: bool) -> int:
    """The exit code; raises what spoilt the run. A file without one picture is a fault of the source."""
    if found.error:
        raise found.error
    if not found.masks and not stopped and not settings.duration_s:
        raise SourceError(f"camera {settings.camera}: ended without a picture; is the file whole?")
    return 0
