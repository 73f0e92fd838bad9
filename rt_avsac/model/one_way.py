"""The baseline's decoder (after AVSegFormer, arXiv 2307.01146): audio queries read the picture, never the reverse."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rt_avsac.model.attention import Attention, FeedForward, dropout
from rt_avsac.model.settings import ModelSettings


class ReadingLayer(nn.Module):
    """queries [B, N, d]: self-attention, cross-attention to a memory [B, M, d], feed-forward; post-norm."""

    def __init__(
        self, dim: int, num_heads: int, ffn_dim: int, activation: str, drop: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__()
        self.self_attention = Attention(dim, num_heads, drop, bias)
        self.self_norm = nn.LayerNorm(dim)
        self.cross_attention = Attention(dim, num_heads, drop, bias)
        self.cross_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, ffn_dim, activation, drop)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.drop = dropout(drop)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        x = queries
        x = self.self_norm(x + self.drop(self.self_attention(x, x, x)))
        x = self.cross_norm(x + self.drop(self.cross_attention(x, keys, values)))
        return self.feed_forward_norm(x + self.drop(self.feed_forward(x)))


class QueryGenerator(nn.Module):
    """Audio tokens [B, T, d] → queries [B, N, d]: learned queries that read the sound through a few layers."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.start = nn.Parameter(torch.empty(settings.num_queries, dim))
        nn.init.xavier_uniform_(self.start)
        self.layers = nn.ModuleList(
            ReadingLayer(dim, settings.num_heads, settings.generator_ffn_dim, settings.activation, bias=False)
            for _ in range(settings.generator_layers)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        queries = self.start.expand(tokens.shape[0], -1, -1)
        for layer in self.layers:
            queries = layer(queries, tokens, tokens)
        return queries


class OneWay(nn.Module):
    """audio queries A0 [B, N, d], visual tokens V0 [B, L, d] → queries that read V0, and V0 as it was."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ReadingLayer(settings.dim, settings.num_heads, settings.ffn_dim, settings.activation, settings.dropout)
            for _ in range(settings.num_layers)
        )

    def forward(self, queries: Tensor, tokens: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        placed = tokens + position
        for layer in self.layers:
            queries = layer(queries, placed, tokens)
        return queries, tokens
