"""Ranges of what enters each layer: min-max, percentile or entropy, and SmoothQuant-style divisors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from calibrate.samples import Sample
from rt_avsac.errors import ModelError
from rt_avsac.model.avsac import Avsac, Deployed
from rt_avsac.quantize import Range, folded, layers

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)  # "auto" tries them all
NUM_BINS = 2048
PERCENTILE = 99.99
SMOOTH_ALPHA = 0.5
TARGET_LEVELS = 128
SMALLEST = 1e-8  # range of a layer that only zeros enter


class Observer:
    """Histogram of |x| of one layer's input over all windows; its reach doubles when a larger value comes."""

    def __init__(self) -> None:
        self.reach = 0.0
        self.amax = 0.0
        self.low = 0.0
        self.counts = torch.zeros(NUM_BINS, dtype=torch.float64)
        self.channel_amax: Tensor | None = None

    def see(self, x: Tensor, channel_axis: int) -> None:
        x = x.detach()
        magnitude = x.abs()
        top = float(magnitude.max())
        if not math.isfinite(top):
            raise ModelError("calibration: values that are not finite enter a layer; check the checkpoint's weights")
        if self.reach == 0.0:
            self.reach = max(top, SMALLEST)
        while top > self.reach:
            self.counts = torch.cat(
                [self.counts.view(-1, 2).sum(dim=1), torch.zeros(NUM_BINS // 2, dtype=torch.float64)]
            )
            self.reach *= 2
        self.counts += torch.histc(magnitude.float(), NUM_BINS, 0.0, self.reach).double()
        self.amax = max(self.amax, top)
        self.low = min(self.low, float(x.min()))
        per_channel = magnitude.transpose(0, channel_axis).flatten(1).amax(dim=1)
        self.channel_amax = per_channel if self.channel_amax is None else torch.maximum(self.channel_amax, per_channel)

    def limit(self, method: Method) -> float:
        """The |x| that the greatest int8 step stands for; above 0 also where only zeros came."""
        if method == "minmax" or self.amax == 0.0:
            return self.amax or SMALLEST
        if method == "percentile":
            share = self.counts.cumsum(0) / self.counts.sum()
            index = int(torch.searchsorted(share, PERCENTILE / 100))
            return min((index + 1) / NUM_BINS * self.reach, self.amax)
        return min(entropy_limit(self.counts.numpy(), self.reach), self.amax)


def entropy_limit(counts: np.ndarray, reach: float) -> float:
    """The cut whose 128 levels lose least (Kullback-Leibler), as TensorRT's entropy calibration looks for it.

    counts: float64 [bins] of |x| on [0, reach]. Zeros tell nothing about the cut and are left out.
    """
    counts = counts.copy()
    counts[0] = 0.0
    best, best_index = np.inf, len(counts)
    for index in range(TARGET_LEVELS, len(counts) + 1, 16):
        kept = counts[:index]
        wanted = kept.copy()
        wanted[-1] += counts[index:].sum()
        if wanted.sum() == 0:
            continue
        edges = np.linspace(0, index, TARGET_LEVELS + 1).astype(int)
        sums = np.add.reduceat(kept, edges[:-1])
        filled = np.add.reduceat((kept > 0).astype(float), edges[:-1])
        mean = np.divide(sums, filled, out=np.zeros_like(sums), where=filled > 0)
        got = np.repeat(mean, np.diff(edges)) * (kept > 0)
        if got.sum() == 0:
            continue
        p, q = wanted / wanted.sum(), got / got.sum()
        both = (p > 0) & (q > 0)
        lost = float(p[(p > 0) & (q == 0)].sum())
        divergence = float((p[both] * np.log(p[both] / q[both])).sum()) + 20 * lost
        if divergence < best:
            best, best_index = divergence, index
    return best_index / len(counts) * reach


def smoothing(layer: nn.Conv2d | nn.Linear, channel_amax: Tensor) -> list[float]:
    """SmoothQuant's divisor of each input channel: max|x|^a / max|w|^(1-a); empty where the layer is grouped."""
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return []
    weight_amax = layer.weight.detach().abs().transpose(0, 1).flatten(1).amax(dim=1).clamp(min=1e-5)
    divisor = channel_amax.clamp(min=1e-5) ** SMOOTH_ALPHA / weight_amax ** (1 - SMOOTH_ALPHA)
    return [float(value) for value in divisor / divisor.log().mean().exp()]


def observe(net: Avsac, samples: Iterable[Sample], say: Callable[[str], None]) -> dict[str, Observer]:
    """One pass over the windows in torch fp32: layer → what enters it. Layers that never run are left out."""
    flat = folded(net)
    found = layers(flat)
    observers = {name: Observer() for name in found}

    def hook_of(name: str, channel_axis: int) -> Callable[..., None]:
        return lambda module, inputs: observers[name].see(inputs[0], channel_axis)

    for name, layer in found.items():
        layer.register_forward_pre_hook(hook_of(name, -1 if isinstance(layer, nn.Linear) else 1))
    deployed = Deployed(flat).eval()
    with torch.inference_mode():
        for index, sample in enumerate(samples):
            deployed(torch.from_numpy(sample.image)[None], torch.from_numpy(sample.audio)[None])
            if index % 32 == 31:
                say(f"{index + 1} windows seen")
    return {name: observer for name, observer in observers.items() if observer.channel_amax is not None}


def ranges_of(net: Avsac, observers: dict[str, Observer], method: Method, smooth: bool) -> dict[str, Range]:
    """One range for each layer. smooth: the decoder's Linear layers get SmoothQuant's divisors.

    Not the two that read the sound's summary: OpenVINO 2026.4 mixes up the divisors of two readers of one mean.
    """
    found = layers(folded(net))
    ranges = {}
    for name, observer in observers.items():
        assert observer.channel_amax is not None
        divisors = (
            smoothing(found[name], observer.channel_amax)
            if smooth and isinstance(found[name], nn.Linear) and name.startswith("bavd.")
            else []
        )
        amax = float((observer.channel_amax / torch.tensor(divisors)).max()) if divisors else observer.limit(method)
        ranges[name] = Range(amax, observer.low >= 0.0, divisors)
    return ranges
