"""Pictures, and the sound if asked, of a network stream (RTSP, HTTP, …) through PyAV, with capture times."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rt_avsac.backoff import HopelessError
from rt_avsac.capture_device import Shot
from rt_avsac.config import LiveSettings
from rt_avsac.errors import SourceError
from rt_avsac.flow import AudioChunk, TimeSource
from rt_avsac.resample import Resampler
from rt_avsac.sample_clock import SampleClock
from rt_avsac.sync import SAMPLE_RATE_HZ, AudioRing
from rt_avsac.tracks import open_av

SECOND_NS = 1_000_000_000
OPEN_TIMEOUT_S = 5.0
NO_BUFFER = {"fflags": "nobuffer"}  # forget what was read to recognise a live stream; of a file it is the beginning
READ_MARGIN_S = 0.3  # a read gives up so long after the watchdog did
MAX_STAMP_AGE_NS = 2_000_000_000
MAX_DRIFT_NS = 20_000_000  # sound whose stamps leave the count of its samples by this much begins a new run
NO_CLOCK_FORMATS = ("mpjpeg", "mjpeg")  # their stamps are made up by the reader
BEHIND_AFTER_NS = 1_000_000_000  # in each such span the reads must have waited …
MIN_WAITED_NS = 50_000_000  # … so much in all, or we are too slow and skip to the newest
DRAINED_NS = 5_000_000  # a read that waited so long, not just for its turn on the processor, found nothing queued
OPTIONS = {
    "rtsp_transport": "tcp",
    "flags": "low_delay",
    "analyzeduration": "1000000",
    "probesize": "500000",
}


class StreamSound:
    """The samples of a stream into a ring, placed by the stream's own stamps on our clock."""

    def __init__(self, ring: AudioRing, latency_ms: float, epochs: Iterator[int]) -> None:
        self.ring = ring
        self._epochs = epochs  # a new number for each run, also those of other openings
        self._epoch = 0
        self._latency_ns = round(latency_ms * 1e6)
        self._resampler: Resampler | None = None
        self._to_float: Any = None
        self._rate_hz = self._anchor_ns = self._consumed = self._produced = 0
        self._clock_epoch = 0

    def hear(self, decoded: Any, position_ns: int, clock: SampleClock) -> None:
        """An av.AudioFrame whose first sample is at `position_ns` of the stream."""
        import av

        expected_ns = self._anchor_ns + self._consumed * SECOND_NS // max(1, self._rate_hz)
        moved = clock.epoch != self._clock_epoch or abs(position_ns - expected_ns) > MAX_DRIFT_NS
        if self._resampler is None or decoded.sample_rate != self._rate_hz or moved:
            self._rate_hz, self._clock_epoch = decoded.sample_rate, clock.epoch
            self._resampler = Resampler(self._rate_hz, SAMPLE_RATE_HZ)
            self._to_float = av.AudioResampler(format="fltp")
            self._anchor_ns, self._consumed, self._produced = position_ns, 0, 0
            self._epoch = next(self._epochs)
        self._consumed += decoded.samples
        for plain in self._to_float.resample(decoded):
            samples = self._resampler.push(plain.to_ndarray().mean(axis=0, dtype=np.float32))
            if len(samples):
                offset_ns = self._produced * SECOND_NS // SAMPLE_RATE_HZ
                time_ns = clock.time_ns(self._anchor_ns + offset_ns) - self._latency_ns
                self.ring.write(AudioChunk(samples, time_ns, self._produced, epoch=self._epoch))
                self._produced += len(samples)


def _read_timeout_s(settings: LiveSettings) -> float:
    return settings.max_frame_age_ms / 1000 + READ_MARGIN_S


def _opened(settings: LiveSettings) -> Any:
    import av

    try:
        return open_av(
            settings.camera,
            options=OPTIONS if settings.camera.lower().startswith("http") else OPTIONS | NO_BUFFER,
            timeout=(OPEN_TIMEOUT_S, _read_timeout_s(settings)),
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, av.error.ExitError):
            reason = f"no answer within {OPEN_TIMEOUT_S:.0f} s"
        raise SourceError(
            f"camera {settings.camera}: cannot be opened: {reason}; check the address, or wait for it with "
            "--on-source-loss reopen"
        ) from None


