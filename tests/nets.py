"""Small networks of both kinds for the tests, and their inputs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rt_avsac.config import override, read_file
from rt_avsac.model.avsac import Avsac
from rt_avsac.model.settings import ModelSettings

CONFIGS = Path(__file__).parents[1] / "configs"


def make(seed: int = 0, **changes: Any) -> Avsac:
    """The edge model at 64 px, with changes."""
    torch.manual_seed(seed)
    net = Avsac(dataclasses.replace(ModelSettings(image_size=64), **changes)).eval()
    for module in net.audio_encoder.modules():  # torch's own start lets the sound fade from layer to layer
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return net


def make_paper(**changes: Any) -> Avsac:
    """The paper's parts, made narrow and shallow; VGGish, which has no narrow form, only where it is the point."""
    small: dict[str, Any] = {
        "num_classes": 1, "backbone": "resnet50", "audio_encoder": "yamnet", "pixel_encoder": "deformable",
        "pixel_encoder_layers": 1, "pixel_encoder_ffn_dim": 32, "token_strides": (8, 16, 32), "dim": 64, "mask_dim": 64,
        "num_layers": 2, "num_heads": 8, "ffn_dim": 32, "num_queries": 50, "audio_tokens": 6, "mixer": True,
        "mlp_dim": 16, "mlp_layers": 3, "head": "full", "auxiliary_mask": True, "class_match": False,
    }  # fmt: skip
    return make(**(small | changes))


VGGISH = {"audio_encoder": "vggish", "audio_tokens": 24}


def inputs(batch: int = 2, side: int = 64, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 3, side, side, generator=generator) * 255.0
    return image, torch.randn(batch, 15_600, generator=generator) * 0.1


def millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def config_settings(name: str) -> ModelSettings:
    tables = read_file(CONFIGS / f"{name}.toml")
    settings = config_settings(tables["base"].removesuffix(".toml")) if "base" in tables else ModelSettings()
    return override(settings, tables.get("model", {}), name)


# ---- the edge model ----
