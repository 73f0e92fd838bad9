"""Published weights of the backbones and audio encoders → ours: one converter, whatever the layout of the file.

| network | files it reads |
|---|---|
| EfficientNet-Lite0 | `efficientnet_lite0_pytorch` (.pth) |
| ResNet-50 | torchvision (.pth) |
| PVTv2-B5 | the authors' and timm's layout (.pth, .safetensors) |
| VGGish | torchvggish (.pth) |
| YAMNet | BatchNorm folded (.safetensors) |

Nothing is ever unpickled but tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rt_avsac.errors import ModelError
from rt_avsac.model.avsac import Avsac
from rt_avsac.model.efficientnet import STAGES, EfficientNetLite0
from rt_avsac.model.pvt_v2 import PvtV2
from rt_avsac.model.resnet import ResNet
from rt_avsac.model.vggish import Vggish
from rt_avsac.model.yamnet import YamNet


class Layout(NamedTuple):
    """How a published file names things."""

    name: str
    rename: Callable[[str], str]  # published key → ours; a key it does not know stays as it is
    left_out: str  # pattern of published keys we have no use for: classifiers


def load_pretrained(net: Avsac, backbone_path: str | Path = "", audio_path: str | Path = "") -> None:
    """Reads the published weights that are given into `net`; ModelError for a file of something else."""
    if backbone_path:
        load_encoder(net.backbone, backbone_path)
    if audio_path:
        load_encoder(net.audio_encoder, audio_path)


def load_encoder(encoder: nn.Module, path: str | Path) -> None:
    """Reads one published file into a backbone or audio encoder of ours; ModelError when it does not fit exactly."""
    layout = layout_of(encoder)
    published = {
        layout.rename(key): (key, value)
        for key, value in read_tensors(path, layout.name).items()
        if not re.match(layout.left_out, key)
    }
    ours = encoder.state_dict()
    # counters of BatchNorm, which old files do not have and nothing reads
    needed = [key for key in ours if not key.endswith("num_batches_tracked")]
    missing = [key for key in needed if key not in published]
    unknown = [key for name, (key, _) in published.items() if name not in ours]
    wrong = [name for name, (_, value) in published.items() if name in ours and value.shape != ours[name].shape]
    if missing or unknown or wrong:
        counts = (
            f"{len(missing)} of {len(needed)} tensors missing, {len(unknown)} unknown, {len(wrong)} of another shape"
        )
        if wrong:
            key, value = published[wrong[0]]
            odd = f"first odd key {key!r}: asked {list(ours[wrong[0]].shape)}, got {list(value.shape)}"
        else:
            odd = f"first odd key {(unknown or missing)[0]!r}"
        raise ModelError(f"{layout.name} weights {path}: not this network's file: {counts}; {odd}")
    encoder.load_state_dict({name: value for name, (_, value) in published.items()}, strict=False)


def read_tensors(path: str | Path, name: str) -> dict[str, Tensor]:
    """The tensors of a .pth or .safetensors file, out of the wrappings that training programs put around them."""
    content: Any
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{name} weights {path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{name} weights {path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # torch and safetensors have many names for it
        raise ModelError(
            f"{name} weights {path}: not a .pth or .safetensors file of tensors alone ({type(error).__name__})"
        ) from None
    for wrapping in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapping), dict):
            content = content[wrapping]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{name} weights {path}: asked a table of tensors, got {type(content).__name__}")
    return {key.removeprefix("module."): value for key, value in content.items()}


def layout_of(encoder: nn.Module) -> Layout:
    if isinstance(encoder, EfficientNetLite0):
        return Layout("EfficientNet-Lite0", rename_lite0, r"_conv_head\.|_bn1\.|_fc\.")
    if isinstance(encoder, ResNet):
        return Layout("ResNet-50", str, r"fc\.")
    if isinstance(encoder, PvtV2):
        return Layout("PVTv2-B5", rename_pvt, r"head\.")
    if isinstance(encoder, Vggish):
        return Layout("VGGish", str, r"pproc\.|pca_")
    if isinstance(encoder, YamNet):
        return Layout("YAMNet", str, r"fc\.")
    raise TypeError(f"no published weights are known for {type(encoder).__name__}")


def rename_lite0(key: str) -> str:
    """`_blocks.3._expand_conv.weight` → `stages.2.0.expand.0.weight`; blocks are counted through all stages."""
    key = re.sub(r"^_conv_stem\.", "stem.0.", re.sub(r"^_bn0\.", "stem.1.", key))
    block = re.match(r"_blocks\.(\d+)\.(\w+)\.(.+)", key)
    if not block:
        return key
    number, part, leaf = int(block[1]), block[2], block[3]
    for stage, (expansion, _, _, _, repeats) in enumerate(STAGES):
        if number < repeats:
            parts = {"_depthwise_conv": "depthwise.0", "_bn1": "depthwise.1", "_project_conv": "project.0"}
            parts |= {"_bn2": "project.1"}
            if expansion > 1:
                parts |= {"_expand_conv": "expand.0", "_bn0": "expand.1"}
            return f"stages.{stage}.{number}.{parts[part]}.{leaf}" if part in parts else key
        number -= repeats
    return key


def rename_pvt(key: str) -> str:
    """The authors' `block2.0.attn.q.weight` and timm's `stages.1.blocks.0.attn.q.weight` → ours."""

    def stage(match: re.Match[str]) -> str:
        return f"stages.{int(match[1]) - 1}."

    key = key.replace("mlp.dwconv.dwconv.", "mlp.dwconv.")
    key = re.sub(r"^patch_embed\.", "stages.0.patches.", key)
    key = re.sub(r"^patch_embed(\d)\.", lambda match: stage(match) + "patches.", key)
    key = re.sub(r"^block(\d)\.", lambda match: stage(match) + "blocks.", key)
    key = re.sub(r"^norm(\d)\.", lambda match: stage(match) + "norm.", key)
    return re.sub(r"^stages\.(\d)\.downsample\.", r"stages.\1.patches.", key)
