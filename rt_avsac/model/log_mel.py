"""Waveform to log-mel picture as fixed matrices, so that it exports inside the network's graph."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rt_avsac.model.settings import SAMPLE_RATE_HZ

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


def fourier_matrix() -> np.ndarray:
    """float64 [514, 400]: periodic-Hann-windowed cosines, then sines, of a 512-point transform."""
    time = np.arange(WINDOW)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * time / WINDOW)
    angle = 2 * np.pi * np.arange(FFT // 2 + 1)[:, None] * time / FFT
    return np.concatenate([np.cos(angle), np.sin(angle)]) * hann


class LogMel(nn.Module):
    """audio [B, n] in [-1, 1] → log(mel + offset) [B, 1, frames, 64]; n = 15,600 gives 96 frames."""

    fourier: Tensor
    mel: Tensor

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset
        self.register_buffer("fourier", torch.from_numpy(fourier_matrix()).float()[:, None], persistent=False)
        self.register_buffer("mel", torch.from_numpy(mel_matrix()).float(), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        real, imaginary = F.conv1d(audio[:, None], self.fourier, stride=HOP).chunk(2, dim=1)
        magnitude = torch.sqrt(real * real + imaginary * imaginary + 1e-12)
        return torch.log(magnitude.transpose(1, 2) @ self.mel + self.offset)[:, None]
