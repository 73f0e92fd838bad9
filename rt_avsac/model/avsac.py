"""AVSAC: picture and audio encoders, BAVD, and the mask head (paper, section 3 and figure 2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rt_avsac.model.bavd import Bavd
from rt_avsac.model.efficientnet import EfficientNetLite0
from rt_avsac.model.position import sine_position
from rt_avsac.model.pyramid import Pyramid, Separable
from rt_avsac.model.settings import ModelSettings
from rt_avsac.model.yamnet import YamNet

STRIDES = (8, 16, 32)


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


class Decoded(NamedTuple):
    """What both give together, before any squashing."""

    sounding_logit: Tensor  # [B, 1, H/4, W/4]
    f_agv: Tensor  # audio-guided vision [B, L, d]
    f_vga: Tensor  # vision-guided audio [B, N, d]
    mask_feature: Tensor  # [B, m, H/4, W/4]


def make_backbone(settings: ModelSettings) -> nn.Module:
    if settings.backbone == "efficientnet_lite0":
        return EfficientNetLite0()
    raise ValueError(f"model: unknown backbone {settings.backbone!r}")


def make_audio_encoder(settings: ModelSettings) -> nn.Module:
    if settings.audio_encoder == "yamnet":
        return YamNet()
    raise ValueError(f"model: unknown audio encoder {settings.audio_encoder!r}")


class Avsac(nn.Module):
    """image [B, 3, H, W] RGB in [0, 255] and audio [B, 15600] → `Decoded`; see `see`, `hear`, `decode` for the parts."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.settings = settings
        dim, mask_dim = settings.dim, settings.mask_dim
        self.backbone = make_backbone(settings)
        self.audio_encoder = make_audio_encoder(settings)
        self.pixel_encoder = Pyramid(self.backbone.channels, dim, mask_dim)
        self.audio_projection = nn.Linear(self.audio_encoder.dim, dim)
        self.queries = nn.Parameter(torch.randn(settings.num_queries, dim) * 0.02)
        self.level = nn.Parameter(torch.zeros(len(settings.token_strides), dim))
        self.bavd = Bavd(settings)
        for stride in settings.token_strides:
            side = settings.image_size // stride
            self.register_buffer(f"position{stride}", sine_position(side, side, dim), persistent=False)
        self.refine8 = Separable(dim, mask_dim)
        self.refine4 = Separable(mask_dim, mask_dim)
        self.query_projection = nn.Linear(dim, mask_dim)
        num_products = settings.num_queries + int(settings.class_match)
        self.mlp = nn.Sequential(
            nn.Conv2d(num_products, settings.mlp_dim, 1), nn.ReLU(), nn.Conv2d(settings.mlp_dim, mask_dim, 1)
        )
        self.head = nn.Conv2d(mask_dim, 1, 1)
        if settings.num_classes > 1:
            self.class_head = nn.Sequential(Separable(dim, dim), nn.Conv2d(dim, settings.num_classes, 1))
            self.audio_class_head = nn.Linear(self.audio_encoder.dim, settings.num_classes)
        self._check()

    def _check(self) -> None:
        settings = self.settings
        height, width = self.audio_encoder.grid
        if settings.audio_tokens not in (1, height * width):
            raise ValueError(f"model: audio_tokens asked {settings.audio_tokens}, this encoder has 1 or {height * width}")
        if settings.num_queries % settings.audio_tokens:
            raise ValueError(f"model: num_queries {settings.num_queries} must divide by audio_tokens {settings.audio_tokens}")
        if settings.class_match and settings.num_classes == 1:
            raise ValueError("model: class_match needs num_classes > 1")

    def position(self, seen: Seen) -> Tensor:
        """float32 [1, L, d]: where and at which level each visual token lies."""
        parts = []
        for index, stride in enumerate(self.settings.token_strides):
            height, width = seen.levels[STRIDES.index(stride)].shape[-2:]
            place = getattr(self, f"position{stride}")
            if height * width != len(place):  # another picture size than the settings' (training at smaller ones)
                place = sine_position(height, width, self.settings.dim).to(place)
            parts.append(place + self.level[index])
        return torch.cat(parts)[None]

    def see(self, image: Tensor) -> Seen:
        levels, lateral4 = self.pixel_encoder(self.backbone(image))
        tokens = torch.cat([levels[stride].flatten(2).transpose(1, 2) for stride in self.settings.token_strides], dim=1)
        class_logit = self.class_head(levels[8]) if self.settings.num_classes > 1 else None
        return Seen(tokens, tuple(levels[stride] for stride in STRIDES), lateral4, class_logit)

    def hear(self, audio: Tensor) -> Heard:
        return self.hear_cells(self.audio_encoder(audio))

    def hear_cells(self, cells: Tensor) -> Heard:
        """A0 = learned queries + audio; query i carries cell i mod audio_tokens of the time-frequency grid (choice).

        cells [B, c, h, w]: what the audio encoder gives.
        """
        cells = cells.flatten(2).transpose(1, 2)
        pooled = cells.mean(dim=1)
        if self.settings.audio_tokens == 1:
            cells = pooled[:, None]
        tokens = self.audio_projection(cells)
        queries = self.queries + tokens.repeat(1, self.settings.num_queries // self.settings.audio_tokens, 1)
        return Heard(queries, self.audio_class_head(pooled) if self.settings.num_classes > 1 else None)

    def decode(self, seen: Seen, heard: Heard) -> Decoded:
        f_vga, f_agv = self.bavd(heard.queries, seen.tokens, self.position(seen))
        feature = self.mask_feature(f_agv, seen)
        product = torch.einsum("bmhw,bnm->bnhw", feature, self.query_projection(f_vga)) * feature.shape[1] ** -0.5
        if self.settings.class_match:
            product = torch.cat([product, self.match(seen, heard)], dim=1)
        return Decoded(self.head(feature + self.mlp(product)), f_agv, f_vga, feature)

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
        assert seen.class_logit is not None and heard.class_logit is not None
        of_class = seen.class_logit.softmax(dim=1)[:, 1:]
        is_heard = heard.class_logit.sigmoid()[:, 1:, None, None]
        match = (of_class * is_heard).sum(dim=1, keepdim=True) * 2.0 - 1.0
        return F.interpolate(match, scale_factor=2.0, mode="bilinear")

    def forward(self, image: Tensor, audio: Tensor) -> Decoded:
        return self.decode(self.see(image), self.hear(audio))


class Deployed(nn.Module):
    """The graph that is compiled: raw picture and waveform in, probabilities out; static shapes, batch 1.

    image uint8 [1, S, S, 3] RGB, audio float32 [1, 15600] → sounding [1, S, S]; with classes also
    class_probability [1, C, S/4, S/4] (softmax) and audio_probability [1, C] (sigmoid).
    """

    def __init__(self, net: Avsac) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor, audio: Tensor) -> tuple[Tensor, ...]:
        seen = self.net.see(image.permute(0, 3, 1, 2).float())
        heard = self.net.hear(audio)
        logit = self.net.decode(seen, heard).sounding_logit
        sounding = F.interpolate(logit, scale_factor=4.0, mode="bilinear").sigmoid()[:, 0]
        if seen.class_logit is None or heard.class_logit is None:
            return (sounding,)
        of_class = F.interpolate(seen.class_logit, scale_factor=2.0, mode="bilinear").softmax(dim=1)
        return sounding, of_class, heard.class_logit.sigmoid()
