"""The records that flow from sensor to wire: Frame, AudioChunk, Window, Region, Prediction.

All times are integer nanoseconds of `time.monotonic_ns()`; every record carries its index and capture time.
Arrays are read-only once inside a record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TimeSource = Literal["v4l2", "pts", "arrival"]
AudioStatus = Literal["ok", "late", "missing", "gap"]
SourceState = Literal["opening", "ok", "lost", "ended"]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture: uint8 [H, W, 3] RGB, captured at `time_ns` (stamped before any conversion)."""

    image: NDArray[np.uint8]
    time_ns: int
    index: int
    time_source: TimeSource = "arrival"

    def __post_init__(self) -> None:
        self.image.flags.writeable = False


@dataclass(frozen=True, slots=True, eq=False)
class AudioChunk:
    """Consecutive samples, float32 [n, channels] in [-1, 1]; `time_ns` and `start` belong to the first one.

    `start` counts samples since the stream opened; `epoch` changes when the sample clock was anchored anew
    (after an overflow, a stall or a reopen), and samples of different epochs are not contiguous.
    """

    samples: NDArray[np.float32]
    time_ns: int
    start: int
    sample_rate_hz: int = 16_000
    overflow: bool = False
    epoch: int = 0

    def __post_init__(self) -> None:
        self.samples.flags.writeable = False


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A frame and the mono audio, float32 [n], that ends at its capture time.

    `skew_ns` = audio_end_ns - frame.time_ns. Audio that is late, missing or has a gap is zero there, and
    `status` says so. `wait_ns`: how long the frame was held back for its audio.
    """

    frame: Frame
    audio: NDArray[np.float32]
    audio_start_ns: int
    audio_end_ns: int
    status: AudioStatus
    wait_ns: int = 0
    clipped: bool = False

    def __post_init__(self) -> None:
        self.audio.flags.writeable = False

    @property
    def skew_ns(self) -> int:
        return self.audio_end_ns - self.frame.time_ns


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """One sounding object: a connected region of one class.

    `mask`: bool [h, w] at network resolution. `bbox` (x, y, width, height; half-open) and `centroid` (x, y)
    are pixels of the camera image; `area_px` counts mask pixels at network resolution.
    """

    class_id: int
    label: str
    score: float
    bbox: tuple[int, int, int, int]
    centroid: tuple[float, float]
    area_px: int
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the network says of one window: probability float32 [h, w] of "this pixel sounds", and the objects.

    `probability` is None where a GPU thresholded it and sent the masks alone.

    `silent` is True when the silence gate closed (nothing audible: no objects whatever the network said).
    `stages_ns`: duration of each stage ("pre", "infer", "post").
    """

    probability: NDArray[np.float32] | None
    objects: tuple[Region, ...]
    frame_index: int
    time_ns: int
    rms_dbfs: float
    silent: bool
    stages_ns: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.probability is not None:
            self.probability.flags.writeable = False
