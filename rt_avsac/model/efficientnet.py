"""EfficientNet-Lite0 picture backbone (ReLU6, no squeeze-excite: made for INT8), levels at strides 4, 8, 16, 32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rt_avsac.model.image_norm import ImageNorm

# expansion, kernel, stride, channels out, repeats
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
LEVEL_AFTER_STAGE = (1, 2, 4, 6)  # strides 4, 8, 16, 32
BATCH_NORM_EPS = 1e-3


def conv_bn(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out, eps=BATCH_NORM_EPS),
    )


class Block(nn.Module):
    """Inverted residual: expand 1x1, depthwise, project 1x1."""

    def __init__(self, channels_in: int, expansion: int, kernel: int, stride: int, channels_out: int) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.expand = conv_bn(channels_in, hidden, 1) if expansion > 1 else None
        self.depthwise = conv_bn(hidden, hidden, kernel, stride, groups=hidden)
        self.project = conv_bn(hidden, channels_out, 1)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else torch.clamp(self.expand(x), 0.0, 6.0)
        y = self.project(torch.clamp(self.depthwise(y), 0.0, 6.0))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """image [B, 3, H, W], normalised by `norm` → four levels at strides 4, 8, 16, 32."""

    channels = (24, 40, 112, 320)

    def __init__(self) -> None:
        super().__init__()
        self.norm = ImageNorm((127.0,) * 3, (128.0,) * 3)
        self.stem = conv_bn(3, 32, 3, 2)
        width, stages = 32, []
        for expansion, kernel, stride, channels, repeats in STAGES:
            blocks = []
            for index in range(repeats):
                blocks.append(Block(width, expansion, kernel, stride if index == 0 else 1, channels))
                width = channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = torch.clamp(self.stem(image), 0.0, 6.0)
        levels = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in LEVEL_AFTER_STAGE:
                levels.append(x)
        return levels
