"""Which layers stay in floating point, by measurement: each layer rounded alone, then all but the worst ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from calibrate.samples import Sample
from rt_avsac.model.avsac import Avsac, Deployed
from rt_avsac.quantize import Calibration, Range, folded, quantized
from train.listening import ALARM_SHARE

CUTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # so many of the worst layers are tried in floating point
TOLERANCE = 0.002  # of mask IoU: what comes this close to the best is as good

Key = TypeVar("Key")


@dataclass(frozen=True)
class Sweep:
    """alone: layer → relative error of the sounding map when only it is rounded; cuts: layers left out → mask IoU."""

    alone: dict[str, float]
    cuts: dict[int, float]
    float_layers: list[str]


def sounding(net: torch.nn.Module, samples: Sequence[Sample]) -> NDArray[np.float32]:
    """float32 [n, S, S]"""
    with torch.inference_mode():
        maps = [net(torch.from_numpy(s.image)[None], torch.from_numpy(s.audio)[None])[0][0] for s in samples]
    return torch.stack(maps).numpy()


def relative_error(got: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Root of the squared error over the squared signal; 0.01 is 40 dB."""
    power = float(np.square(wanted, dtype=np.float64).sum())
    return float(np.sqrt(np.square(got - wanted, dtype=np.float64).sum() / max(power, 1e-12)))


def mask_iou(got: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Mean over the windows of the IoU of the masks at 0.5; masks that raise no alarm, both together, agree.

    Else a few pixels of one silent window outweigh what all layers do to the others.
    """
    got_mask, wanted_mask = got >= 0.5, wanted >= 0.5
    both = (got_mask & wanted_mask).sum(axis=(1, 2))
    either = (got_mask | wanted_mask).sum(axis=(1, 2))
    is_heard = either > ALARM_SHARE * got[0].size
    return float(np.where(is_heard, both / np.maximum(either, 1), 1.0).mean())


def sweep(net: Avsac, ranges: dict[str, Range], samples: Sequence[Sample], say: Callable[[str], None]) -> Sweep:
    """Ranks the layers by the error each makes alone; then leaves out as many of the worst as it takes."""
    wanted = sounding(Deployed(folded(net)).eval(), samples)

    rounding = quantized(net, Calibration("", "", ranges, []))
    layers = {name: rounding.net.get_submodule(name) for name in ranges}

    def rounded(names: set[str]) -> NDArray[np.float32]:
        for name, layer in layers.items():
            layer.switch(name in names)  # type: ignore[operator]
        return sounding(rounding, samples)

    alone = {}
    for index, name in enumerate(ranges):
        alone[name] = relative_error(rounded({name}), wanted)
        if index % 20 == 19:
            say(f"{index + 1} of {len(ranges)} layers tried alone")
    worst = sorted(alone, key=lambda name: -alone[name])
    cuts = {}
    for count in CUTS:
        if count > len(worst) // 2:
            break
        cuts[count] = mask_iou(rounded(set(worst[count:])), wanted)
        say(f"{count} worst layers in floating point: masks agree {cuts[count]:.4f}")
    chosen = cheapest(cuts)
    return Sweep(alone, cuts, worst[:chosen])


def cheapest(agreement: dict[Key, float]) -> Key:
    """The first that agrees as well as any, within TOLERANCE; of what is tried, the cheapest comes first."""
    return next(key for key, value in agreement.items() if value >= max(agreement.values()) - TOLERANCE)
