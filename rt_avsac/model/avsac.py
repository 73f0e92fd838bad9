"""AVSAC: picture and audio encoders, BAVD, and the mask head (paper, section 3 and figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rt_avsac.model.bavd import Bavd
from rt_avsac.model.check import STRIDES, check
from rt_avsac.model.deformable import NUM_GROUPS, DeformableEncoder
from rt_avsac.model.encoders import make_audio_encoder, make_backbone
from rt_avsac.model.mask_head import AuxiliaryMask, FullHead, product_mlp
from rt_avsac.model.mixer import Mixer
from rt_avsac.model.one_way import OneWay, QueryGenerator
from rt_avsac.model.position import sine_position
from rt_avsac.model.pyramid import Pyramid, Separable
from rt_avsac.model.settings import ModelSettings


class Seen(NamedTuple):
    """What the picture alone gives; one picture can be decoded with several sounds."""

    tokens: Tensor  # V0 [B, L, d]
    levels: tuple[Tensor, ...]  # strides 8, 16, 32: [B, d, h, w]
    lateral4: Tensor  # [B, m, H/4, W/4]
    class_logit: Tensor | None  # [B, C, H/8, W/8]; None for a binary model


class Heard(NamedTuple):
    """What the sound alone gives."""

    queries: Tensor  # A0 = F_a [B, N, d]
    class_logit: Tensor | None  # [B, C], one sigmoid a class; None for a binary model
    audio: Tensor | None = None  # [B, d] the mean audio token, for the mixer; None without one


class Decoded(NamedTuple):
    """What both give together, before any squashing. Masks are at H/4 x W/4, or at H x W with the full head."""

    sounding_logit: Tensor  # [B, 1, H/4, W/4]
    f_agv: Tensor  # audio-guided vision [B, L, d]
    f_vga: Tensor  # vision-guided audio [B, N, d]
    mask_feature: Tensor  # [B, m, H/4, W/4]
    semantic_logit: Tensor | None = None  # [B, C, H/4, W/4] of a semantic model; `sounding_logit` is "not background"
    mix_logit: Tensor | None = None  # [B, 1, H/4, W/4] the mixed feature's mean over channels; training, with a mixer
    auxiliary_logit: Tensor | None = None  # [B, 1 or C, H, W] the mask from F_AGV alone; training, with auxiliary_mask


class Avsac(nn.Module):
    """image [B, 3, H, W] RGB in [0, 255] and audio [B, 15600] → `Decoded`; the parts are `see`, `hear` and `decode`.

    ModelError for settings that do not go together.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        dim, mask_dim = settings.dim, settings.mask_dim
        self.backbone = make_backbone(settings)
        self.audio_encoder = make_audio_encoder(settings)
        check(settings, self.audio_encoder.grid)
        self.pixel_encoder: nn.Module
        if settings.pixel_encoder == "deformable":
            self.pixel_encoder = DeformableEncoder(self.backbone.channels, settings)
        else:
            self.pixel_encoder = Pyramid(self.backbone.channels, dim, mask_dim)
        self.audio_projection = nn.Linear(self.audio_encoder.dim, dim)
        self.queries = nn.Parameter(torch.randn(settings.num_queries, dim) * 0.02)
        self.level = nn.Parameter(torch.zeros(len(settings.token_strides), dim))
        # the decoder, of either kind: trained weights know it by this name
        self.bavd = Bavd(settings) if settings.decoder == "bavd" else OneWay(settings)
        for stride in settings.token_strides:
            side = settings.image_size // stride
            self.register_buffer(f"position{stride}", sine_position(side, side, dim), persistent=False)
        if settings.pixel_encoder == "deformable":
            self.refine8: nn.Module = nn.Identity() if dim == mask_dim else nn.Conv2d(dim, mask_dim, 1)
            norm = nn.GroupNorm(NUM_GROUPS, mask_dim)
            self.refine4: nn.Module = nn.Sequential(nn.Conv2d(mask_dim, mask_dim, 3, padding=1), norm, nn.ReLU())
        else:
            self.refine8 = Separable(dim, mask_dim)
            self.refine4 = Separable(mask_dim, mask_dim)
        self.query_projection = nn.Identity() if dim == mask_dim else nn.Linear(dim, mask_dim)
        self.mlp = product_mlp(settings.num_queries + int(settings.class_match), settings)
        full = settings.head == "full"
        self.head = FullHead(mask_dim, settings.num_outputs) if full else nn.Conv2d(mask_dim, settings.num_outputs, 1)
        if settings.has_class_heads:
            self.class_head = nn.Sequential(Separable(dim, dim), nn.Conv2d(dim, settings.num_classes, 1))
            self.audio_class_head = nn.Linear(self.audio_encoder.dim, settings.num_classes)
        # where an encoder's summary is more than the mean of its cells, tokens carry both (choice)
        two_sources = settings.audio_tokens > 1 and self.audio_encoder.dim != self.audio_encoder.cell_dim
        self.cell_projection = nn.Linear(self.audio_encoder.cell_dim, dim) if two_sources else None
        generates = settings.decoder == "one_way" and settings.generator_layers > 0
        self.query_generator = QueryGenerator(settings) if generates else None
        self.mixer = Mixer(mask_dim, dim, settings.num_heads) if settings.mixer else None
        self.auxiliary = AuxiliaryMask(dim, settings.num_outputs) if settings.auxiliary_mask else None
        if settings.pixel_encoder == "deformable":
            nn.init.normal_(self.level)

    def position(self, grids: Sequence[Tensor]) -> Tensor:
        """float32 [1, L, d]: where and at which level each visual token lies; of `grids` only the sizes are used."""
        parts = []
        for index, stride in enumerate(self.settings.token_strides):
            height, width = grids[STRIDES.index(stride)].shape[-2:]
            place = getattr(self, f"position{stride}")
            if height * width != len(place):  # another picture size than the settings' (training at smaller ones)
                place = sine_position(height, width, self.settings.dim).to(place)
            parts.append(place + self.level[index])
        return torch.cat(parts)[None]

    def see(self, image: Tensor) -> Seen:
        return self.see_normalised(self.backbone.norm(image))

    def see_normalised(self, image: Tensor) -> Seen:
        features = self.backbone(image)
        if isinstance(self.pixel_encoder, DeformableEncoder):
            levels, lateral4 = self.pixel_encoder(features, self.position(features[1:]))
        else:
            levels, lateral4 = self.pixel_encoder(features)
        tokens = torch.cat([levels[stride].flatten(2).transpose(1, 2) for stride in self.settings.token_strides], dim=1)
        class_logit = self.class_head(levels[8]) if self.settings.has_class_heads else None
        return Seen(tokens, tuple(levels[stride] for stride in STRIDES), lateral4, class_logit)

    def hear(self, audio: Tensor) -> Heard:
        return self.hear_cells(self.audio_encoder(audio))

    def hear_cells(self, cells: Tensor) -> Heard:
        """A0 = learned queries + audio; query i carries cell i mod audio_tokens of the time-frequency grid (choice).

        cells [B, c, h, w]: what the audio encoder gives.
        """
        summary = self.audio_encoder.summary(cells)
        tokens = self.audio_tokens(cells, summary)
        if self.query_generator is not None:
            queries = self.queries + self.query_generator(tokens)
        else:
            queries = self.queries + self.share_out(tokens)
        class_logit = self.audio_class_head(summary) if self.settings.has_class_heads else None
        return Heard(queries, class_logit, tokens.mean(dim=1) if self.mixer is not None else None)

    def audio_tokens(self, cells: Tensor, summary: Tensor) -> Tensor:
        """[B, audio_tokens, d]: one for each cell, or one for all of them."""
        if self.settings.audio_tokens == 1:
            return self.audio_projection(summary[:, None])
        cells = cells.flatten(2).transpose(1, 2)
        if self.cell_projection is not None:
            return self.cell_projection(cells) + self.audio_projection(summary)[:, None]
        return self.audio_projection(cells)

    def share_out(self, tokens: Tensor) -> Tensor:
        """[B, num_queries, d]: the audio tokens over and over."""
        times, rest = divmod(self.settings.num_queries, self.settings.audio_tokens)
        repeated = tokens.repeat(1, times, 1)
        return torch.cat([repeated, tokens[:, :rest]], dim=1) if rest else repeated

    def decode(self, seen: Seen, heard: Heard) -> Decoded:
        f_vga, f_agv = self.bavd(heard.queries, seen.tokens, self.position(seen.levels))
        feature = self.mask_feature(f_agv, seen)
        if self.mixer is not None and heard.audio is not None:
            feature = self.mixer(feature, heard.audio)
        # channels last: CPU backends store pictures so, and an einsum over bmhw makes them turn this one
        pixels = feature.permute(0, 2, 3, 1).flatten(1, 2) @ self.query_projection(f_vga).transpose(1, 2)
        product = pixels.unflatten(1, feature.shape[2:]).permute(0, 3, 1, 2)
        if self.settings.scaled_product:
            product = product * feature.shape[1] ** -0.5
        if self.settings.class_match:
            product = torch.cat([product, self.match(seen, heard)], dim=1)
        logit = self.head(feature + self.mlp(product))
        decoded = Decoded(logit, f_agv, f_vga, feature)
        if self.settings.output == "semantic":  # log-odds of any class against background
            sounding_logit = logit[:, 1:].logsumexp(dim=1, keepdim=True) - logit[:, :1]
            decoded = decoded._replace(sounding_logit=sounding_logit, semantic_logit=logit)
        return self.with_training_masks(decoded, seen) if self.training else decoded

    def with_training_masks(self, decoded: Decoded, seen: Seen) -> Decoded:
        if self.mixer is not None:
            decoded = decoded._replace(mix_logit=decoded.mask_feature.mean(dim=1, keepdim=True))
        if self.auxiliary is not None:
            sizes = [level.shape[-2:] for level in seen.levels]
            parts = decoded.f_agv.transpose(1, 2).split([size.numel() for size in sizes], dim=2)
            grids = [part.unflatten(2, tuple(size)) for part, size in zip(parts, sizes, strict=True)]
            decoded = decoded._replace(auxiliary_logit=self.auxiliary(grids))
        return decoded

    def mask_feature(self, f_agv: Tensor, seen: Seen) -> Tensor:
        """The finest token level, upsampled over the picture's own levels to stride 4: [B, m, H/4, W/4]."""
        stride = self.settings.token_strides[0]
        height, width = seen.levels[STRIDES.index(stride)].shape[-2:]
        x = f_agv[:, : height * width].transpose(1, 2).unflatten(2, (height, width))
        while stride > 8:
            stride //= 2
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear") + seen.levels[STRIDES.index(stride)]
        return self.refine4(F.interpolate(self.refine8(x), scale_factor=2.0, mode="bilinear") + seen.lateral4)

    def match(self, seen: Seen, heard: Heard) -> Tensor:
        """[B, 1, H/4, W/4] in [-1, 1]: how probable it is that the pixel's class is one of those heard (ours)."""
        assert seen.class_logit is not None
        assert heard.class_logit is not None
        of_class = seen.class_logit.softmax(dim=1)[:, 1:]
        is_heard = heard.class_logit.sigmoid()[:, 1:, None, None]
        match = (of_class * is_heard).sum(dim=1, keepdim=True) * 2.0 - 1.0
        return F.interpolate(match, scale_factor=2.0, mode="bilinear")

    def forward(self, image: Tensor, audio: Tensor) -> Decoded:
        return self.decode(self.see(image), self.hear(audio))


