"""What a GPU does around the network: scales the camera's picture before it, packs its masks to bits after it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

BITS = 8  # pixels a byte
CELL = 4  # mask pixels a side of a class cell: class maps are a quarter of the mask


class Scale(nn.Module):
    """frame uint8 [1, H, W, 3] → uint8 [1, S, S, 3], as `rt_avsac.scale` within two steps of 255.

    Whole pixels are pooled first; what is left is linear and separable, so two fixed matrices do it: it exports.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, height: int, width: int, size: int) -> None:
        super().__init__()
        self.pool = (pooled(height, size), pooled(width, size))
        self.register_buffer("rows", torch.from_numpy(scale_matrix(height, size)))
        self.register_buffer("columns", torch.from_numpy(scale_matrix(width, size).T.copy()))

    def forward(self, frame: Tensor) -> Tensor:
        planes = frame.float().permute(0, 3, 1, 2)  # in this order: TensorRT permutes no uint8
        if self.pool != (1, 1):
            planes = F.avg_pool2d(planes, self.pool)
        scaled = self.rows @ planes @ self.columns
        return byte(scaled.permute(0, 2, 3, 1).clamp(0.0, 255.0))


def pooled(side: int, size: int) -> int:
    """How many pixels of a side become one before the matrix: as many as fit, where they fit without a rest."""
    count = max(side // size, 1)
    return count if side % count == 0 else 1


def scale_matrix(side: int, size: int) -> np.ndarray:
    """float32 [size, side / pooled]: area mean by whole pixels when at least twice too long, then bilinear."""
    reduced = side // max(side // size, 1)
    left = side // pooled(side, size)
    return (_bilinear(reduced, size) @ _area(left, reduced)).astype(np.float32)


def _area(side: int, size: int) -> np.ndarray:
    edges = np.arange(size + 1) * (side / size)
    pixels = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.maximum(overlap, 0.0) / (side / size)


def _bilinear(side: int, size: int) -> np.ndarray:
    at = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    return np.maximum(1.0 - np.abs(at[:, None] - np.arange(side)), 0.0)


class Packed(nn.Module):
    """A deployed network, its own outputs followed by what a robot needs of them in a fortieth of the bytes.

    image uint8 [1, S, S, 3], audio float32 [1, n], threshold float32 [1] → the network's outputs, then uint8
    bits [1, S, S/8] (a bit a pixel that sounds, MSB first), and per cell of 4x4 pixels class_map (never 0, the
    background), confidence (mean probability of its sounding pixels, of 255) and share (of the class, of 255),
    [1, S/4, S/4] each. `rt_avsac.engines.Packed` reads them.
    """

    weight: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("weight", torch.tensor([float(1 << bit) for bit in reversed(range(BITS))])[:, None])

    def forward(self, image: Tensor, audio: Tensor, threshold: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(image, audio)
        sounding = outputs[0]
        mask = (sounding >= threshold).float()
        bits = (mask.unflatten(2, (-1, BITS)) @ self.weight).squeeze(3)
        covered = F.avg_pool2d(mask, CELL)
        confidence = F.avg_pool2d(mask * sounding, CELL) / covered.clamp(min=0.5 / CELL**2)
        class_map, share = torch.ones_like(covered), torch.ones_like(covered)
        if len(outputs) > 1:
            product = outputs[1][:, 1:]
            if len(outputs) > 2:
                product = product * outputs[2][:, 1:, None, None]
            best, index = product.max(dim=1)
            class_map, share = (index + 1).float(), best / product.sum(dim=1).clamp(min=1e-12)
        return (*outputs, byte(bits), byte(class_map), byte(confidence * 255.0), byte(share * 255.0))


def byte(x: Tensor) -> Tensor:
    return x.round().to(torch.uint8)
