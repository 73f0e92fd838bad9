"""Waveform to log-mel picture as fixed matrices, so that it exports inside the network's graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rt_avsac.model.settings import NUM_AUDIO_SAMPLES, SAMPLE_RATE_HZ

WINDOW = 400  # 25 ms
HOP = 160  # 10 ms
FFT = 512
NUM_MELS = 64
MEL_HZ = (125.0, 7500.0)


def mel_matrix() -> np.ndarray:
    """float64 [257, 64]: HTK triangles over the FFT bins, 125–7500 Hz (YAMNet's and VGGish's front end)."""

    def to_mel(hz: np.ndarray) -> np.ndarray:
        return 1127.0 * np.log1p(hz / 700.0)

    bins = to_mel(np.linspace(0.0, SAMPLE_RATE_HZ / 2, FFT // 2 + 1))[:, None]
    low, high = to_mel(np.array(MEL_HZ))
    edges = np.linspace(low, high, NUM_MELS + 2)
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((bins - lower) / (center - lower), (upper - bins) / (upper - center))
    triangles[0] = 0.0  # the DC bin is left out
    return np.maximum(triangles, 0.0)


class LogMel(nn.Module):
    """audio [B, 15600] in [-1, 1] → log(mel + offset) [B, 1, 96, 64].

    Only magnitudes are asked for, so time may be counted from the middle of a window, where the periodic Hann is
    symmetric: cosines see the even part of the samples, sines the odd one, each of half the length. Bins without a mel
    are left out.
    """

    later: Tensor  # [96, 200] index of each sample from a window's middle on
    earlier: Tensor  # [96, 200] and of its mirror image
    cosines: Tensor  # [200, bins]
    sines: Tensor
    minus: Tensor  # [200] -1: what OpenVINO makes of a difference is bf16 where all is to be fp32
    mel: Tensor  # [bins, 64]

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset
        middle = np.arange(WINDOW // 2, NUM_AUDIO_SAMPLES - WINDOW // 2 + 1, HOP)[:, None]
        distance = np.arange(WINDOW // 2)
        mel = mel_matrix()
        (bins,) = np.nonzero(mel.any(axis=1))
        angle = 2 * np.pi * bins * distance[:, None] / FFT
        hann = 0.5 + 0.5 * np.cos(2 * np.pi * distance / WINDOW)
        hann[0] /= 2  # the middle is its own mirror image, and counts once
        buffers = {
            "later": middle + distance,
            "earlier": middle - distance,
            "cosines": (hann[:, None] * np.cos(angle)).astype(np.float32),
            "sines": (hann[:, None] * np.sin(angle)).astype(np.float32),
            "minus": np.full(len(distance), -1.0, np.float32),
            "mel": mel[bins].astype(np.float32),
        }
        for name, values in buffers.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        device = audio.device.type
        if torch.is_autocast_enabled(device):  # half precision is several tenths of a neper off, sometimes whole ones
            with torch.autocast(device, enabled=False):
                return self.spectrum(audio.float())
        return self.spectrum(audio)

    def spectrum(self, audio: Tensor) -> Tensor:
        later, earlier = (
            audio.index_select(1, at.flatten()).unflatten(1, at.shape) for at in (self.later, self.earlier)
        )
        even, odd = (later + earlier) @ self.cosines, (later + earlier * self.minus) @ self.sines
        magnitude = torch.sqrt(even * even + odd * odd + 1e-12)
        return torch.log(magnitude @ self.mel + self.offset)[:, None]