class Deployed(nn.Module):
    """The graph that is compiled: raw picture and waveform in, probabilities out; static shapes, batch 1.

    image uint8 [1, S, S, 3] RGB, audio float32 [1, 15600] → sounding [1, S, S]; with classes also
    class_probability [1, C, S/4, S/4] (softmax) and audio_probability [1, C] (sigmoid). A semantic model gives
    sounding and class_probability, and no audio_probability: its classes are those of the sounding pixels.
    """

    stretch4: Tensor  # H/4 → H
    stretch2: Tensor  # H/8 → H/4

    def __init__(self, net: Avsac) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("stretch4", stretch(net.settings.image_size // 4, 4), persistent=False)
        self.register_buffer("stretch2", stretch(net.settings.image_size // 8, 2), persistent=False)

    def forward(self, image: Tensor, audio: Tensor) -> tuple[Tensor, ...]:
        # in this order: TensorRT permutes no uint8, and OpenVINO merges a permutation with the convolution only
        # if nothing stands between the two
        normalised = self.net.backbone.norm.channels_last(image.float())
        seen = self.net.see_normalised(normalised.permute(0, 3, 1, 2))
        heard = self.net.hear(audio)
        decoded = self.net.decode(seen, heard)
        logit = decoded.sounding_logit
        if self.net.settings.head == "light":
            # bilinear x 4 as two matrix products: CPU backends interpolate a single channel ten times slower
            logit = self.stretch4 @ logit @ self.stretch4.t()
        sounding = logit.sigmoid()[:, 0]
        if decoded.semantic_logit is not None:
            of_class = decoded.semantic_logit.softmax(dim=1)
            return sounding, F.avg_pool2d(of_class, 4) if self.net.settings.head == "full" else of_class
        if seen.class_logit is None or heard.class_logit is None:
            return (sounding,)
        # likewise: what is interpolated channels last has to be turned for the output, at four times the size
        of_class = (self.stretch2 @ seen.class_logit @ self.stretch2.t()).softmax(dim=1)
        return sounding, of_class, heard.class_logit.sigmoid()


def stretch(side: int, factor: int) -> Tensor:
    """float32 [factor * side, side]: `stretch @ x @ stretch.T` is x [side, side], bilinear, `factor` times as large."""
    return F.interpolate(torch.eye(side)[None, None], (factor * side, side), mode="bilinear")[0, 0]
