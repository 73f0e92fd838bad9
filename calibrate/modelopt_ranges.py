"""Ranges by NVIDIA's modelopt, its plain INT8 recipe or its SmoothQuant, in the form of ours: `--method modelopt`."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from calibrate.ranges import SMALLEST, Observer
from calibrate.samples import Sample
from rt_avsac.errors import ModelError, reason
from rt_avsac.model.avsac import Avsac, Deployed
from rt_avsac.model.yamnet import SameConv
from rt_avsac.quantize import Range, folded, layers

MODELOPT = "modelopt"  # the word for it beside the names of our own methods


def import_modelopt() -> Any:
    """`modelopt.torch.quantization`; ModelError when it is not installed. Takes seconds."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on versions of transformers, which are not used
            import modelopt.torch.quantization as mtq
    except ImportError as error:
        raise ModelError(
            f"method modelopt: cannot be imported ({reason(error)}); pip install 'rt-avsac[modelopt]', or use minmax"
        ) from None
    return mtq


def by_modelopt(
    net: Avsac, samples: Sequence[Sample], smooth: bool, observers: Mapping[str, Observer]
) -> dict[str, Range]:
    """One range for each layer of `observers`, which know where nothing below zero enters: modelopt does not tell.

    smooth: the decoder's Linear layers get modelopt's SmoothQuant divisors; the others never have them (`ranges_of`).
    """
    mtq = import_modelopt()
    ranges = quantizers(mtq, net, mtq.INT8_DEFAULT_CFG, samples)
    if smooth:
        decoder = {name for name in ranges if name.startswith("bavd.")}
        smoothed = quantizers(mtq, net, mtq.INT8_SMOOTHQUANT_CFG, samples)
        ranges |= {name: smoothed[name] for name in decoder}
    return {
        name: Range(ranges[name].amax or SMALLEST, observer.low >= 0.0, ranges[name].smooth)
        for name, observer in observers.items()
    }


def quantizers(mtq: Any, net: Avsac, recipe: Any, samples: Sequence[Sample]) -> dict[str, Range]:
    """What modelopt's quantizers of the layers' inputs say after one pass over the windows."""
    flat = folded(net)
    names = layers(flat)

    def show(model: nn.Module) -> None:
        with torch.inference_mode():
            for sample in samples:
                model(torch.from_numpy(sample.image)[None], torch.from_numpy(sample.audio)[None])

    # it knows layers by their very class, and prints what it does
    if SameConv not in mtq.nn.QuantModuleRegistry:
        mtq.register(SameConv, mtq.nn.QuantLinearConvBase)
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mtq.quantize(Deployed(flat).eval(), recipe, show)
    found = {}
    for name in names:
        quantizer: Any = flat.get_submodule(name).input_quantizer
        if quantizer.amax is not None:  # the layer did run
            divide = quantizer.pre_quant_scale
            divisors = [] if divide is None else [float(value) for value in 1.0 / divide.flatten()]
            found[name] = Range(float(quantizer.amax), False, divisors)
    return found
