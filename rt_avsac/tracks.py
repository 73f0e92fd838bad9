"""The picture and the sound of a media file as two streams with exact times, decoded as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_avsac.errors import SourceError
from rt_avsac.resample import Resampler
from rt_avsac.sync import SAMPLE_RATE_HZ

SECOND_NS = 1_000_000_000
MAX_DRIFT_NS = 5_000_000  # stamps further than this from the count of samples place the sound anew
ATTACHED_PICTURE = 1024  # AV_DISPOSITION_ATTACHED_PIC: the cover of an album is not a film


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture (an av.VideoFrame), shown from `time_ns` for `duration_ns` of the file's time."""

    decoded: Any
    time_ns: int
    duration_ns: int

    def rgb(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3], turned upright as the file says."""
        image = self.decoded.to_ndarray(format="rgb24")
        quarter_turns = round(self.decoded.rotation / 90) % 4  # counter-clockwise
        return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """Mono samples at 16 kHz, float32 [n]; the first one sounds at `time_ns` of the file's time."""

    samples: NDArray[np.float32]
    time_ns: int

    @property
    def end_ns(self) -> int:
        return self.time_ns + len(self.samples) * SECOND_NS // SAMPLE_RATE_HZ


def open_av(path: str, **options: Any) -> Any:
    """`av.open`, whatever a title's bytes are; before version 19 av had to be told."""
    import av

    if int(av.__version__.partition(".")[0]) < 19:
        options["metadata_errors"] = "ignore"
    return av.open(path, **options)


def open_container(path: str, what: str) -> Any:
    """The file in an av container. SourceError if it cannot be read; `what` is "camera" or "microphone"."""
    import av

    try:
        return open_av(path)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"{what} {path}: cannot be played: {reason}; give a video or sound file") from None


def _contents(container: Any) -> str:
    kinds = [f"{stream.type} ({stream.codec_context.name})" for stream in container.streams if stream.codec_context]
    return ", ".join(kinds) or "nothing that can be decoded"


class _Track:
    """One stream of one file; `corrupt` counts the packets that could not be decoded, or not wholly."""

    def __init__(self, path: str, what: str, stream: Any, container: Any) -> None:
        self.path, self.what, self.corrupt = path, what, 0
        self._container, self._stream = container, stream

    def _decoded(self) -> Iterator[Any]:
        """Frames in order; a damaged packet is skipped, a damaged end is the end."""
        import av

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError:
                self.corrupt += 1
                return
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                self.corrupt += 1
                continue
            self.corrupt += sum(frame.is_corrupt for frame in frames)
            yield from frames

    def _ns(self, ticks: int) -> int:
        return round(ticks * self._stream.time_base * SECOND_NS)

    def close(self) -> None:
        self._container.close()


class PictureTrack(_Track):
    """The pictures of a file, in order. SourceError for a file without any. Iterate once, then close."""

    def __init__(self, path: str) -> None:
        container = open_container(path, "camera")
        streams = [s for s in container.streams.video if not int(s.disposition) & ATTACHED_PICTURE]
        try:
            if not streams:
                raise SourceError(
                    f"camera {path}: asked for pictures, found {_contents(container)}; give a file with a video stream"
                )
            super().__init__(path, "camera", streams[0], container)
            self._pictures = self._timed()
            self._first = next(self._pictures, None)
            if self._first is None:
                raise SourceError(f"camera {path}: no picture could be decoded; the file is damaged or empty")
        except BaseException:
            container.close()
            raise
        self.start_ns = self._first.time_ns

    def _timed(self) -> Iterator[Picture]:
        rate = self._stream.average_rate or self._stream.base_rate
        period_ns = round(SECOND_NS / rate) if rate else SECOND_NS // 30
        next_ns: int | None = None  # where a picture without a usable stamp goes
        last_ns: int | None = None
        for decoded in self._decoded():
            stamped = decoded.pts is not None
            time_ns = self._ns(decoded.pts) if stamped else next_ns or 0
            if last_ns is not None and time_ns <= last_ns:
                time_ns = last_ns + period_ns
            duration_ns = self._ns(decoded.duration) if decoded.duration else period_ns
            last_ns, next_ns = time_ns, time_ns + duration_ns
            yield Picture(decoded, time_ns, duration_ns)

    def __iter__(self) -> Iterator[Picture]:
        first, self._first = self._first, None
        if first is not None:
            yield first
        yield from self._pictures


class SoundTrack(_Track):
    """The sound of a file as 16 kHz mono blocks. SourceError for a file without sound. Iterate once, then close."""

    def __init__(self, path: str) -> None:
        container = open_container(path, "microphone")
        if not container.streams.audio:
            found = _contents(container)
            container.close()
            raise SourceError(
                f"microphone {path}: asked for the file's sound, found {found}; use --mic none, default or a sound file"
            )
        super().__init__(path, "microphone", container.streams.audio[0], container)
        self._sounds = self._resampled()
        self._first = next(self._sounds, None)
        self.start_ns = 0 if self._first is None else self._first.time_ns

    def _resampled(self) -> Iterator[Sound]:
        import av

        to_float: Any = None
        resampler: Resampler | None = None
        anchor_ns, consumed, produced, rate_hz = 0, 0, 0, 0
        for decoded in self._decoded():
            if resampler is None or decoded.sample_rate != rate_hz:
                rate_hz, resampler, consumed = decoded.sample_rate, None, 0
            expected_ns = anchor_ns + consumed * SECOND_NS // rate_hz
            time_ns = expected_ns if decoded.pts is None else self._ns(decoded.pts)
            if resampler is None or abs(time_ns - expected_ns) > MAX_DRIFT_NS:
                if resampler is not None and len(rest := resampler.flush()):
                    yield Sound(rest, anchor_ns + produced * SECOND_NS // SAMPLE_RATE_HZ)
                resampler, anchor_ns, consumed, produced = Resampler(rate_hz, SAMPLE_RATE_HZ), time_ns, 0, 0
                to_float = av.AudioResampler(format="fltp")
            consumed += decoded.samples
            for plain in to_float.resample(decoded):
                samples = resampler.push(plain.to_ndarray().mean(axis=0, dtype=np.float32))
                if len(samples):
                    yield Sound(samples, anchor_ns + produced * SECOND_NS // SAMPLE_RATE_HZ)
                    produced += len(samples)
        if resampler is not None and len(rest := resampler.flush()):
            yield Sound(rest, anchor_ns + produced * SECOND_NS // SAMPLE_RATE_HZ)

    def __iter__(self) -> Iterator[Sound]:
        first, self._first = self._first, None
        if first is not None:
            yield first
        yield from self._sounds
