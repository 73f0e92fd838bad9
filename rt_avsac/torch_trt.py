"""Our Q/DQ op for Torch-TensorRT, for those who run the .pt2 of a calibration inside torch. Built, not run: no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rt_avsac.errors import ModelError, reason


def register() -> None:
    """Tells Torch-TensorRT to build `rt_avsac::qdq` from a quantize and a dequantize layer."""
    import numpy as np
    import torch
    import torch_tensorrt
    from torch_tensorrt.dynamo.conversion import dynamo_tensorrt_converter
    from torch_tensorrt.dynamo.conversion.converter_utils import get_trt_tensor

    from rt_avsac import quantize  # noqa: F401  # registers the op itself

    del torch_tensorrt

    @dynamo_tensorrt_converter(torch.ops.rt_avsac.qdq.default)
    def convert(ctx: Any, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
        import tensorrt as trt

        x, scale, axis, _ = args
        source = get_trt_tensor(ctx, x, f"{name}_x")
        steps = np.asarray(scale.detach().cpu() if isinstance(scale, torch.Tensor) else scale, np.float32)
        constant = get_trt_tensor(ctx, steps if axis >= 0 else steps.reshape(()), f"{name}_scale")
        quantized = ctx.net.add_quantize(source, constant, trt.DataType.INT8)
        restored = ctx.net.add_dequantize(quantized.get_output(0), constant, source.dtype)
        if axis >= 0:
            quantized.axis = restored.axis = axis
        return restored.get_output(0)


def fallback_ops(program: Any) -> list[str]:
    """Operators of an exported program that Torch-TensorRT cannot convert once it is lowered: they would stay in torch.

    `register` comes first.
    """
    from torch_tensorrt.dynamo._settings import CompilationSettings
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS
    from torch_tensorrt.dynamo.lowering import get_decompositions, post_lowering, pre_export_lowering

    settings = CompilationSettings(min_block_size=1, require_full_compilation=True)
    lowered = pre_export_lowering(program, settings).run_decompositions(get_decompositions(False))
    graph = post_lowering(lowered.module(), settings).graph
    calls = [node for node in graph.nodes if node.op == "call_function"]
    return sorted({str(node.target) for node in calls if node not in DYNAMO_CONVERTERS})


def settings_of(cache: str | Path) -> dict[str, Any]:
    """How we call Torch-TensorRT 2.11 to 2.14: one engine, types by autocast, nothing left to torch."""
    import torch

    return {
        "require_full_compilation": True,
        "min_block_size": 1,
        "enable_autocast": True,
        "autocast_low_precision_type": torch.float16,
        "immutable_weights": True,
        "cache_built_engines": True,
        "reuse_cached_engines": True,
        "engine_cache_dir": str(cache),
        "timing_cache_path": str(Path(cache) / "timing.bin"),
    }


def compile_pt2(path: str | Path, cache: str | Path) -> Any:
    """A .pt2 of `python -m calibrate` as one Torch-TensorRT module on the GPU; ModelError where that cannot be."""
    try:
        import torch
        import torch_tensorrt
        from torch.export.passes import move_to_device_pass

        register()
    except Exception as error:  # without a driver or TensorRT's libraries it raises more than ImportError
        raise ModelError(
            f"Torch-TensorRT: cannot be imported ({reason(error)}); use --backend tensorrt or cuda"
        ) from None
    from rt_avsac.export import example

    # before decomposition: on the CPU attention is taken apart into an op without a converter
    program = move_to_device_pass(torch.export.load(path), "cuda")
    if left := fallback_ops(program):
        raise ModelError(f"Torch-TensorRT: has no converter for {', '.join(left)}; use --backend tensorrt or cuda")
    size = next(node.meta["val"].shape[1] for node in program.graph.nodes if node.name == "image")
    return torch_tensorrt.dynamo.compile(program, arg_inputs=example(size, "cuda"), **settings_of(cache))
