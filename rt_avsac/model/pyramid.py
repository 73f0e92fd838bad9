"""The light pixel encoder: a top-down feature pyramid of separable convolutions, and its mask feature."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rt_avsac.model.efficientnet import conv_bn


class Separable(nn.Sequential):
    """Depthwise 3x3 and pointwise 1x1, each with BatchNorm, ReLU between and after."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            conv_bn(channels_in, channels_in, 3, groups=channels_in),
            nn.ReLU(),
            conv_bn(channels_in, channels_out, 1),
            nn.ReLU(),
        )


class Pyramid(nn.Module):
    """Backbone levels at strides 4, 8, 16, 32 → {8, 16, 32: [B, d, h, w]} and the stride-4 lateral [B, m, H/4, W/4]."""

    def __init__(self, channels: tuple[int, ...], dim: int, mask_dim: int) -> None:
        super().__init__()
        self.lateral4 = conv_bn(channels[0], mask_dim, 1)
        self.lateral8 = conv_bn(channels[1], dim, 1)
        self.lateral16 = conv_bn(channels[2], dim, 1)
        self.lateral32 = conv_bn(channels[3], dim, 1)
        self.smooth16 = Separable(dim, dim)
        self.smooth8 = Separable(dim, dim)

    def forward(self, levels: list[Tensor]) -> tuple[dict[int, Tensor], Tensor]:
        at32 = self.lateral32(levels[3])
        at16 = self.smooth16(self.lateral16(levels[2]) + F.interpolate(at32, scale_factor=2.0, mode="nearest"))
        at8 = self.smooth8(self.lateral8(levels[1]) + F.interpolate(at16, scale_factor=2.0, mode="nearest"))
        return {8: at8, 16: at16, 32: at32}, self.lateral4(levels[0])
