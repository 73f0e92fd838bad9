"""Camera: daemon threads own one device or network stream, the newest frame wins, a lost one is opened again."""

from __future__ import annotations

import importlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator

from rt_avsac.backoff import Reopener
from rt_avsac.capture_device import Shot, device_shots
from rt_avsac.capture_stream import StreamSound, stream_shots
from rt_avsac.config import LiveSettings
from rt_avsac.errors import SourceError
from rt_avsac.flow import Frame, SourceState
from rt_avsac.sync import AudioRing, Latest

OPEN_DEADLINE_S = 10.0  # to open the device and see its first frame
STUCK_S = 0.5  # how long closing waits for a thread that is inside the driver


class _Reading:
    """One opening of the device by one thread of its own, which can be left behind when the driver does not return."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.changed = threading.Condition()
        self.last_ns = 0  # arrival of the newest frame
        self.error: SourceError | None = None
        self.over = False


class Camera:
    """A V4L2 device or a network stream, the latter with its sound if asked; a context manager.

    A supervising thread watches the age of the newest frame (`max_frame_age_ms`) and starts a reading thread per
    opening. A reading that hangs in the driver is left behind (a daemon thread), and no other is begun before it
    returns, so that one thread at most owns the device; `left_behind` says so.
    """

    def __init__(self, settings: LiveSettings, with_sound: bool = False) -> None:
        self.settings = settings
        self.latest: Latest[Frame] = Latest()
        self.ring = AudioRing() if with_sound else None
        self._is_device = settings.camera.isdigit() or settings.camera.startswith("/dev/")
        self._reopener = Reopener(settings, f"camera {settings.camera}", self._attempt)
        self._latency_ns = round(settings.camera_latency_ms * 1e6)
        self._counts: Counter[str] = Counter()
        self._index = 0
        self._epochs = itertools.count()
        self._reading: _Reading | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def state(self) -> SourceState:
        return self._reopener.state

    @property
    def status_text(self) -> str:
        return self._reopener.status_text

    @property
    def left_behind(self) -> bool:
        """A reading thread hangs in the driver; the program must not wait for it."""
        reading = self._reading
        return reading is not None and reading.stop.is_set() and not reading.over

    @property
    def drops(self) -> dict[str, int]:
        """Frames nobody took in time, damaged or skipped packets, how often the camera was lost."""
        return {
            "frame_overwritten": self.latest.overwritten,
            "camera_lost": self._reopener.losses,
            **self._counts,
        }

    def check(self) -> None:
        """Raise the SourceError that ended it, if any."""
        self._reopener.check()

    def __enter__(self) -> Camera:
        self._reopener.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._reopener.stop.set()
        with self._lock:
            reading, thread = self._reading, self._thread
        if reading is not None:
            self._end(reading)
        self._reopener.join(STUCK_S)
        if thread is not None:
            thread.join(STUCK_S)
        self._close()

    def _close(self) -> None:
        self.latest.close()
        if self.ring is not None:
            self.ring.close()

    @staticmethod
    def _end(reading: _Reading) -> None:
        with reading.changed:
            reading.stop.set()
            reading.changed.notify_all()

    def _attempt(self) -> None:
        """One opening, watched until it ends. SourceError when the camera is lost."""
        with self._lock:
            if self._reopener.stop.is_set():
                return
            importlib.import_module("cv2" if self._is_device else "av")  # seconds on a cold disk: not the device's time
            if self._thread is not None:
                self._thread.join(STUCK_S)  # of the last opening
            if self.left_behind:
                raise SourceError(f"{self._reopener.name}: no frame, and its thread hangs in the driver; replug it")
            reading = self._reading = _Reading()
            self._thread = threading.Thread(
                target=self._read, args=(reading,), name=self._reopener.name + " reading", daemon=True
            )
            self._thread.start()
        try:
            self._watch(reading)
        finally:
            self._end(reading)
        self._close()  # a file on a server came to its end

    def _watch(self, reading: _Reading) -> None:
        began_ns = time.monotonic_ns()
        with reading.changed:
            while not (reading.over or reading.stop.is_set()):
                seen = reading.last_ns > 0
                limit_ms = self.settings.max_frame_age_ms if seen else OPEN_DEADLINE_S * 1000
                age_ms = (time.monotonic_ns() - max(began_ns, reading.last_ns)) / 1e6
                if age_ms > limit_ms:
                    hint = "max_frame_age_ms" if seen else "since it was opened"
                    raise SourceError(f"{self._reopener.name}: no frame for {limit_ms:.0f} ms ({hint})")
                reading.changed.wait((limit_ms - age_ms) / 1000 + 0.001)
            if reading.error is not None:
                raise reading.error

    def _shots(self, reading: _Reading) -> Iterator[Shot]:
        if self._is_device:
            return device_shots(self.settings, reading.stop)
        sound = StreamSound(self.ring, self.settings.mic_latency_ms, self._epochs) if self.ring is not None else None

        def count(reason: str) -> None:
            self._counts[reason] += 1

        return stream_shots(self.settings, reading.stop, sound, count)

    def _read(self, reading: _Reading) -> None:
        """Thread: frames of one opening."""
        error: SourceError | None = None
        try:
            for shot in self._shots(reading):
                if reading.stop.is_set():
                    break
                self._deliver(shot, reading)
        except SourceError as lost:
            error = lost
        except Exception as bug:  # whatever the driver's wrapper raises: the watch must hear of it
            error = SourceError(f"{self._reopener.name}: failed: {bug!r}")
        with reading.changed:
            reading.error, reading.over = error, True
            reading.changed.notify_all()

    def _deliver(self, shot: Shot, reading: _Reading) -> None:
        first = reading.last_ns == 0
        self.latest.put(Frame(shot.image, shot.time_ns - self._latency_ns, self._index, shot.time_source))
        self._index += 1
        reading.last_ns = time.monotonic_ns()
        if first:
            with reading.changed:
                reading.changed.notify_all()  # from now on the watch has another limit
            height, width = shot.image.shape[:2]
            self._reopener.ok(f"{width}x{height}, times by {shot.time_source}")
