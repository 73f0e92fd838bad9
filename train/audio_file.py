"""Reads any sound file as the mono samples that the network hears."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_avsac.errors import UserError
from rt_avsac.model.settings import SAMPLE_RATE_HZ
from rt_avsac.tracks import open_av


def read_samples(path: str | Path) -> NDArray[np.float32]:
    """float32 [n] in [-1, 1], 16 kHz, mean of the channels; UserError for a file without readable sound."""
    import av
    import soxr

    try:
        with open_av(str(path)) as container:
            if not container.streams.audio:
                raise UserError(f"sound {path}: no audio stream inside; take it out of the set")
            stream = container.streams.audio[0]
            rate = stream.rate
            to_float = av.AudioResampler(format="fltp")
            parts = [part.to_ndarray() for frame in container.decode(stream) for part in to_float.resample(frame)]
            parts += [part.to_ndarray() for part in to_float.resample(None)]
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"sound {path}: cannot be decoded: {error.strerror or error}") from None
    if not parts:
        raise UserError(f"sound {path}: no samples inside; take it out of the set")
    mono = np.concatenate(parts, axis=1).mean(axis=0, dtype=np.float32)
    if rate != SAMPLE_RATE_HZ:
        mono = soxr.resample(mono, rate, SAMPLE_RATE_HZ)
    return np.clip(mono, -1.0, 1.0).astype(np.float32)  # lossy files overshoot
