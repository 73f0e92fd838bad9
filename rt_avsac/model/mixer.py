"""The baseline's channel gate: the sound decides how much each channel of the mask feature counts."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Mixer(nn.Module):
    """feature [B, m, h, w], audio [B, d] → feature times a gate [B, m] in (0, 1).

    The audio vector, as one query, attends to all pixels; what it reads becomes the gate.
    """

    def __init__(self, mask_dim: int, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, mask_dim, bias=False)
        self.key_value = nn.Linear(mask_dim, 2 * mask_dim, bias=False)
        self.out = nn.Linear(mask_dim, mask_dim)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, feature: Tensor, audio: Tensor) -> Tensor:
        key, value = self.key_value(feature.flatten(2).transpose(1, 2)).chunk(2, dim=2)
        query = self.query(audio)[:, None]
        read = F.scaled_dot_product_attention(self.heads(query), self.heads(key), self.heads(value))
        gate = self.out(read.transpose(1, 2).flatten(2))[:, 0].sigmoid()
        return feature * gate[:, :, None, None]
