"""BAVD, the bidirectional audio-visual decoder: two towers bridged both ways at every layer (paper, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rt_avsac.model.attention import Attention, FeedForward, dropout
from rt_avsac.model.settings import ModelSettings


class BavdLayer(nn.Module):
    """One layer of both towers, updated in parallel from the other's last output (choice).

    Audio queries: self-attention, gated cross-attention to the picture, feed-forward. Picture tokens: gated
    cross-attention to the audio. Post-norm throughout. The gates are the paper's learnable w (eq. 1 and 2).
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        dim, heads, drop = settings.dim, settings.num_heads, settings.dropout
        on_queries = settings.self_attention in ("query", "both")
        on_tokens = settings.self_attention in ("spatial", "both")
        self.query_self = Attention(dim, heads, drop) if on_queries else None
        self.query_self_norm = nn.LayerNorm(dim) if on_queries else None
        self.token_self = Attention(dim, heads, drop) if on_tokens else None
        self.token_self_norm = nn.LayerNorm(dim) if on_tokens else None
        self.query_cross = Attention(dim, heads, drop)
        self.query_cross_norm = nn.LayerNorm(dim)
        self.token_cross = Attention(dim, heads, drop)
        self.token_cross_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, settings.ffn_dim, settings.activation, drop)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.drop = dropout(drop)
        gate = torch.tensor(settings.gate_init if settings.gated else 1.0)
        self.vision_to_audio_gate = nn.Parameter(gate.clone(), requires_grad=settings.gated)
        self.audio_to_vision_gate = nn.Parameter(gate.clone(), requires_grad=settings.gated)

    def forward(
        self, queries: Tensor, tokens: Tensor, heard: Tensor, seen: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """queries [B, N, d] read `seen`; tokens [B, L, d] read `heard`; `position` [1, L, d] of the tokens."""
        x = queries
        if self.query_self is not None and self.query_self_norm is not None:
            x = self.query_self_norm(x + self.drop(self.query_self(x, x, x)))
        read = self.drop(self.query_cross(x, seen + position, seen))
        x = self.query_cross_norm(x + self.vision_to_audio_gate * read)
        x = self.feed_forward_norm(x + self.drop(self.feed_forward(x)))
        y = tokens
        if self.token_self is not None and self.token_self_norm is not None:
            placed = y + position
            y = self.token_self_norm(y + self.drop(self.token_self(placed, placed, y)))
        read = self.drop(self.token_cross(y + position, heard, heard))
        y = self.token_cross_norm(y + self.audio_to_vision_gate * read)
        return x, y


class Bavd(nn.Module):
    """audio queries A0 [B, N, d], visual tokens V0 [B, L, d] → F_VGA [B, N, d], F_AGV [B, L, d].

    With a bridge switched off, that tower keeps reading the other's *initial* tokens (choice, for the ablation).
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.audio_to_vision = settings.audio_to_vision
        self.vision_to_audio = settings.vision_to_audio
        self.layers = nn.ModuleList(BavdLayer(settings) for _ in range(settings.num_layers))

    def forward(self, queries: Tensor, tokens: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        first_queries, first_tokens = queries, tokens
        for layer in self.layers:
            heard = queries if self.audio_to_vision else first_queries
            seen = tokens if self.vision_to_audio else first_tokens
            queries, tokens = layer(queries, tokens, heard, seen, position)
        return queries, tokens
