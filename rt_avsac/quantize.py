"""INT8, one recipe for all backends: a calibration file (ranges per layer) and the network with Q/DQ in its graph."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rt_avsac.errors import ModelError
from rt_avsac.model.avsac import Avsac, Deployed

FORMAT = 1
LEVELS = 127  # steps up to the largest magnitude, zero at 0: weights -127 … 127, activations -128 … 127
HALF_LEVELS = 63  # of weights whose products with 255 are added in pairs in 16 bits


@dataclass(frozen=True)
class Range:
    """What enters one layer: |x| up to `amax` is represented; `positive`: nothing below zero was seen.

    `smooth`: one divisor an input channel, moved from the activation into the weight (SmoothQuant); empty for none.
    """

    amax: float
    positive: bool
    smooth: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Calibration:
    """What `python -m calibrate` measured on one checkpoint; the layers not in `ranges` stay in floating point."""

    checkpoint_sha256: str
    method: str  # how the ranges were chosen: minmax, percentile or entropy
    ranges: dict[str, Range]
    float_layers: list[str]  # left out, because the measured sweep said so
    windows: list[dict[str, str]] = field(default_factory=list)  # what it was measured on: id, stratum, sha256
    measured: dict[str, Any] = field(default_factory=dict)
    signed_float_layers: list[str] = field(default_factory=list)  # left out besides, where steps are signed
    format: int = FORMAT

    def signed(self) -> Calibration:
        """For those whose int8 is signed only (TensorRT, and one ONNX file for all): what is positive has half as many
        steps there, so more layers stay in floating point."""
        kept = {
            name: dataclasses.replace(each, positive=False)
            for name, each in self.ranges.items()
            if name not in self.signed_float_layers
        }
        left_out = [*self.float_layers, *self.signed_float_layers]
        return dataclasses.replace(self, ranges=kept, float_layers=left_out, signed_float_layers=[])

    def summary(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {
            "method": self.method,
            "num_windows": len(self.windows),
            "int8_layers": len(self.ranges),
            "float_layers": self.float_layers,
            **self.measured,
        }


def read_calibration(path: str | Path) -> Calibration:
    """ModelError for anything that is no calibration file."""
    try:
        table = json.loads(Path(path).read_text("utf-8"))
        if table["format"] != FORMAT:
            raise ModelError(
                f"calibration {path}: format {table['format']!r}, this version reads {FORMAT}; calibrate again"
            )
        ranges = {
            str(name): Range(float(item["amax"]), bool(item["positive"]), [float(s) for s in item.get("smooth", [])])
            for name, item in table["ranges"].items()
        }
        for name, each in ranges.items():
            if not all(math.isfinite(value) and value > 0 for value in (each.amax, *each.smooth)):
                raise ModelError(
                    f"calibration {path}: layer {name!r}: asked finite ranges above 0, got another; calibrate again"
                )
        known = {item.name for item in dataclasses.fields(Calibration)}
        return Calibration(**{key: value for key, value in table.items() if key in known} | {"ranges": ranges})
    except FileNotFoundError:
        raise ModelError(f"calibration {path}: no such file; make one with `python -m calibrate`") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"calibration {path}: not a calibration file ({type(error).__name__}: {error})") from None


def qdq(x: Tensor, scale: Tensor, axis: int, positive: bool) -> Tensor:
    """Round `x` to int8 steps of `scale` and back: one scale (axis -1) or one a channel of `axis`.

    One op, so that each backend gets what it likes best: TensorRT a quantize/dequantize pair, ONNX likewise, OpenVINO
    a FakeQuantize. `positive` allows unsigned steps, twice as fine, which OpenVINO and torch have; see `signed`.
    """
    rounded: Tensor = torch.ops.rt_avsac.qdq(x, scale, axis, positive)
    return rounded


# not as a custom_op: its first call imports torch's compiler, which takes longer than the whole trace
torch.library.define("rt_avsac::qdq", "(Tensor x, Tensor scale, int axis, bool positive) -> Tensor")


@torch.library.impl("rt_avsac::qdq", "default")
def _(x: Tensor, scale: Tensor, axis: int, positive: bool) -> Tensor:
    if axis >= 0:
        zeros = torch.zeros(scale.numel(), dtype=torch.int32, device=scale.device)
        return torch.fake_quantize_per_channel_affine(x, scale, zeros, axis, -LEVELS, LEVELS)
    zero = torch.zeros(1, dtype=torch.int32, device=scale.device)
    if positive:
        return torch.fake_quantize_per_tensor_affine(x, scale / 2, zero, 0, 2 * LEVELS + 1)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, -LEVELS - 1, LEVELS)


@torch.library.register_fake("rt_avsac::qdq")
def _(x: Tensor, scale: Tensor, axis: int, positive: bool) -> Tensor:
    return torch.empty_like(x)


class WeightQdq(nn.Module):
    """Rounds a weight per output channel (axis 0); not while `on` is False."""

    scale: Tensor
    on = True

    def __init__(self, weight: Tensor, levels: int) -> None:
        super().__init__()
        amax = weight.detach().flatten(1).abs().amax(dim=1).clamp(min=1e-8)
        self.register_buffer("scale", amax / levels)

    def forward(self, weight: Tensor) -> Tensor:
        return qdq(weight, self.scale, 0, False) if self.on else weight


class InputQdq(nn.Module):
    """Rounds what enters a layer, after the division of SmoothQuant where there is one."""

    scale: Tensor
    smooth: Tensor | None
    on = True

    def __init__(self, measured: Range, channel_axis: int) -> None:
        super().__init__()
        self.positive = measured.positive
        self.register_buffer("scale", torch.tensor([max(measured.amax, 1e-8) / LEVELS]))
        smooth = None
        if measured.smooth:
            shape = [1] * (-channel_axis)
            shape[0] = len(measured.smooth)
            smooth = (1.0 / torch.tensor(measured.smooth)).reshape(shape)
        self.register_buffer("smooth", smooth)

    def forward(self, x: Tensor) -> Tensor:
        smoothed = x if self.smooth is None else x * self.smooth
        return qdq(smoothed, self.scale, -1, self.positive) if self.on else smoothed


class Rounded(nn.Module):
    """A layer with Q/DQ on its input and its weight."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, measured: Range, levels: int = LEVELS) -> None:
        super().__init__()
        self.input = InputQdq(measured, -1 if isinstance(layer, nn.Linear) else -3)
        if measured.smooth:
            shape = [1, -1] + [1] * (layer.weight.dim() - 2)
            layer.weight.data.mul_(torch.tensor(measured.smooth).reshape(shape))
        parametrize.register_parametrization(layer, "weight", WeightQdq(layer.weight, levels))
        self.layer = layer

    def switch(self, on: bool) -> None:
        """Rounds or lets through; for measuring one layer after the other on one copy of the network."""
        self.input.on = on
        for module in self.layer.modules():
            if isinstance(module, WeightQdq):
                module.on = on

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.input(x))


