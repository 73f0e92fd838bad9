"""The flash+beep clip, and when the flashes and beeps of a sequence of windows were: the ruler of `sync-test`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_avsac.errors import DiskError
from rt_avsac.flow import Window
from rt_avsac.sync import SAMPLE_RATE_HZ

SAMPLE_NS = 1_000_000_000 // SAMPLE_RATE_HZ
BLOCKS = 12  # the picture is watched in 12x12 blocks: the flash may be a phone in the hand
MIN_RISE = 12.0  # grey levels of the mean of a block from one frame to the next
MIN_PEAK = 0.005  # of full scale
ONSET_OF_PEAK = 0.2  # a beep begins where it passes this part of its peak …
QUIET_SAMPLES = SAMPLE_RATE_HZ // 5  # … after so long below it
MIN_INTERVAL_NS = 300_000_000  # of two flashes


class Watcher:
    """Collects windows; `flashes` and `beeps` are int64 times in ns. One thread."""

    def __init__(self) -> None:
        self.frame_times_ns: list[int] = []
        self._blocks: list[NDArray[np.float32]] = []
        self._sound = np.zeros(0, np.float32)
        self._zero_ns = 0

    def add(self, window: Window) -> None:
        height, width = window.frame.image.shape[:2]
        step = max(1, min(height, width) // (BLOCKS * 8))
        grey = window.frame.image[::step, ::step].mean(axis=2, dtype=np.float32)
        rows = np.array_split(grey, BLOCKS, axis=0)
        blocks = np.array([[part.mean() for part in np.array_split(row, BLOCKS, axis=1)] for row in rows], np.float32)
        self.frame_times_ns.append(window.frame.time_ns)
        self._blocks.append(blocks)
        if not self._sound.size:
            self._zero_ns = window.audio_start_ns
        first = round((window.audio_start_ns - self._zero_ns) / SAMPLE_NS)
        if window.status == "missing" or first < 0:
            return
        missing = first + len(window.audio) - len(self._sound)
        if missing > 0:
            # twice the length: each sample is copied a bounded number of times however long the test is
            self._sound = np.concatenate([self._sound, np.zeros(max(missing, len(self._sound)), np.float32)])
        heard = window.audio != 0  # a hole in one window does not erase what another one had
        self._sound[first : first + len(window.audio)][heard] = window.audio[heard]

    @property
    def flashes(self) -> NDArray[np.int64]:
        """Times of the frames in which some part of the picture got bright at once."""
        if len(self._blocks) < 2:
            return np.zeros(0, np.int64)
        rise = np.diff(np.array(self._blocks), axis=0).max(axis=(1, 2))
        found: list[int] = []
        for index in np.flatnonzero(rise > max(MIN_RISE, 0.5 * rise.max())):
            time_ns = self.frame_times_ns[index + 1]
            if not found or time_ns - found[-1] >= MIN_INTERVAL_NS:
                found.append(time_ns)
        return np.array(found, np.int64)

    @property
    def beeps(self) -> NDArray[np.int64]:
        """Times at which something loud began after at least 0.2 s of quiet."""
        level = np.abs(self._sound)
        peak = float(level.max(initial=0.0))
        if peak < MIN_PEAK:
            return np.zeros(0, np.int64)
        loud = np.flatnonzero(level > ONSET_OF_PEAK * peak)
        begins = loud[np.diff(loud, prepend=-QUIET_SAMPLES - 1) > QUIET_SAMPLES]
        return self._zero_ns + begins.astype(np.int64) * SAMPLE_NS

    @property
    def frame_period_ns(self) -> float:
        """Median time from one frame to the next."""
        return float(np.median(np.diff(self.frame_times_ns))) if len(self.frame_times_ns) > 1 else 0.0


def pair(flashes: NDArray[np.int64], beeps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Beep minus flash in ms, of each flash with a beep nearer than half the way to the next flash."""
    if not len(flashes) or not len(beeps):
        return np.zeros(0)
    reach_ns = np.diff(flashes).min() / 2 if len(flashes) > 1 else MIN_INTERVAL_NS
    nearest = beeps[np.abs(beeps[None, :] - flashes[:, None]).argmin(axis=1)]
    offsets = (nearest - flashes).astype(np.float64)
    return offsets[np.abs(offsets) <= reach_ns] / 1e6


def make_clip(path: Path, seconds: int = 30, rate_hz: int = 30) -> None:
    """A white flash and a 1 kHz tone of 0.1 s at every full second, h264 + aac. DiskError if it cannot be written."""
    import av

    part = path.with_name(f".{path.name}.part")
    try:
        with av.open(str(part), "w", format="mp4") as container:
            video = container.add_stream("libx264", rate=rate_hz)
            video.width, video.height, video.pix_fmt = 640, 360, "yuv420p"
            audio = container.add_stream("aac", rate=48_000, layout="mono")
            for number in range(seconds * rate_hz):
                image = np.full((360, 640, 3), 255 if number % rate_hz < 0.1 * rate_hz else 0, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = number
                container.mux(video.encode(frame))
            time_s = np.arange(48_000 * seconds) / 48_000
            tone = np.where(time_s % 1 < 0.1, 0.8 * np.sin(2 * np.pi * 1000 * time_s), 0).astype(np.float32)
            for begin in range(0, len(tone), 1024):
                sound = av.AudioFrame.from_ndarray(tone[None, begin : begin + 1024], format="fltp", layout="mono")
                sound.sample_rate, sound.pts = 48_000, begin
                container.mux(audio.encode(sound))
            container.mux(video.encode(None))
            container.mux(audio.encode(None))
        os.replace(part, path)
    except (OSError, av.error.FFmpegError) as error:
        raise DiskError(f"clip {path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    finally:
        part.unlink(missing_ok=True)
