"""Turn the words of --camera and --mic into running sources: Camera, Microphone and Media behind one `next()`."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Protocol

from rt_avsac.clock import Clock
from rt_avsac.config import LiveSettings
from rt_avsac.errors import SourceError, UserError
from rt_avsac.flow import Frame, SourceState, Window
from rt_avsac.sync import Aligner, AudioRing, Latest

Kind = Literal["device", "stream", "file"]
STREAM_URL = re.compile(r"^(rtsp|rtsps|http|https|rtmp|udp|tcp|srt)://", re.IGNORECASE)
SOUND_SUFFIXES = (".wav", ".mp3", ".mp4", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".mkv", ".webm", ".mov", ".avi")


class Source(Protocol):
    """A camera, microphone or player: daemon threads between `__enter__` and `__exit__`."""

    @property
    def state(self) -> SourceState: ...
    @property
    def status_text(self) -> str: ...
    @property
    def drops(self) -> dict[str, int]: ...
    def check(self) -> None:
        """Raise the SourceError that ended it, if any."""


class Windows(Protocol):
    """Where a run's windows come from, `Sources` or a recording; a context manager. One thread calls `next`.

    `clock`: of the times where they are not of now.
    """

    kind: Kind
    clock: Clock

    def __enter__(self) -> Windows: ...
    def __exit__(self, *exc: object) -> None: ...
    def next(self, timeout_s: float) -> Window | None: ...
    def check(self) -> None: ...
    def describe(self) -> dict[str, object]: ...
    @property
    def ended(self) -> bool: ...
    @property
    def states(self) -> dict[str, SourceState]: ...
    @property
    def drops(self) -> dict[str, int]: ...


def camera_kind(camera: str) -> Kind:
    """Device (index or /dev path), stream (URL) or file (also "demo"). SourceError for a file that is not there."""
    if camera.isdigit() or camera.startswith("/dev/"):
        return "device"
    if STREAM_URL.match(camera):
        return "stream"
    if camera == "demo" or Path(camera).is_file():
        return "file"
    found = "that kind of address is unknown" if "://" in camera else "no such file"
    raise SourceError(
        f"camera {camera}: {found}; use a device index (0), a /dev path, an rtsp:// or http:// address, a file, or demo"
    )


def mic_plan(settings: LiveSettings, kind: Kind) -> str:
    """What --mic means beside this kind of camera: "none", "same", "device", or "file"."""
    mic = settings.mic
    if mic == "auto":
        return "same" if kind == "file" else "device"
    if mic == "same" and kind == "device":
        raise SourceError(f"microphone same: camera {settings.camera} is a device without sound; use default or none")
    if mic in ("none", "same"):
        return mic
    if mic == "demo" or Path(mic).is_file():
        return "file"
    if "/" in mic or Path(mic).suffix.lower() in SOUND_SUFFIXES:
        raise SourceError(f"microphone {mic}: no such file; see `rt-avsac devices` for microphones")
    return "device"


def file_path(name: str) -> str:
    """The path of a file, or of the built-in clip for "demo"."""
    if name != "demo":
        return name
    from rt_avsac.demo import clip_path

    return str(clip_path())


class Sources:
    """Camera and microphone as asked for; a context manager. `next` from one thread.

    `latest` and `ring` (None without sound) belong to whatever sources run. With `settings.realtime` False every
    frame of a file comes, as fast as it is asked for, with times that count from the file's beginning.
    """

    def __init__(self, settings: LiveSettings) -> None:
        from rt_avsac.camera import Camera
        from rt_avsac.media import Media
        from rt_avsac.microphone import Microphone

        self.settings = settings
        self.kind: Kind = camera_kind(settings.camera)
        kind = self.kind
        self.clock = Clock("media", 0)
        self.plan = plan = mic_plan(settings, kind)
        if not settings.realtime and (kind != "file" or plan == "device"):
            raise UserError(
                f"--no-realtime: asked with camera {settings.camera} and microphone {settings.mic}, "
                "which are live; it needs files (or --mic none)"
            )
        self.sources: list[Source] = []
        self._media: Media | None = None
        self.ring: AudioRing | None = None
        self.latest: Latest[Frame]
        if kind == "file":
            video = file_path(settings.camera)
            audio = {"same": video, "file": file_path(settings.mic)}.get(plan)
            media = self._media = Media(settings, video=video, audio=audio)
            self.latest, self.ring = media.latest, media.ring
            self.sources.append(media)
        else:
            camera = Camera(settings, with_sound=plan == "same")
            self.latest, self.ring = camera.latest, camera.ring
            self.sources.append(camera)
            if plan == "file":
                player = Media(settings, video=None, audio=file_path(settings.mic))
                self.ring = player.ring
                self.sources.append(player)
        if plan == "device":
            microphone = Microphone(settings)
            self.ring = microphone.ring
            self.sources.append(microphone)
        self.aligner = Aligner(self.latest, self.ring, settings)
        self._stack = ExitStack()

    def __enter__(self) -> Sources:
        with ExitStack() as stack:
            for source in self.sources:
                stack.enter_context(source)  # type: ignore[arg-type]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def check(self) -> None:
        """Raise the SourceError that ended one of them, if any."""
        for source in self.sources:
            source.check()

    def next(self, timeout_s: float) -> Window | None:
        """The next window; None if none came in time or at the end (`ended`). SourceError for a source lost."""
        self.check()
        if self._media is not None and not self.settings.realtime:
            frame = self._media.step()
            return None if frame is None else self.aligner.window(frame, wait=False)
        return self.aligner.next(timeout_s)

    def __iter__(self) -> Iterator[Window]:
        """Windows until the end."""
        while not self.ended:
            if (window := self.next(0.2)) is not None:
                yield window

    @property
    def ended(self) -> bool:
        """A file came to its end and its last frame was taken."""
        return self.latest.finished

    @property
    def states(self) -> dict[str, SourceState]:
        """{"camera": …, "mic": …}; a file's sound has the file's state, and there is no "mic" with --mic none."""
        states: dict[str, SourceState] = {"camera": self.sources[0].state}
        if self.ring is not None:
            states["mic"] = self.sources[-1].state
        return states

    @property
    def drops(self) -> dict[str, int]:
        """What was lost, by reason: frames overwritten, samples lost by the driver, windows without full sound."""
        drops = {reason: count for source in self.sources for reason, count in source.drops.items()}
        drops |= {f"window_{status}": n for status, n in self.aligner.counts.items() if status != "ok"}
        return {reason: count for reason, count in drops.items() if count}

    def describe(self) -> dict[str, object]:
        """For the status: what runs, how it is, since when the newest sound is there."""
        quiet_ns = math.inf if self.ring is None else self.ring.quiet_ns
        quiet_ms = round(quiet_ns / 1e6, 1) if math.isfinite(quiet_ns) else None
        return {
            "camera": self.settings.camera,
            "mic": self.settings.mic,
            "states": dict(self.states),
            "text": "; ".join(source.status_text for source in self.sources),
            "drops": self.drops,
            "audio_quiet_ms": quiet_ms,
            "monotonic_ns": time.monotonic_ns(),
        }


def open_sources(settings: LiveSettings) -> Sources:
    """Sources of the settings, not yet running: `with open_sources(settings) as sources`. SourceError, UserError."""
    return Sources(settings)
