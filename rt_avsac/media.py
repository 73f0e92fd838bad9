"""Media: a file (or the demo clip) played as camera and microphone, at its own pace or step by step."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rt_avsac.config import LiveSettings
from rt_avsac.errors import SourceError, UserError
from rt_avsac.flow import AudioChunk, Frame, SourceState
from rt_avsac.sync import SAMPLE_RATE_HZ, AudioRing, Latest
from rt_avsac.tracks import SECOND_NS, Picture, PictureTrack, Sound, SoundTrack

MAX_BEHIND_NS = 150_000_000  # a picture later than this (a slow decoder) is not worth converting: dropped …
MAX_STALL_NS = 1_000_000_000  # … and after this (a suspended program) the clock moves on instead of a race to catch up
MAX_PATCH_SAMPLES = 320  # a hole or overlap of the sound up to 20 ms, at the seam of a loop, is filled or cut


class SoundWriter:
    """Puts sounds into the ring by their time: contiguous where they meet, a new epoch where they do not."""

    def __init__(self, ring: AudioRing) -> None:
        self.ring = ring
        self._anchor_ns = 0
        self._count = 0
        self._epoch = -1

    def write(self, samples: NDArray[np.float32], time_ns: int) -> None:
        """Samples float32 [n] at 16 kHz; `time_ns`: when the first one sounds."""
        expected_ns = self._anchor_ns + self._count * SECOND_NS // SAMPLE_RATE_HZ
        hole = round((time_ns - expected_ns) * SAMPLE_RATE_HZ / SECOND_NS)
        if self._epoch < 0 or abs(hole) > MAX_PATCH_SAMPLES:
            self._anchor_ns, self._count, self._epoch = time_ns, 0, self._epoch + 1
        elif hole > 0:
            samples = np.concatenate([np.zeros(hole, np.float32), samples])
        elif hole < 0:
            samples = samples[-hole:]
        if not len(samples):
            return
        start_ns = self._anchor_ns + self._count * SECOND_NS // SAMPLE_RATE_HZ
        self.ring.write(AudioChunk(samples, start_ns, self._count, epoch=self._epoch))
        self._count += len(samples)


class Media:
    """The pictures of one file and the sound of the same or another one; a context manager.

    Opening checks the files (SourceError). With `settings.realtime` a daemon thread plays them on an absolute
    schedule; else each `step` gives the next frame, with times that count from the first picture, the same in
    every run. `settings.loop` (and the demo) starts again at the end, with times that go on.
    """

    def __init__(self, settings: LiveSettings, video: str | None, audio: str | None) -> None:
        self.settings = settings
        self.video, self.audio = video, audio
        self.latest: Latest[Frame] = Latest()
        self.ring = AudioRing() if audio is not None else None
        self.state: SourceState = "opening"
        self.status_text = f"{video or audio} opening"
        # the demo is a camera without end; step by step it is one clip, unless a duration says how much of it
        is_demo = (settings.camera if video is not None else settings.mic) == "demo"
        self.loop = settings.loop or (is_demo and (settings.realtime or settings.duration_s > 0))
        self._writer = SoundWriter(self.ring) if self.ring is not None else None
        self._counts: Counter[str] = Counter()
        self._error: SourceError | None = None
        self._events: Iterator[Picture | Sound] = iter(())
        self._index = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def drops(self) -> dict[str, int]:
        """Frames nobody took in time, frames the decoder delivered too late, damaged packets."""
        return {"frame_overwritten": self.latest.overwritten, **self._counts}

    def __enter__(self) -> Media:
        self._events = self._played()
        first = next(self._events, None)  # opens the files: what is wrong with them is said now
        if first is None:
            self.close()
            raise SourceError(f"microphone {self.audio}: no sound could be decoded; the file is damaged or empty")
        self.state, self.status_text = "ok", f"{self.video or self.audio} playing"
        if self.settings.realtime:
            name = f"media {self.video or self.audio}"
            self._thread = threading.Thread(target=self._run, args=(first,), name=name, daemon=True)
            self._thread.start()
        else:
            self._events = _with_first(first, self._events)
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        else:
            self._events.close()  # type: ignore[attr-defined]  # closes the files
        self.latest.close()

    def check(self) -> None:
        """Raise the SourceError that ended it, if any."""
        if self._error is not None:
            raise self._error

    def step(self) -> Frame | None:
        """The next frame, its sound in the ring; None at the end. Only without `settings.realtime`."""
        for event in self._events:
            if isinstance(event, Picture):
                return self._frame(event.rgb(), event.time_ns)
            self._hear(event, 0)
        self._finish()
        return None

    def _frame(self, image: NDArray[np.uint8], shown_ns: int) -> Frame:
        frame = Frame(image, shown_ns - round(self.settings.camera_latency_ms * 1e6), self._index, "pts")
        self._index += 1
        return frame

    def _hear(self, sound: Sound, base_ns: int) -> None:
        if self._writer is not None:
            self._writer.write(sound.samples, base_ns + sound.time_ns - round(self.settings.mic_latency_ms * 1e6))

    def _finish(self) -> None:
        self.state, self.status_text = "ended", f"{self.video or self.audio} ended"
        if self.ring is not None:
            self.ring.close()
        self.latest.close()

    def _played(self) -> Iterator[Picture | Sound]:
        """Pictures and sounds in the order of their times, from 0 on; with `loop` again and again."""
        offset_ns = 0
        while True:
            end_ns = offset_ns
            for event in self._once():
                moved_ns = event.time_ns + offset_ns
                if isinstance(event, Picture):
                    end_ns = max(end_ns, moved_ns + event.duration_ns)
                    yield Picture(event.decoded, moved_ns, event.duration_ns)
                else:
                    if self.video is None:
                        end_ns = max(end_ns, event.end_ns + offset_ns)
                    yield Sound(event.samples, moved_ns)
            if not self.loop or end_ns == offset_ns:
                return
            offset_ns = end_ns

    def _once(self) -> Iterator[Picture | Sound]:
        """One time through the files. A sound comes before the first picture that is shown while it sounds."""
        pictures = PictureTrack(self.video) if self.video is not None else None
        sounds: SoundTrack | None = None
        try:
            if self.audio is not None:
                sounds = SoundTrack(self.audio)
            zero_ns = pictures.start_ns if pictures is not None and self.audio in (None, self.video) else None
            heard = _moved(sounds, sounds.start_ns if zero_ns is None else zero_ns) if sounds is not None else iter(())
            sound = next(heard, None)
            end_ns = 0
            for picture in pictures or ():
                time_ns = picture.time_ns - pictures.start_ns  # type: ignore[union-attr]
                while sound is not None and sound.time_ns <= time_ns:
                    yield sound
                    sound = next(heard, None)
                end_ns = time_ns + picture.duration_ns
                yield Picture(picture.decoded, time_ns, picture.duration_ns)
            while sound is not None and (pictures is None or sound.time_ns < end_ns):
                length = len(sound.samples)
                if pictures is not None:  # what sounds after the last picture would sound into the next round
                    length = (end_ns - sound.time_ns) * SAMPLE_RATE_HZ // SECOND_NS
                yield Sound(sound.samples[:length], sound.time_ns)
                sound = next(heard, None)
        finally:
            for track in (pictures, sounds):
                if track is not None:
                    self._counts["packet_corrupt"] += track.corrupt
                    track.close()

    def _run(self, first: Picture | Sound) -> None:
        """Thread: every event at its time."""
        base_ns = time.monotonic_ns() - first.time_ns
        try:
            for event in _with_first(first, self._events):
                behind_ns = time.monotonic_ns() - (base_ns + event.time_ns)
                if behind_ns > MAX_STALL_NS:
                    base_ns += behind_ns
                    self._counts["media_stall"] += 1
                elif behind_ns > MAX_BEHIND_NS and isinstance(event, Picture):
                    self._counts["frame_behind"] += 1
                    self._index += 1
                    continue
                image = event.rgb() if isinstance(event, Picture) else None  # before its time comes, as a camera does
                due_ns = base_ns + event.time_ns
                if self._stop.wait(max(0, due_ns - time.monotonic_ns()) / SECOND_NS):
                    break
                if image is not None:
                    self.latest.put(self._frame(image, due_ns))
                elif isinstance(event, Sound):
                    self._hear(event, base_ns)
        except UserError as error:
            self._fail(str(error))
        except Exception as error:  # a decoder's bug must not leave the loop waiting for ever
            self._fail(f"file {self.video or self.audio}: cannot be played on: {error!r}")
        finally:
            self._events.close()  # type: ignore[attr-defined]
            self._finish()

    def _fail(self, message: str) -> None:
        self._error = SourceError(message)


def _with_first(first: Picture | Sound, rest: Iterator[Picture | Sound]) -> Iterator[Picture | Sound]:
    yield first
    yield from rest


def _moved(sounds: SoundTrack, zero_ns: int) -> Iterator[Sound]:
    for sound in sounds:
        yield Sound(sound.samples, sound.time_ns - zero_ns)
