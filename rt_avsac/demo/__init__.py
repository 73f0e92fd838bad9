"""The built-in demo clip and what is true of it: which pixels sound in which frame (made by tools/make_demo.py)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FRAMES_PER_S = 30
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Sound:
    """One sound of the clip: samples [start, end) at 16 kHz; `on_screen` False means that nothing visible makes it."""

    label: str
    start: int
    end: int
    on_screen: bool


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is true of the clip's n frames; index = frame index in the file.

    `time_ns` int64 [n]: since the start of the clip. `mask` uint8 [n, h, w]: class id of the sounding pixels, 0 none,
    at the clip's size. `sounding`: per frame the labels of the visible objects that sound at that instant.
    `sounds`: every sound, also the off-screen ones, to the sample. `classes`: names by class id.
    """

    time_ns: NDArray[np.int64]
    mask: NDArray[np.uint8]
    sounding: list[tuple[str, ...]]
    sounds: tuple[Sound, ...]
    classes: tuple[str, ...]
    sample_rate_hz: int

    def settled(self, window_s: float = 0.975) -> NDArray[np.bool_]:
        """bool [n]: the same things sound, in the same shot, through the whole second of audio that ends at the frame.

        In the other frames a network that hears the last second cannot be expected to be right.
        """
        end = self.time_ns * self.sample_rate_hz // 1_000_000_000
        start = end - round(window_s * self.sample_rate_hz)
        steady = start >= 0
        for sound in self.sounds:
            for edge in (sound.start, sound.end):
                steady &= (edge <= start) | (edge > end)
        return steady


def clip_path() -> Path:
    """The clip: mp4, h264 320x240 at 30 fps and aac 16 kHz mono."""
    return _HERE / "demo.mp4"


def truth() -> Truth:
    """The clip's truth (unpacks about 50 MB of masks)."""
    with np.load(_HERE / "truth.npz", allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    classes = tuple(str(name) for name in data["classes"])
    height, width = (int(size) for size in data["shape"])
    num_frames = int(data["num_frames"])
    mask = np.zeros((num_frames, height, width), np.uint8)
    sounding: list[tuple[str, ...]] = [()] * num_frames
    for frame, class_id, bits in zip(data["mask_frame"], data["mask_class"], data["mask_bits"], strict=True):
        mask[frame][np.unpackbits(bits, axis=1, count=width).view(np.bool_)] = class_id
        sounding[frame] += (classes[class_id],)
    mask.flags.writeable = False
    sounds = tuple(
        Sound(classes[class_id], int(start), int(end), bool(on_screen))
        for class_id, start, end, on_screen in data["sounds"]
    )
    time_ns = np.arange(num_frames, dtype=np.int64) * 1_000_000_000 // FRAMES_PER_S
    return Truth(time_ns, mask, sounding, sounds, classes, int(data["sample_rate_hz"]))
