"""ResNet-50 picture backbone (stride in the 3x3 convolution, torchvision's names), levels at strides 4, 8, 16, 32."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rt_avsac.model.image_norm import ImageNorm

DEPTHS = (3, 4, 6, 3)
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand, and the way around them."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = width * EXPANSION
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        around = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + around)


class ResNet(nn.Module):
    """image [B, 3, H, W], normalised by `norm` → four levels at strides 4, 8, 16, 32; default depths: ResNet-50."""

    channels = (256, 512, 1024, 2048)

    def __init__(self, depths: tuple[int, ...] = DEPTHS) -> None:
        super().__init__()
        self.norm = ImageNorm()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for index, depth in enumerate(depths):
            width, blocks = 64 << index, []
            for number in range(depth):
                blocks.append(Bottleneck(channels, width, 2 if number == 0 and index > 0 else 1))
                channels = width * EXPANSION
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1(image)))
        x = F.max_pool2d(x, 3, 2, 1)
        levels = []
        for index in range(4):
            x = getattr(self, f"layer{index + 1}")(x)
            levels.append(x)
        return levels