def fold_batch_norm(net: nn.Module) -> nn.Module:
    """Every convolution followed by its BatchNorm in a Sequential becomes one convolution; in place."""
    for module in net.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1):
            conv, norm = module[index], module[index + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[index] = torch.nn.utils.fuse_conv_bn_eval(conv, norm)
                module[index + 1] = nn.Identity()
    return net


def layers(net: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """What can be rounded, by name, in the order of the module tree.

    Not what reads a number of channels that four does not divide: int8 kernels take them by fours, so nothing is won,
    and OpenVINO 2026.4 miscomputes such a convolution where it reads a concatenation in ONNX.
    """

    def fits(layer: nn.Module) -> bool:
        if isinstance(layer, nn.Conv2d):
            return layer.groups > 1 or layer.in_channels % 4 == 0
        return isinstance(layer, nn.Linear) and layer.in_features % 4 == 0

    return {name: layer for name, layer in net.named_modules() if fits(layer)}  # type: ignore[misc]


def folded(net: Avsac) -> Avsac:
    """A copy in eval mode with BatchNorm folded; its layer names are those of a calibration."""
    return fold_batch_norm(copy.deepcopy(net).eval())  # type: ignore[return-value]


def quantized(net: Avsac, calibration: Calibration, overflows: bool = False) -> Deployed:
    """The deployed network with Q/DQ around every layer in `calibration.ranges`; `net` stays as it was.

    `overflows`: for a processor whose int8 sums do; where that happens, weights get half their range. That is
    where the steps of the input are unsigned, but not where each output reads one channel.
    """
    rounded = folded(net)
    found = layers(rounded)
    unknown = sorted(set(calibration.ranges) - set(found))
    if unknown:
        raise ModelError(f"calibration: layer {unknown[0]!r} is not in this network; calibrate again")
    for name, measured in calibration.ranges.items():
        parent, _, leaf = name.rpartition(".")
        layer = found[name]
        halved = overflows and measured.positive and getattr(layer, "groups", 1) == 1
        rounding = Rounded(layer, measured, HALF_LEVELS if halved else LEVELS)
        setattr(rounded.get_submodule(parent), leaf, rounding)
    return Deployed(rounded.requires_grad_(False)).eval()
