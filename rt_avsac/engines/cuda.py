"""CUDA without TensorRT: an AOTInductor package in half precision, replayed as one CUDA graph. Not run here: no GPU.

Pinned host buffers, uploads, network and downloads are all inside the graph, on one high-priority stream: a run is a
copy into pinned memory, one launch, one synchronisation. Nothing is allocated per frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_avsac.bundle import Machine, Manifest
from rt_avsac.config import LiveSettings
from rt_avsac.engines import Outputs
from rt_avsac.errors import ModelError

ENGINE = "engine.pt2"
WARM_UPS = 3


def import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ModelError(f"backend cuda: torch cannot be imported ({error}); use openvino") from None
    if not torch.cuda.is_available():
        raise ModelError("backend cuda: torch sees no GPU; use --device cpu")
    return torch


def machine() -> Machine:
    """torch with its CUDA, the GPU with its compute capability, and the driver."""
    from rt_avsac.machine import gpu_name

    torch = import_torch()
    major, minor = torch.cuda.get_device_capability()
    device = f"{torch.cuda.get_device_name()} (sm_{major}{minor})"
    driver = gpu_name().rpartition(",")[2].strip()
    return Machine({"torch": torch.__version__, "cuda": str(torch.version.cuda)}, device, driver)


class CudaEngine:
    """Used from one thread. `run` returns fresh arrays."""

    backend = "cuda"

    def __init__(self, network: Any, manifest: Manifest) -> None:
        torch = import_torch()
        self.manifest, self.precision = manifest, manifest.precision
        self._network = network
        size, samples = manifest.image_size, manifest.num_audio_samples
        self._host = (
            torch.zeros(1, size, size, 3, dtype=torch.uint8).pin_memory(),
            torch.zeros(1, samples).pin_memory(),
        )
        self._device = tuple(torch.zeros_like(each, device="cuda") for each in self._host)
        self._stream = torch.cuda.Stream(priority=-1)
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):  # lazily loaded kernels and workspaces cannot be captured
                outputs = self._network(*self._device)
            self._stream.synchronize()
            self._results = tuple(torch.empty(each.shape, dtype=torch.float32).pin_memory() for each in outputs)
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph, stream=self._stream):
            self._step()

    def _step(self) -> None:
        for device, host in zip(self._device, self._host, strict=True):
            device.copy_(host, non_blocking=True)
        for result, output in zip(self._results, self._network(*self._device), strict=True):
            result.copy_(output, non_blocking=True)

    def run(self, image: NDArray[np.uint8], audio: NDArray[np.float32]) -> Outputs:
        """image uint8 [S, S, 3], audio float32 [n] → fresh arrays."""
        self._host[0].numpy()[0] = image
        self._host[1].numpy()[0] = audio
        self._graph.replay()
        self._stream.synchronize()
        return Outputs.of([result[0].numpy().copy() for result in self._results])

    def close(self) -> None:
        self._graph.reset()
        self._network = None

    def __enter__(self) -> CudaEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_bundle(folder: Path, manifest: Manifest, settings: LiveSettings) -> CudaEngine:
    """Loads the package onto the first GPU; ModelError when it does not load."""
    torch = import_torch()
    try:
        network = torch._inductor.aoti_load_package(str(folder / ENGINE))
        return CudaEngine(network, manifest)
    except RuntimeError as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"bundle {folder}: CUDA cannot run {ENGINE}: {reason}; compile it again") from None
