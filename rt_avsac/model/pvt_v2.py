"""PVTv2 picture backbone (arXiv 2106.13797): attention over reduced keys, overlapping patches, strides 4 to 32."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rt_avsac.model.image_norm import ImageNorm

DIMS = (64, 128, 320, 512)
DEPTHS = (3, 6, 40, 3)  # B5
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)  # keys and values come from a grid this many times coarser
MLP_RATIO = 4
BLOCK_NORM_EPS = 1e-6  # the other norms keep torch's 1e-5, as in the published code


class DropPath(nn.Module):
    """Stochastic depth: in training, leaves the whole branch out for a share `rate` of the pictures."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        kept = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * kept.to(x.dtype) / (1.0 - self.rate)


class ReducedAttention(nn.Module):
    """Self-attention of tokens [B, N, d]; keys and values are read from the grid reduced by `reduction`."""

    def __init__(self, dim: int, num_heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.sr = nn.Conv2d(dim, dim, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(dim) if reduction > 1 else None

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        source = x
        if self.sr is not None and self.norm is not None:
            grid = x.transpose(1, 2).unflatten(2, (height, width))
            source = self.norm(self.sr(grid).flatten(2).transpose(1, 2))
        key, value = self.kv(source).chunk(2, dim=2)
        mixed = F.scaled_dot_product_attention(self.heads(self.q(x)), self.heads(key), self.heads(value))
        return self.proj(mixed.transpose(1, 2).flatten(2))


class ConvMlp(nn.Module):
    """Feed-forward with a depthwise 3x3 convolution in the middle, which also tells tokens where they are."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = dim * MLP_RATIO
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        grid = self.fc1(x).transpose(1, 2).unflatten(2, (height, width))
        return self.fc2(F.gelu(self.dwconv(grid).flatten(2).transpose(1, 2)))


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=BLOCK_NORM_EPS)
        self.attn = ReducedAttention(dim, num_heads, reduction)
        self.norm2 = nn.LayerNorm(dim, eps=BLOCK_NORM_EPS)
        self.mlp = ConvMlp(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x), height, width))


class Patches(nn.Module):
    """Overlapping patches: a strided convolution and a norm; [B, c, H, W] → tokens [B, N, d] and their grid."""

    def __init__(self, channels_in: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels_in, dim, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(x)
        height, width = x.shape[-2:]
        return self.norm(x.flatten(2).transpose(1, 2)), height, width


class Stage(nn.Module):
    """[B, c, H, W] → [B, d, H / stride, W / stride]."""

    def __init__(self, index: int, channels_in: int, drop_paths: list[float]) -> None:
        super().__init__()
        dim = DIMS[index]
        self.patches = Patches(channels_in, dim, 7 if index == 0 else 3, 4 if index == 0 else 2)
        self.blocks = nn.ModuleList(Block(dim, HEADS[index], REDUCTIONS[index], rate) for rate in drop_paths)
        self.norm = nn.LayerNorm(dim, eps=BLOCK_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        x, height, width = self.patches(x)
        for block in self.blocks:
            x = block(x, height, width)
        return self.norm(x).transpose(1, 2).unflatten(2, (height, width))


class PvtV2(nn.Module):
    """image [B, 3, H, W], normalised by `norm` → four levels at strides 4, 8, 16, 32; default depths: B5.

    `drop_path`: share of pictures whose last block is skipped in training; earlier blocks proportionally less.
    """

    channels = DIMS

    def __init__(self, depths: tuple[int, ...] = DEPTHS, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm = ImageNorm()
        num_blocks = sum(depths)
        rates = [drop_path * index / max(num_blocks - 1, 1) for index in range(num_blocks)]
        stages, channels = [], 3
        for index, depth in enumerate(depths):
            start = sum(depths[:index])
            stages.append(Stage(index, channels, rates[start : start + depth]))
            channels = DIMS[index]
        self.stages = nn.ModuleList(stages)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> list[Tensor]:
        levels, x = [], image
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
