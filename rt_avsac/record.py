"""Recorder: the windows the network saw, bit for bit, and the messages it made of them, in a folder; `rt-avsac record`.

Folder: recording.json (settings, model, clock), NNNN.mkv (pictures, lossless H.264 RGB, playable; a new one when the
size changes), audio.f32 (16 kHz mono samples), windows.jsonl (a line per window: times, and where its sound lies in
audio.f32), messages.bin (three u32 lengths, then topic, header and payload, per mask message). All are only ever
appended to: what was written before a crash or a full disk can be replayed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

import rt_avsac
from rt_avsac.clock import Clock
from rt_avsac.config import LiveSettings
from rt_avsac.errors import DiskError, UserError
from rt_avsac.flow import Prediction, Window
from rt_avsac.infer import ModelInfo
from rt_avsac.messages import MaskMessage
from rt_avsac.sync import SAMPLE_RATE_HZ

FORMAT = 1
HEAD, WINDOWS, AUDIO, MESSAGES = "recording.json", "windows.jsonl", "audio.f32", "messages.bin"
LENGTHS = struct.Struct("<III")
MILLISECOND = Fraction(1, 1000)
SYNC_EVERY = 30  # windows between two flushes: what a kill -9 can cost


class Pictures:
    """One lossless video file; frames of one size. OSError when the disk is full."""

    def __init__(self, path: Path, width: int, height: int) -> None:
        import av

        self.size = (width, height)
        self._file: BinaryIO = open(path, "wb", buffering=0)  # noqa: SIM115  # ours: a full disk is an OSError
        # a cluster per frame: what is cut off costs the frames behind the cut, not the whole cluster
        options = {"flush_packets": "1", "cluster_time_limit": "1"}
        self._container = av.open(self._file, "w", format="matroska", options=options)
        self._stream = self._container.add_stream("libx264rgb", rate=30)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "rgb24"
        # ultrafast is 5 ms a frame of 640x480 (FFV1: 13 ms); zerolatency: no frame waits in the encoder
        self._stream.options = {"preset": "ultrafast", "qp": "0", "tune": "zerolatency"}
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.time_base = MILLISECOND
        self._first_ns = -1
        self._last_pts = -1

    def write(self, image: NDArray[np.uint8], time_ns: int) -> None:
        import av

        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        self._first_ns = time_ns if self._first_ns < 0 else self._first_ns
        # for players only; a replay counts pictures
        frame.pts = self._last_pts = max((time_ns - self._first_ns) // 1_000_000, self._last_pts + 1)
        frame.time_base = MILLISECOND
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def close(self) -> None:
        try:
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._container.close()
        finally:
            self._file.close()


class Recorder:
    """A context manager; `write` from one thread. DiskError: it cannot be written (any more); UserError: not empty."""

    def __init__(self, folder: str, settings: LiveSettings, model: ModelInfo) -> None:
        self.folder = Path(folder)
        self.windows = 0
        self._pictures: Pictures | None = None
        self._num_pictures = 0
        self._audio_end = 0  # samples in audio.f32
        self._previous: Window | None = None
        self._open: list[BinaryIO] = []
        self._failed = False
        with self._explained():
            self.folder.mkdir(parents=True, exist_ok=True)
            if any(self.folder.iterdir()):
                raise UserError(f"recording {folder}: the folder is not empty; choose a new one")
            head = {
                "format": FORMAT,
                "rt_avsac": rt_avsac.__version__,
                "settings": dataclasses.asdict(settings),
                "model": dataclasses.asdict(model),
                "clock": dataclasses.asdict(Clock.here() if settings.realtime else Clock("media", 0)),
            }
            temporary = self.folder / f"{HEAD}.tmp"
            temporary.write_text(json.dumps(head, indent=1) + "\n", "utf-8")
            os.replace(temporary, self.folder / HEAD)
            for name in (AUDIO, WINDOWS, MESSAGES):
                self._open.append(open(self.folder / name, "wb"))  # noqa: SIM115  # closed by close()
        self._audio, self._lines, self._messages = self._open

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def write(self, window: Window, prediction: Prediction, message: MaskMessage) -> None:
        """One window and its message; the picture first, so that a line in windows.jsonl has all it speaks of."""
        frame = window.frame
        height, width = frame.image.shape[:2]
        with self._explained():
            if self._pictures is None or self._pictures.size != (width, height):
                self._close_pictures()
                self._pictures = Pictures(self.folder / f"{self._num_pictures:04}.mkv", width, height)
                self._num_pictures += 1
            self._pictures.write(frame.image, frame.time_ns)
            line = {
                "pictures": self._num_pictures - 1,
                "index": frame.index,
                "time_ns": frame.time_ns,
                "time_source": frame.time_source,
                "audio": [self._keep_audio(window), len(window.audio)],
                "audio_start_ns": window.audio_start_ns,
                "audio_end_ns": window.audio_end_ns,
                "status": window.status,
                "wait_ns": window.wait_ns,
                "clipped": window.clipped,
                "seq": message.seq,
                "drops": message.drops,
            }
            parts = message.encode()
            self._messages.write(LENGTHS.pack(*map(len, parts)) + b"".join(parts))
            self._lines.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
            self.windows += 1
            if self.windows % SYNC_EVERY == 1:
                for file in self._open:
                    file.flush()

    def _keep_audio(self, window: Window) -> int:
        """Where its samples begin in audio.f32. What goes on from the last window adds its new samples only."""
        audio = window.audio
        new = len(audio) if self._previous is None else num_new(self._previous, window)
        self._audio.write(audio[len(audio) - new :].tobytes())
        self._audio_end += new
        self._previous = window
        return self._audio_end - len(audio)

    def _close_pictures(self) -> None:
        pictures, self._pictures = self._pictures, None
        if pictures is not None:
            pictures.close()

    def close(self) -> None:
        """Finishes the files; after an error what can be finished is, without a second error."""
        open_files, self._open = self._open, []
        already_failed = self._failed
        try:
            with self._explained():
                try:
                    self._close_pictures()
                finally:
                    errors = [error for file in open_files if (error := closed(file))]
                if errors:
                    raise errors[0]
        except DiskError:
            if not already_failed:
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import av

        try:
            yield
        except (OSError, av.FFmpegError) as error:
            self._failed = True
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise DiskError(
                f"recording {self.folder}: cannot be written: {reason}; "
                f"{self.windows} windows are in it and can be replayed"
            ) from error


def closed(file: BinaryIO) -> OSError | None:
    """Closes; the error instead of raising it, so that the next file is closed too."""
    try:
        file.close()
    except OSError as error:
        return error
    return None


def num_new(old: Window, new: Window) -> int:
    """How many samples `new` has after those of `old`; all of them where the bits do not agree (late sound came in)."""
    size = len(new.audio)
    expected = round((new.audio_end_ns - old.audio_end_ns) * SAMPLE_RATE_HZ / 1_000_000_000)
    for count in (expected, expected + 1, expected - 1):  # the sample clock moves a little
        if 0 < count < size == len(old.audio) and np.array_equal(old.audio[count:], new.audio[: size - count]):
            return count
    return size


def main(args: argparse.Namespace) -> int:
    """`rt-avsac record DIR …`: live, but a full disk ends it."""
    from rt_avsac import live

    args.set.append("on_disk_full=exit")
    return live.main(args)


def read_head(folder: Path) -> dict[str, Any]:
    """recording.json; UserError when it is not there or of another format."""
    try:
        head = json.loads((folder / HEAD).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"recording {folder}: {HEAD} cannot be read: {error}; give a folder made by --record") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise UserError(f"recording {folder}: asked format {FORMAT}, got another; use the rt-avsac that made it")
    return head
