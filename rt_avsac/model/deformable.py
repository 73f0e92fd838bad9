"""Multi-scale deformable attention pixel encoder (arXiv 2010.04159) with `grid_sample` alone, so that it exports."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rt_avsac.model.attention import FeedForward, dropout
from rt_avsac.model.settings import ModelSettings

NUM_LEVELS = 3  # strides 8, 16, 32
NUM_HEADS = 8
NUM_POINTS = 4
NUM_GROUPS = 32  # of the GroupNorms

Size = tuple[int, int]  # height, width


def cell_centers(sizes: Sequence[Size], like: Tensor) -> Tensor:
    """[L, 2]: x and y of each token's centre, as shares of the picture."""
    parts = []
    for height, width in sizes:
        y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
        x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
        parts.append(
            torch.stack([x[None].expand(height, width), y[:, None].expand(height, width)], dim=2).flatten(0, 1)
        )
    return torch.cat(parts)


class DeformableAttention(nn.Module):
    """Each token reads `NUM_POINTS` learned places around itself on each level, in each head.

    queries [B, L, d] decide where and how much; values [B, L, d] are read; `sizes` are the levels' grids in order.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.offset = nn.Linear(dim, NUM_HEADS * NUM_LEVELS * NUM_POINTS * 2)
        self.weight = nn.Linear(dim, NUM_HEADS * NUM_LEVELS * NUM_POINTS)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.weight.bias)
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        # at first, head i looks in direction i and point k lies k + 1 cells away
        angle = torch.arange(NUM_HEADS) * (2.0 * math.pi / NUM_HEADS)
        direction = torch.stack([angle.cos(), angle.sin()], dim=1)
        direction = direction / direction.abs().amax(dim=1, keepdim=True)
        distance = torch.arange(1, NUM_POINTS + 1).float()
        start = direction[:, None, None] * distance[:, None].expand(NUM_LEVELS, NUM_POINTS, 1)
        with torch.no_grad():
            self.offset.bias.copy_(start.flatten())

    def forward(self, queries: Tensor, values: Tensor, sizes: Sequence[Size]) -> Tensor:
        batch, length, dim = queries.shape
        value = self.value(values).view(batch, length, NUM_HEADS, dim // NUM_HEADS)
        offset = self.offset(queries).view(batch, length, NUM_HEADS, NUM_LEVELS, NUM_POINTS, 2)
        weight = self.weight(queries).view(batch, length, NUM_HEADS, NUM_LEVELS * NUM_POINTS).softmax(dim=3)
        center = cell_centers(sizes, queries)[None, :, None, None]
        out, start = queries.new_zeros(batch * NUM_HEADS, dim // NUM_HEADS, length), 0
        for level, (height, width) in enumerate(sizes):
            plane = value[:, start : start + height * width].permute(0, 2, 3, 1)
            start += height * width
            x, y = (center + offset[:, :, :, level] / offset.new_tensor([width, height])).unbind(dim=4)
            grid = torch.stack([2.0 * x - 1.0, 2.0 * y - 1.0], dim=4).transpose(1, 2).flatten(0, 1)
            read = F.grid_sample(
                plane.reshape(batch * NUM_HEADS, dim // NUM_HEADS, height, width).to(grid.dtype),
                grid,  # in the queries' own precision: bfloat16 places would be a tenth of a cell off
                mode="bilinear",
                padding_mode="zeros",
                align_corners=False,
            )
            share = weight[..., level * NUM_POINTS : (level + 1) * NUM_POINTS].transpose(1, 2).flatten(0, 1)
            out = out + (read * share[:, None]).sum(dim=3)
        return self.out(out.view(batch, dim, length).transpose(1, 2))


class DeformableLayer(nn.Module):
    """Deformable self-attention over all levels, feed-forward; post-norm."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.attention = DeformableAttention(dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, settings.pixel_encoder_ffn_dim, settings.activation, settings.dropout)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.drop = dropout(settings.dropout)

    def forward(self, x: Tensor, position: Tensor, sizes: Sequence[Size]) -> Tensor:
        x = self.attention_norm(x + self.drop(self.attention(x + position, x, sizes)))
        return self.feed_forward_norm(x + self.drop(self.feed_forward(x)))


def projection(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1), nn.GroupNorm(NUM_GROUPS, channels_out))


class DeformableEncoder(nn.Module):
    """Backbone levels at strides 4, 8, 16, 32 → {8, 16, 32: [B, d, h, w]} and the stride-4 lateral [B, m, H/4, W/4]."""

    def __init__(self, channels: tuple[int, ...], settings: ModelSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.projections = nn.ModuleList(projection(width, dim) for width in channels)
        self.lateral4 = projection(dim, settings.mask_dim)
        self.layers = nn.ModuleList(DeformableLayer(settings) for _ in range(settings.pixel_encoder_layers))

    def forward(self, levels: list[Tensor], position: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """`position` [1, L, d]: of the tokens at strides 8, 16, 32, level embedding included."""
        at4, *grids = [project(level) for project, level in zip(self.projections, levels, strict=True)]
        sizes = [(grid.shape[2], grid.shape[3]) for grid in grids]
        x = torch.cat([grid.flatten(2).transpose(1, 2) for grid in grids], dim=1)
        for layer in self.layers:
            x = layer(x, position, sizes)
        parts = x.transpose(1, 2).split([height * width for height, width in sizes], dim=2)
        out = {8 << index: part.unflatten(2, size) for index, (part, size) in enumerate(zip(parts, sizes, strict=True))}
        return out, self.lateral4(at4)
