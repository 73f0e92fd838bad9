"""Multi-head attention and the feed-forward block, written so that they export to every backend."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """queries [B, N, d] read memory [B, M, d] → [B, N, d]."""

    def __init__(self, dim: int, num_heads: int, drop: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.drop = drop  # share of the attention left out in training
        self.query = nn.Linear(dim, dim, bias)
        self.key = nn.Linear(dim, dim, bias)
        self.value = nn.Linear(dim, dim, bias)
        self.out = nn.Linear(dim, dim, bias)

    def heads(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        return x.view(batch, length, self.num_heads, dim // self.num_heads).transpose(1, 2)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(
            self.heads(self.query(queries)),
            self.heads(self.key(keys)),
            self.heads(self.value(values)),
            dropout_p=self.drop if self.training else 0.0,
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    """[B, N, d] → [B, N, d] through a layer of `hidden` units."""

    def __init__(self, dim: int, hidden: int, activation: str = "relu", drop: float = 0.0) -> None:
        act: nn.Module = nn.GELU() if activation == "gelu" else nn.ReLU()
        if drop:
            act = nn.Sequential(act, nn.Dropout(drop))
        super().__init__(nn.Linear(dim, hidden), act, nn.Linear(hidden, dim))


def dropout(rate: float) -> nn.Module:
    """Nothing at all for rate 0: a Dropout there would still draw random numbers in training."""
    return nn.Dropout(rate) if rate else nn.Identity()
