"""YAMNet's convolutional body: log-mel picture to a grid of audio cells (a MobileNet-v1, BatchNorm folded)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rt_avsac.errors import ModelError
from rt_avsac.model.log_mel import LogMel

WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


class SameConv(nn.Conv2d):
    """3x3 convolution with TensorFlow's "same" padding: at stride 2 on even sizes, one row below and right."""

    def forward(self, input: Tensor) -> Tensor:
        if self.stride[0] == 2:
            return super().forward(F.pad(input, (0, 1, 0, 1)))
        return super().forward(input)


def same_conv(channels_in: int, channels_out: int, stride: int, groups: int = 1) -> SameConv:
    return SameConv(channels_in, channels_out, 3, stride, padding=0 if stride == 2 else 1, groups=groups)


class YamNet(nn.Module):
    """audio [B, 15600] → cells [B, 1024, 3, 2] (time x frequency, stride 32)."""

    cell_dim = 1024
    dim = 1024  # of the summary
    grid = (3, 2)

    def __init__(self) -> None:
        super().__init__()
        self.log_mel = LogMel(offset=0.001)
        self.c1 = same_conv(1, 32, 2)
        widths = (32, *WIDTHS)
        self.dw = nn.ModuleList(
            same_conv(width, width, stride, width) for width, stride in zip(widths, STRIDES, strict=False)
        )
        self.pw = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(widths, WIDTHS, strict=False))

    def forward(self, audio: Tensor) -> Tensor:
        if audio.dim() != 2:
            raise ModelError(
                f"YAMNet: sound asked as waveforms [B, n], got {list(audio.shape)}; log-mel patches are for VGGish, "
                "give the data's waveforms or audio_encoder=vggish"
            )
        x = F.relu(self.c1(self.log_mel(audio)))
        for depthwise, pointwise in zip(self.dw, self.pw, strict=True):
            x = F.relu(pointwise(F.relu(depthwise(x))))
        return x

    def summary(self, cells: Tensor) -> Tensor:
        """[B, 1024]: the mean cell, which is YAMNet's embedding."""
        return cells.flatten(2).transpose(1, 2).mean(dim=1)
