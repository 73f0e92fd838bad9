"""Our Q/DQ op for Torch-TensorRT, for those who run the .pt2 of a calibration inside torch. Not run here: no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rt_avsac.errors import ModelError


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


def compile_pt2(path: str | Path, cache: str | Path) -> Any:
    """A .pt2 of `python -m calibrate` as one Torch-TensorRT module on the GPU; ModelError where that cannot be."""
    try:
        import torch
        import torch_tensorrt
        from torch.export.passes import move_to_device_pass

        register()
    except Exception as error:  # without a driver or TensorRT's libraries it raises more than ImportError
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"Torch-TensorRT: cannot be imported ({reason}); use --backend tensorrt or cuda") from None
    from rt_avsac.export import example

    # before decomposition: on the CPU attention is taken apart into an op without a converter
    program = move_to_device_pass(torch.export.load(path), "cuda")
    size = next(node.meta["val"].shape[1] for node in program.graph.nodes if node.name == "image")
    return torch_tensorrt.dynamo.compile(
        program,
        arg_inputs=example(size, "cuda"),
        require_full_compilation=True,
        min_block_size=1,
        enable_autocast=True,
        autocast_low_precision_type=torch.float16,
        immutable_weights=True,
        cache_built_engines=True,
        reuse_cached_engines=True,
        engine_cache_dir=str(cache),
        timing_cache_path=str(Path(cache) / "timing.bin"),
    )
