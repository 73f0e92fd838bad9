"""The mean and standard deviation that a backbone was trained with, channels first or last."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

MEAN = (255 * 0.485, 255 * 0.456, 255 * 0.406)  # ImageNet's
STD = (255 * 0.229, 255 * 0.224, 255 * 0.225)


class ImageNorm(nn.Module):
    """image [B, 3, H, W] RGB in [0, 255] → normalised; the numbers are constants, not part of the checkpoint.

    `mean`, `std`: one for each channel, ImageNet's if not given.
    """

    mean: Tensor
    per_std: Tensor  # CPU backends divide three times slower than they multiply

    def __init__(self, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("per_std", 1.0 / torch.tensor(std), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean[:, None, None]) * self.per_std[:, None, None]

    def channels_last(self, image: Tensor) -> Tensor:
        """The same of [B, H, W, 3]."""
        return (image - self.mean) * self.per_std
