"""TensorRT's RTX edition parses, converts and builds without a GPU: engines that never run."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
needs_torch_tensorrt = pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="tests/run.sh installs it")
needs_rtx = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux", reason="wheels for Linux x86-64 only"
)


def build_onnx(path: Path) -> tuple[list[str], int]:
    """A strongly typed network of the whole file → names of its outputs, bytes of the engine."""
    import tensorrt_rtx as trt

    from rt_avsac.build_gpu import builder_of, config_of

    logger = trt.Logger(trt.Logger.ERROR)
    builder = builder_of(trt)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path)), [parser.get_error(index).desc() for index in range(parser.num_errors)]
    config = config_of(trt, builder)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    return [network.get_output(index).name for index in range(network.num_outputs)], engine.nbytes


def build_pt2(path: Path) -> dict[str, Any]:
    """Torch-TensorRT on a .pt2, in a process of its own → {"fallback": operators left to torch, "engine_bytes": n}."""
    command = [sys.executable, "-m", "tests.torch_tensorrt_build", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
