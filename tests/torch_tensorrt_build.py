"""`python -m tests.torch_tensorrt_build FILE.pt2`: Torch-TensorRT without a GPU → what it leaves to torch, and bytes.

Its RTX edition converts and builds on the CPU, but asks for a GPU at import and to load what it built. This process
tells it of one that is not there, and takes the built engine before it is loaded.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from types import SimpleNamespace
from typing import Any


def pretend_gpu() -> None:
    """An H100 that only says its name; nothing is computed on it."""
    import torch

    about = SimpleNamespace(major=9, minor=0, name="none", total_memory=80 << 30)
    answers = {"get_device_capability": (9, 0), "current_device": 0, "get_device_properties": about, "set_device": None}
    for name, answer in (answers | {"mem_get_info": (60 << 30, 80 << 30), "synchronize": None}).items():
        setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    torch._C._CudaDeviceProperties = object  # type: ignore[attr-defined, misc]
    is_file = os.path.isfile
    os.path.isfile = lambda path: "torchtrt" not in str(path) and is_file(path)  # its runtime: for CUDA builds of torch


def main(path: str) -> None:
    pretend_gpu()
    import torch
    import torch_tensorrt
    from torch_tensorrt.dynamo.conversion import _TRTInterpreter as interpreter

    from rt_avsac import torch_trt
    from rt_avsac.export import example

    built: list[bytes] = []

    class Taken:
        """In place of TensorRT's runtime: keeps the engine that it should load."""

        def __init__(self, logger: Any) -> None: ...

        def deserialize_cuda_engine(self, plan: Any) -> Any:
            built.append(bytes(plan))
            return SimpleNamespace(serialize=lambda: plan)

    class Interpreter(interpreter.TRTInterpreter):
        def _populate_trt_builder_config(self, *args: Any, **kwargs: Any) -> Any:
            config = super()._populate_trt_builder_config(*args, **kwargs)
            config.num_compute_capabilities = 1
            config.set_compute_capability(interpreter.trt.ComputeCapability.SM86, 0)
            return config

    torch_trt.register()
    program = torch.export.load(path)
    left = torch_trt.fallback_ops(program)
    size = next(node.meta["val"].shape[1] for node in program.graph.nodes if node.name == "image")
    interpreter.trt.Runtime = Taken
    torch_tensorrt.dynamo._compiler.TRTInterpreter = Interpreter
    with tempfile.TemporaryDirectory() as cache:
        settings = torch_trt.settings_of(cache)
        for name in ("cache_built_engines", "reuse_cached_engines", "engine_cache_dir"):
            del settings[name]  # of `compile` alone
        torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
            program, arg_inputs=example(size), **settings
        )
    print(json.dumps({"fallback": left, "engine_bytes": len(built[0])}))


if __name__ == "__main__":
    main(sys.argv[1])
