"""CUDA without TensorRT: an AOTInductor package in half precision, replayed as CUDA graphs. Not run here: no GPU.

Pinned host buffers, uploads, scaling, network, packing and downloads are all inside a graph, on one high-priority
stream: a run is a copy into pinned memory, one launch, one synchronisation. Nothing is allocated per frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_avsac.bundle import Machine, Manifest
from rt_avsac.config import LiveSettings
from rt_avsac.engines import Outputs, Packed
from rt_avsac.errors import ModelError, reason

ENGINE = "engine.pt2"
WARM_UPS = 3
# no vectors on the host: what its processor has torch finds out with a compiler and a new Python for each kind
HOST = {"cpp.vec_isa_ok": False}


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


def load_package(package: Path) -> Any:
    """The network of a package, for one thread: with locks and events of its own it could not be captured."""
    torch = import_torch()
    from torch._inductor import config

    torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32
    with config.patch(HOST):
        return torch._inductor.aoti_load_package(str(package), run_single_threaded=True)


class Captured:
    """Upload, work and download as one CUDA graph with pinned buffers of its own. Used from one thread."""

    def __init__(self, work: Callable[..., Sequence[Any]], hosts: Sequence[Any]) -> None:
        """`work`: device tensors → device tensors, always of the same shapes; `hosts`: its inputs on the host."""
        torch = import_torch()
        self._hosts = [host.pin_memory() for host in hosts]
        self._devices = [torch.zeros_like(host, device="cuda") for host in self._hosts]
        self._work = work
        self._stream = torch.cuda.Stream(priority=-1)
        self._current = torch.cuda.stream(self._stream)
        with torch.inference_mode(), self._current:
            for _ in range(WARM_UPS):  # lazily loaded kernels and workspaces cannot be captured
                outputs = work(*self._devices)
            self._stream.synchronize()
            self._results = [torch.empty(each.shape, dtype=each.dtype).pin_memory() for each in outputs]
        self._graph = torch.cuda.CUDAGraph()
        # another thread's camera or decoder may call CUDA meanwhile
        capture = torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local")
        with torch.inference_mode(), capture:
            self._step()

    def _step(self) -> None:
        for device, host in zip(self._devices, self._hosts, strict=True):
            device.copy_(host, non_blocking=True)
        for result, output in zip(self._results, self._work(*self._devices), strict=True):
            result.copy_(output, non_blocking=True)

    def __call__(self, *arrays: Any) -> list[NDArray[Any]]:
        """Inputs without their batch dimension → fresh arrays, without it too."""
        for host, array in zip(self._hosts, arrays, strict=True):
            host.numpy()[0] = array
        with self._current:  # a graph is replayed on the stream of the moment
            self._graph.replay()
        self._stream.synchronize()
        return [result[0].numpy().copy() for result in self._results]

    def free(self) -> None:
        self._graph.reset()


class CudaEngine:
    """Used from one thread. `run` and `segment` return fresh arrays."""

    backend = device = "cuda"

    def __init__(self, network: Any, manifest: Manifest) -> None:
        """`network`: image, audio, threshold → `rt_avsac.model.on_device.Packed`'s outputs."""
        torch = import_torch()
        self.manifest, self.precision = manifest, manifest.precision
        self._network, num_maps = network, manifest.num_outputs
        size, samples = manifest.image_size, manifest.num_audio_samples
        self._sound = (torch.zeros(1, samples), torch.zeros(1))  # and the threshold
        image = torch.zeros(1, size, size, 3, dtype=torch.uint8)
        self._maps: Captured | None = Captured(lambda *inputs: network(*inputs)[:num_maps], (image, *self._sound))
        self._frame_size = (0, 0)
        self._masks: Captured | None = None

    def _capture_masks(self, height: int, width: int) -> Captured:
        """A graph for frames of this size; a camera changes it never, or when it is opened again."""
        torch = import_torch()
        from rt_avsac.model.on_device import Scale

        if self._masks is not None:
            self._masks.free()
            self._masks = None
        network, num_maps = self._network, self.manifest.num_outputs
        scale = Scale(height, width, self.manifest.image_size).cuda()

        def work(frame: Any, audio: Any, threshold: Any) -> Sequence[Any]:
            return network(scale(frame), audio, threshold)[num_maps:]  # type: ignore[no-any-return]

        frame = torch.zeros(1, height, width, 3, dtype=torch.uint8)
        self._masks, self._frame_size = Captured(work, (frame, *self._sound)), (height, width)
        return self._masks

    def run(self, image: NDArray[np.uint8], audio: NDArray[np.float32]) -> Outputs:
        """image uint8 [S, S, 3], audio float32 [n] → fresh arrays."""
        assert self._maps is not None, "closed"
        return Outputs.of(self._maps(image, audio, 0.5))

    def scales(self, height: int, width: int) -> bool:
        return True

    def segment(self, frame: NDArray[np.uint8], audio: NDArray[np.float32], threshold: float) -> Packed:
        """frame uint8 [H, W, 3], audio float32 [n] → fresh arrays; slow once for each new size of frame."""
        height, width = frame.shape[:2]
        masks = self._masks
        if masks is None or self._frame_size != (height, width):
            masks = self._capture_masks(height, width)
        return Packed(*masks(frame, audio, threshold))

    def close(self) -> None:
        for graph in (self._maps, self._masks):
            if graph is not None:
                graph.free()
        self._network = self._maps = self._masks = None

    def __enter__(self) -> CudaEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_bundle(folder: Path, manifest: Manifest, settings: LiveSettings) -> CudaEngine:
    """Loads the package onto the first GPU; ModelError when it does not load."""
    try:
        return CudaEngine(load_package(folder / ENGINE), manifest)
    except RuntimeError as error:
        raise ModelError(f"bundle {folder}: CUDA cannot run {ENGINE}: {reason(error)}; compile it again") from None
