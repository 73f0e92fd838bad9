"""From the mask feature to the mask: the light head of the edge model, the paper's full-resolution head."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from rt_avsac.model.settings import ModelSettings


def product_mlp(num_products: int, settings: ModelSettings) -> nn.Sequential:
    """The MLP behind F_AGV · F_VGA, pixel by pixel: [B, num_products, h, w] → [B, m, h, w]."""
    widths = [num_products, *[settings.mlp_dim] * (settings.mlp_layers - 1), settings.mask_dim]
    layers: list[nn.Module] = []
    for index, (channels_in, channels_out) in enumerate(pairwise(widths)):
        layers += [nn.ReLU()] if index else []
        layers.append(nn.Conv2d(channels_in, channels_out, 1))
    return nn.Sequential(*layers)


class FullHead(nn.Module):
    """[B, m, H/4, W/4] → logits [B, C, H, W] at the input's resolution (the baseline's head)."""

    def __init__(self, mask_dim: int, num_outputs: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(mask_dim, 128, 3, padding=1)
        self.refine = nn.Conv2d(128, 32, 3, padding=1)
        self.out = nn.Conv2d(32, num_outputs, 1, bias=False)

    def forward(self, feature: Tensor) -> Tensor:
        x = F.interpolate(self.reduce(feature), scale_factor=4.0, mode="bilinear")
        return self.out(F.relu(self.refine(x)))


class AuxiliaryMask(nn.Module):
    """A mask read from F_AGV alone, for training: its three levels through a small feature pyramid.

    levels at strides 8, 16, 32: [B, d, h, w] → logits [B, C, H, W]. The published baseline carries these layers
    (2.1 M parameters) without running them; here they supervise the visual tower directly.
    """

    def __init__(self, dim: int, num_outputs: int) -> None:
        super().__init__()
        self.up16, self.up8, self.up4 = (nn.Conv2d(dim, dim, 3, padding=1) for _ in range(3))
        self.head = FullHead(dim, num_outputs)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        at8, at16, at32 = levels
        at16 = self.up16(F.interpolate(at32, scale_factor=2.0, mode="bilinear")) + at16
        at8 = self.up8(F.interpolate(at16, scale_factor=2.0, mode="bilinear")) + at8
        return self.head(self.up4(F.interpolate(at8, scale_factor=2.0, mode="bilinear")))
