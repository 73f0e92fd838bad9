"""Media files for the tests, written with PyAV: flash and beep at each full second, and every way a file can be odd."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
FLASH_S = 0.1


def flash(t: float) -> NDArray[np.uint8]:
    """White for the first 0.1 s of each second, else black."""
    return np.full((96, 128, 3), 255 if (t + 1e-6) % 1 < FLASH_S else 0, np.uint8)


def beep(t: Samples) -> Samples:
    """1 kHz for the first 0.1 s of each second; `t` float64 [n] seconds."""
    return np.where((t + 1e-9) % 1 < FLASH_S, 0.8 * np.cos(2 * np.pi * 1000 * t), 0)


def write_clip(
    path: Path,
    seconds: float = 3.0,
    *,
    rate: int = 30,
    picture: Callable[[float], NDArray[np.uint8]] | None = flash,
    times_s: Sequence[float] | None = None,
    sound: Callable[[Samples], Samples] | None = beep,
    sound_rate: int = 48_000,
    channels: int = 1,
    sound_begins_s: float = 0.0,
    sound_ends_s: float | None = None,
    codec: str = "aac",
) -> Path:
    """`picture(t)` at `rate` (or at `times_s`), `sound(t)` from `sound_begins_s` on. Lossy, but exact in time."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate, options={"g": "15"}) if picture else None
        audio = (
            container.add_stream(codec, rate=sound_rate, layout="mono" if channels == 1 else "stereo")
            if sound
            else None
        )
        if video is not None and picture is not None:
            video.height, video.width = picture(0.0).shape[:2]
            video.pix_fmt = "yuv420p"
            video.codec_context.time_base = Fraction(1, 600)
            for t in times_s if times_s is not None else np.arange(round(seconds * rate)) / rate:
                frame = av.VideoFrame.from_ndarray(picture(float(t)), format="rgb24")
                frame.pts, frame.time_base = round(float(t) * 600), Fraction(1, 600)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None and sound is not None:
            end_s = seconds if sound_ends_s is None else sound_ends_s
            first = round(sound_begins_s * sound_rate)
            t = np.arange(first, round(end_s * sound_rate)) / sound_rate
            data = np.repeat(sound(t).astype(np.float32)[None], channels, axis=0)
            data = np.ascontiguousarray(data)
            for begin in range(0, data.shape[1], 1024):
                block = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(data[:, begin : begin + 1024]),
                    format="fltp",
                    layout="mono" if channels == 1 else "stereo",
                )
                block.sample_rate, block.pts = sound_rate, first + begin
                block.time_base = Fraction(1, sound_rate)
                container.mux(audio.encode(block))
            container.mux(audio.encode(None))
    return path


def turn_clockwise(path: Path) -> None:
    """Marks an mp4's picture as filmed with the phone held upright: shown a quarter turn clockwise."""
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    struct.pack_into(">9i", data, header + 40, 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