def stream_shots(
    settings: LiveSettings, stop: threading.Event, sound: StreamSound | None, count: Callable[[str], None]
) -> Iterator[Shot]:
    """Pictures until `stop` or the end of a finite file; the sound goes into `sound`. SourceError when it is lost.

    `count(reason)` is called for everything dropped. A read returns soon after `max_frame_age_ms` at the latest.
    """
    import av

    container = _opened(settings)
    try:
        if not container.streams.video:
            raise HopelessError(f"camera {settings.camera}: asked for pictures, found a stream without any")
        if sound is not None and not container.streams.audio:
            raise HopelessError(
                f"microphone same: asked for the sound of {settings.camera}, found a stream without sound; "
                "use --mic default or none"
            )
        yield from _shots(container, settings, stop, sound, count)
    except av.error.ExitError:
        raise SourceError(f"camera {settings.camera}: no data for {_read_timeout_s(settings):.1f} s") from None
    except (av.error.FFmpegError, OSError) as error:
        raise SourceError(f"camera {settings.camera}: lost: {getattr(error, 'strerror', error)}") from None
    finally:
        container.close()


def _shots(
    container: Any,
    settings: LiveSettings,
    stop: threading.Event,
    sound: StreamSound | None,
    count: Callable[[str], None],
) -> Iterator[Shot]:
    import av

    video = container.streams.video[0]
    streams = [video] if sound is None else [video, container.streams.audio[0]]
    has_clock = not any(name in NO_CLOCK_FORMATS for name in container.format.name.split(","))
    # a file on a server: it has a length, or a size (a live stream has an error there)
    is_finite = has_clock and (container.duration is not None or (container.size or 0) > 0)
    clock = SampleClock()
    span_ns = before_ns = time.monotonic_ns()
    waited_ns = 0
    skipping = drained = False
    began_ns: int | None = None
    for packet in container.demux(streams):
        now_ns = time.monotonic_ns()  # before any decoding
        if stop.is_set():
            return
        if packet.size == 0:
            continue
        is_picture = packet.stream.type == "video"
        start_ns = None if packet.pts is None else round(packet.pts * packet.time_base * SECOND_NS)
        if is_finite and start_ns is not None:  # a file on a server comes as fast as the net goes: play it at its pace
            began_ns = now_ns - start_ns if began_ns is None else began_ns
            if stop.wait(max(0, began_ns + start_ns - now_ns) / SECOND_NS):
                return
            now_ns = time.monotonic_ns()
        waited_ns += now_ns - before_ns
        was_queued = now_ns - before_ns < DRAINED_NS
        drained = drained or not was_queued
        if skipping and drained and is_picture and packet.is_keyframe:
            skipping, span_ns, waited_ns = False, now_ns, 0
        elif now_ns - span_ns >= BEHIND_AFTER_NS and not (skipping or is_finite):
            skipping, drained, span_ns, waited_ns = waited_ns < MIN_WAITED_NS, False, now_ns, 0
        if start_ns is not None and has_clock:
            # the picture is whole at its stamp, the sound at the end of its packet
            length_ns = 0 if is_picture else round((packet.duration or 0) * packet.time_base * SECOND_NS)
            clock.update(now_ns, start_ns + length_ns, was_queued=was_queued)
        if skipping and is_picture:
            count("packet_behind")
            before_ns = time.monotonic_ns()
            continue
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            count("packet_corrupt")
            frames = []
        for decoded in frames:
            position_ns = None if decoded.pts is None else round(decoded.pts * packet.time_base * SECOND_NS)
            if is_picture:
                time_ns, time_source = _picture_time(now_ns, position_ns if has_clock else None, clock)
                yield Shot(decoded.to_ndarray(format="rgb24"), time_ns, time_source)
            elif sound is not None and position_ns is not None:
                sound.hear(decoded, position_ns, clock)
        before_ns = time.monotonic_ns()
    if not is_finite:
        raise SourceError(f"camera {settings.camera}: lost: the stream ended")


def _picture_time(now_ns: int, position_ns: int | None, clock: SampleClock) -> tuple[int, TimeSource]:
    if position_ns is not None and clock.started:
        time_ns = clock.time_ns(position_ns)
        if 0 <= now_ns - time_ns <= MAX_STAMP_AGE_NS:
            return time_ns, "pts"
    return now_ns, "arrival"
