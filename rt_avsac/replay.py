"""Recording: the windows of a recorded run, in order, in place of a camera and a microphone; `rt-avsac replay`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_avsac.clock import Clock
from rt_avsac.config import LiveSettings, override
from rt_avsac.errors import UserError
from rt_avsac.flow import Frame, SourceState, Window
from rt_avsac.messages import MaskMessage, decode
from rt_avsac.record import AUDIO, LENGTHS, MESSAGES, WINDOWS, read_head
from rt_avsac.sources import Kind
from rt_avsac.stop import stop_on_signals

# a replay has its own; everything else is as it was recorded, unless said otherwise
_NOT_RECORDED = {"record": "", "annotate": "", "preview": False, "duration_s": 0.0, "loop": False, "realtime": True}
_NOT_RECORDED |= {"server_key": "", "allowed_clients": "", "log_json": False, "on_disk_full": "continue"}


class Recording:
    """The windows of a folder written by `Recorder`, up to where it is whole. One thread. UserError: not a recording.

    In real time they come at the pace and with the delays at which they came, with times of now; else as fast as
    they are asked for, with the times they had. None is ever skipped.
    """

    def __init__(self, folder: str | Path, realtime: bool) -> None:
        self.folder = Path(folder)
        head = read_head(self.folder)
        self.settings = recorded_settings(head, self.folder)
        self.kind: Kind = "file"
        self.clock = Clock("media", int(head["clock"]["realtime_offset_ns"]))
        self._lines = list(read_lines(self.folder / WINDOWS))
        if not self._lines:
            raise UserError(f"recording {folder}: no whole window in it")
        size = (self.folder / AUDIO).stat().st_size // 4  # the last sample may be cut off
        self._audio = np.memmap(self.folder / AUDIO, "<f4", "r", shape=(size,)) if size else np.zeros(0, np.float32)
        self._windows = self._read()
        self._realtime = realtime
        self._shift_ns: int | None = None
        self._waiting: Window | None = None
        self.drops: dict[str, int] = {}
        self.ended = False

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *exc: object) -> None:
        self._windows.close()  # type: ignore[attr-defined]

    @property
    def states(self) -> dict[str, SourceState]:
        return {"camera": "ended" if self.ended else "ok"}

    def check(self) -> None: ...

    def describe(self) -> dict[str, object]:
        return {"text": ""}

    def next(self, timeout_s: float) -> Window | None:
        """The next window; None when its time has not come, or at the end."""
        window = self._waiting or next(self._windows, None)
        self._waiting = None
        if window is None:
            self.ended = True
            return None
        if not self._realtime:
            return window
        if self._shift_ns is None:
            self._shift_ns = time.monotonic_ns() - window.frame.time_ns
        wait_s = (window.frame.time_ns + self._shift_ns - time.monotonic_ns()) / 1e9
        time.sleep(min(max(wait_s, 0.0), timeout_s))
        if wait_s > timeout_s:
            self._waiting = window
            return None
        return moved(window, self._shift_ns)

    def _read(self) -> Iterator[Window]:
        pictures: Iterator[NDArray[np.uint8]] = iter(())
        number = -1
        for line in self._lines:
            if line["pictures"] != number:
                number = line["pictures"]
                pictures = read_pictures(self.folder / f"{number:04}.mkv")
            image = next(pictures, None)
            first, size = line["audio"]
            audio = np.array(self._audio[first : first + size], np.float32)
            if image is None or len(audio) < size:
                return  # cut off there
            self.drops = {"frame": line["drops"]["video"], "audio": line["drops"]["audio"]}
            yield Window(
                frame=Frame(image, line["time_ns"], line["index"], line["time_source"]),
                audio=audio,
                audio_start_ns=line["audio_start_ns"],
                audio_end_ns=line["audio_end_ns"],
                status=line["status"],
                wait_ns=line["wait_ns"],
                clipped=line["clipped"],
            )


def moved(window: Window, shift_ns: int) -> Window:
    """The same at another time."""
    return dataclasses.replace(
        window,
        frame=dataclasses.replace(window.frame, time_ns=window.frame.time_ns + shift_ns),
        audio_start_ns=window.audio_start_ns + shift_ns,
        audio_end_ns=window.audio_end_ns + shift_ns,
        wait_ns=0,
    )


def recorded_settings(head: dict[str, Any], folder: Path) -> LiveSettings:
    """The settings of the recorded run."""
    known = {field.name for field in dataclasses.fields(LiveSettings)}
    kept = {key: value for key, value in head["settings"].items() if key in known and key not in _NOT_RECORDED}
    return override(LiveSettings(), kept | _NOT_RECORDED, f"recording {folder}")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Up to the first line that is not whole."""
    try:
        with open(path, encoding="utf-8") as file:
            for text in file:
                yield json.loads(text)
    except FileNotFoundError:
        return
    except ValueError:
        return


def read_pictures(path: Path) -> Iterator[NDArray[np.uint8]]:
    """uint8 [H, W, 3] in order, up to where the file is whole."""
    import av

    try:
        with av.open(path) as container:
            for frame in container.decode(video=0):
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except (av.FFmpegError, IndexError):
        return


def read_messages(folder: Path) -> Iterator[MaskMessage]:
    """The recorded messages, up to where the file is whole."""
    data = (folder / MESSAGES).read_bytes()
    at = 0
    while at + LENGTHS.size <= len(data):
        sizes = LENGTHS.unpack_from(data, at)
        at += LENGTHS.size
        if at + sum(sizes) > len(data):
            return
        parts = []
        for size in sizes:
            parts.append(data[at : at + size])
            at += size
        message = decode(parts)
        assert isinstance(message, MaskMessage)
        yield message


def main(args: argparse.Namespace) -> int:
    """`rt-avsac replay DIR`: 0, or 1 with --check when the messages are others."""
    from rt_avsac import live

    with stop_on_signals() as stop:
        recording = Recording(args.recording, realtime=args.realtime is not False)
        settings = live.settings_of(args, recording.settings)
        from rt_avsac.pipeline import run
        from rt_avsac.status import StatusLine

        with StatusLine(settings.log_json, args.quiet, args.verbose) as line:
            comparison = Comparison(recording.folder) if args.check else None
            found = run(
                settings,
                stop=stop,
                windows=recording,
                show=line.show,
                say=line.say,
                on_message=comparison.add if comparison else None,
            )
            line.say(live.last_line(settings, found))
            if comparison:
                line.say(comparison.verdict())
    code = live.conclude(settings, found, stop.is_set())
    return 1 if comparison and comparison.different else code


class Comparison:
    """Holds a replay's messages against the recorded ones: everything but times, durations, session and counts."""

    def __init__(self, folder: Path) -> None:
        self._recorded = {message.image.frame_index: message for message in read_messages(folder)}
        self.same = 0
        self.different = 0
        self._first = ""

    def add(self, message: MaskMessage) -> None:
        index = message.image.frame_index
        if index in self._recorded and essence(self._recorded[index]) == essence(message):
            self.same += 1
            return
        self.different += 1
        self._first = self._first or f" (first at frame {index})"

    def verdict(self) -> str:
        return f"check: {self.same} messages as recorded, {self.different} others{self._first}"


def essence(message: MaskMessage) -> tuple[object, ...]:
    """What the network and the sound made of the window."""
    _, _, payload = message.encode()
    objects = [dataclasses.replace(item, mask=None, probability=None) for item in message.objects]  # type: ignore[arg-type]
    described = [dataclasses.astuple(item) for item in objects]
    return message.source, message.image, message.mask, message.model, message.audio, described, payload
