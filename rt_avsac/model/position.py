"""Sine positions of a grid of visual tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_position(height: int, width: int, dim: int) -> Tensor:
    """float32 [height * width, dim]: half the channels for y, half for x, DETR's normalised sines (scale 2 pi)."""
    if dim % 4:
        raise ValueError(f"positions: dim must divide by 4, got {dim}")
    quarter = dim // 4
    rate = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)

    def axis(length: int) -> Tensor:
        angle = (torch.arange(length, dtype=torch.float64) + 0.5)[:, None] / length * 2 * math.pi * rate
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    y = axis(height)[:, None].expand(height, width, 2 * quarter)
    x = axis(width)[None].expand(height, width, 2 * quarter)
    return torch.cat([y, x], dim=2).reshape(height * width, dim).float()
