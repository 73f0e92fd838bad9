"""From the network to an OpenVINO model, in floating point or with the Q/DQ of a calibration. Loads torch."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch

from rt_avsac.engines.openvino import import_openvino
from rt_avsac.export import example
from rt_avsac.model.avsac import Avsac, Deployed
from rt_avsac.quantize import LEVELS, Calibration, quantized


def convert(net: Avsac, calibration: Calibration | None, overflows: bool = False) -> Any:
    """An openvino.Model of the deployed network with static shapes, Q/DQ inside when calibrated.

    `overflows`: for a processor whose int8 sums do.
    """
    ov = import_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    if calibration is None:
        deployed = Deployed(copy.deepcopy(net)).eval().requires_grad_(False)
    else:
        deployed = quantized(net, calibration, overflows)
    inputs = example(net.settings.image_size)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's remarks on constant shapes
        # a function is traced, and read by OpenVINO, in less time than a tree of modules
        traced = torch.jit.trace(lambda image, audio: deployed(image, audio), inputs, check_trace=False)
        # what openvino.convert_model calls, without the passes it adds: compiling makes them, too, in half the time
        frontend = FrontEndManager().load_by_framework("pytorch")
        frontend.add_extension(qdq_extension())
        decoder = TorchScriptPythonDecoder(traced)  # has to live as long as the graph
        graph = frontend.load(decoder)
        for index, (of_input, kind) in enumerate(zip(inputs, (ov.Type.u8, ov.Type.f32), strict=True)):
            place = graph.get_place_by_input_index(index)
            graph.set_partial_shape(place, ov.PartialShape(list(of_input.shape)))
            graph.set_element_type(place, kind)
        model = frontend.convert(graph)
        keep_exact(model)
        return model


def keep_exact(model: Any) -> None:
    """From the sound to its logarithm nothing is bf16 or fp16, whatever the hint says: quiet spectra would be lost.

    OpenVINO heeds the mark in a model that it reads from a file, not in this one.
    """
    readers = list(model.inputs[1].get_target_inputs())
    while readers:
        node = readers.pop().get_node()
        if not node.get_output_element_type(0).is_real():
            continue  # shapes
        node.get_rt_info()["precise_0"] = ""
        if node.get_type_name() != "Log":
            readers += [reader for output in node.outputs() for reader in output.get_target_inputs()]


def qdq_extension() -> Any:
    """How OpenVINO reads `rt_avsac::qdq`: weights as int8 times a scale, what enters a layer as a FakeQuantize; its own
    int8 kernels are made from the two."""
    from openvino import opset13 as ops
    from openvino.frontend.pytorch import ConversionExtension

    def translate(node: Any) -> list[Any]:
        axis, positive = int(node.get_values_from_const_input(2)), bool(node.get_values_from_const_input(3))
        x = node.get_input(0)
        scale = np.asarray(node.get_values_from_const_input(1), np.float32)
        if axis >= 0:
            weight = np.asarray(x.get_node().data)
            scale = scale.reshape([-1 if index == axis else 1 for index in range(weight.ndim)])
            rounded = np.clip(np.rint(weight / scale), -LEVELS, LEVELS).astype(np.int8)
            return ops.multiply(ops.convert(ops.constant(rounded), "f32"), ops.constant(scale)).outputs()
        # all 256 steps: with 255, OpenVINO's zero point falls between two of them, an error of half a step
        scale = scale.reshape(()) * np.float32(0.5 if positive else 1.0)
        steps = (0, 2 * LEVELS + 1) if positive else (-LEVELS - 1, LEVELS)
        low, high = scale * steps[0], scale * steps[1]
        return ops.fake_quantize(x, low, high, low, high, steps[1] - steps[0] + 1).outputs()

    return ConversionExtension("rt_avsac::qdq", translate)
