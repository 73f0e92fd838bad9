"""The network as files for other runtimes: ONNX and .pt2, in fp32 or with the Q/DQ of a calibration."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rt_avsac.errors import DiskError, ModelError
from rt_avsac.model.avsac import Avsac, Deployed
from rt_avsac.model.settings import NUM_AUDIO_SAMPLES
from rt_avsac.quantize import LEVELS, Calibration, quantized

OPSET = 18
OPSET_HALF = 19  # from here on what is rounded may be fp16
INPUTS = ("image", "audio")
OUTPUTS = ("sounding", "class_probability", "audio_probability")


def example(image_size: int, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """One window of zeros: image uint8 [1, S, S, 3], audio float32 [1, 15600]."""
    image = torch.zeros(1, image_size, image_size, 3, dtype=torch.uint8, device=device)
    return image, torch.zeros(1, NUM_AUDIO_SAMPLES, device=device)


def exported(net: Avsac, calibration: Calibration | None) -> torch.export.ExportedProgram:
    """The deployed network with static shapes; with a calibration, signed `rt_avsac::qdq` before and in its layers."""
    import warnings

    deployed = Deployed(net).eval() if calibration is None else quantized(net, calibration.signed())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(deployed, example(net.settings.image_size))


def write_pt2(program: torch.export.ExportedProgram, path: Path) -> None:
    """For Torch-TensorRT and AOTInductor; reading it needs `rt_avsac.quantize` imported where it holds Q/DQ."""
    archive = io.BytesIO()  # torch's own writer of files aborts the process when the disk is full
    torch.export.save(program, archive)
    _atomically(path, lambda temporary: temporary.write_bytes(archive.getbuffer()))


def write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    inputs: Sequence[str] = INPUTS,
    outputs: Sequence[str] = OUTPUTS,
    opset: int = OPSET,
) -> None:
    """Q/DQ as QuantizeLinear and DequantizeLinear, weights stored as int8. ModelError when onnx is not installed.

    `outputs`: names, of which the first so many are used as there are outputs.
    """
    import logging
    import warnings

    try:
        import onnx
        from onnxscript import opset18
    except ImportError as error:
        raise ModelError(f"export to ONNX: {error.name} is not installed; pip install onnx onnxscript") from None

    op: Any = opset18  # its types know no symbolic values

    def qdq(x: Any, scale: Any, axis: int, positive: bool) -> Any:
        if axis >= 0:
            nothing = onnx.helper.make_tensor("zero", onnx.TensorProto.INT8, [1], [0])
            zero = op.ConstantOfShape(op.Shape(scale), value=nothing)
            return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero, axis=axis), scale, zero, axis=axis)
        zero = op.Constant(value=onnx.helper.make_tensor("zero", onnx.TensorProto.INT8, [], [0]))
        step = op.Squeeze(scale)
        return op.DequantizeLinear(op.QuantizeLinear(x, step, zero), step, zero)

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nothing here needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table: dict[Any, Any] = {torch.ops.rt_avsac.qdq.default: qdq}
        model = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            custom_translation_table=table,
            input_names=list(inputs),
            output_names=list(outputs[: len(program.graph_signature.user_outputs)]),
            verbose=False,
        )
    assert model is not None
    proto = model.model_proto
    fold_weights(proto)
    _atomically(path, lambda temporary: onnx.save(proto, temporary))


def fold_weights(proto: Any) -> None:
    """Rounded weights become int8 initializers; the transposes of Linear weights move before their rounding.

    What is cast to fp16 afterwards is restored as such: its scale is fp16.
    """
    import onnx
    from onnx import numpy_helper

    graph = proto.graph
    initializers = {item.name: item for item in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    dropped = set()
    for node in list(graph.node):
        if node.op_type != "QuantizeLinear" or node.input[0] not in initializers:
            continue
        weight = numpy_helper.to_array(initializers[node.input[0]])
        scale = numpy_helper.to_array(initializers[node.input[1]]).reshape(-1)
        (restore,) = readers[node.output[0]]
        axis, output = 0, restore.output[0]
        while len(after := readers.get(output, [])) == 1:
            if after[0].op_type == "Transpose" and weight.ndim == 2 and axis == 0:
                axis = 1
            elif after[0].op_type == "Cast" and after[0].attribute[0].i == onnx.TensorProto.FLOAT16:
                scale = np.maximum(scale.astype(np.float16), np.finfo(np.float16).smallest_subnormal)
            else:
                break
            output = after[0].output[0]
            dropped.add(id(after[0]))
        steps = weight / scale.astype(np.float32).reshape([-1] + [1] * (weight.ndim - 1))
        rounded = np.clip(np.rint(steps), -LEVELS, LEVELS).astype(np.int8)
        name = node.input[0]
        stored_as = {
            f"{name}.int8": np.ascontiguousarray(rounded.T) if axis else rounded,
            f"{name}.scale": scale,
            f"{name}.zero": np.zeros(len(scale), np.int8),
        }
        graph.initializer.extend(numpy_helper.from_array(values, key) for key, values in stored_as.items())
        restored = onnx.helper.make_node("DequantizeLinear", list(stored_as), [output], name=restore.name, axis=axis)
        restore.CopyFrom(restored)
        dropped.add(id(node))
    kept = [node for node in graph.node if id(node) not in dropped]
    used = {name for node in kept for name in node.input} | {item.name for item in graph.output}
    kept = [node for node in kept if any(name in used for name in node.output)]
    used = {name for node in kept for name in node.input}
    stored = [item for item in graph.initializer if item.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend(stored)


def _atomically(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise DiskError(f"export {path}: cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
