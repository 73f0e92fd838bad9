"""TensorRT without torch: its runtime, pinned buffers and a captured CUDA graph, by cuda-python. Not run here: no GPU.

cuda-python and not PyCUDA: it has wheels for x86-64 and aarch64 and owns no context; PyCUDA is built from source
against the CUDA headers. A Jetson runs this with the system's TensorRT and 300 MB less memory than with torch.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_avsac.bundle import Machine, Manifest
from rt_avsac.config import LiveSettings
from rt_avsac.engines import Outputs
from rt_avsac.errors import ModelError

ENGINE = "engine.plan"
INPUTS = ("image", "audio")
OUTPUTS = ("sounding", "class_probability", "audio_probability")


def import_tensorrt() -> Any:
    try:
        import tensorrt

        return tensorrt
    except Exception as error:  # without its libraries it raises more than ImportError
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"backend tensorrt: cannot be imported ({reason}); install TensorRT, or use cuda") from None


def import_cudart() -> Any:
    try:
        from cuda.bindings import runtime

        return runtime
    except ImportError as error:
        raise ModelError(f"backend tensorrt: cuda-python is missing ({error}); pip install cuda-bindings") from None


def check(result: tuple[Any, ...]) -> Any:
    """The value of a CUDA call, which returns (error, value …); ModelError names the error."""
    error, *values = result
    if int(error) != 0:
        raise ModelError(f"backend tensorrt: CUDA says {getattr(error, 'name', error)}")
    return values[0] if len(values) == 1 else tuple(values) if values else None


def machine() -> Machine:
    """TensorRT, the GPU with its compute capability, the driver's CUDA version: an engine fits nothing else."""
    trt, cudart = import_tensorrt(), import_cudart()
    properties = check(cudart.cudaGetDeviceProperties(0))
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    device = f"{name.rstrip(chr(0))} (sm_{properties.major}{properties.minor})"
    return Machine({"tensorrt": trt.__version__}, device, str(check(cudart.cudaDriverGetVersion())))


class Buffer:
    """Page-locked host memory as an array, and as much on the device."""

    def __init__(self, cudart: Any, shape: tuple[int, ...], dtype: Any) -> None:
        self._cudart = cudart
        self.size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._host = check(cudart.cudaHostAlloc(self.size, cudart.cudaHostAllocDefault))
        self.device = check(cudart.cudaMalloc(self.size))
        memory = (ctypes.c_byte * self.size).from_address(int(self._host))
        self.array: NDArray[Any] = np.frombuffer(memory, dtype).reshape(shape)

    def upload(self, stream: Any) -> None:
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        check(self._cudart.cudaMemcpyAsync(self.device, self._host, self.size, kind, stream))

    def download(self, stream: Any) -> None:
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        check(self._cudart.cudaMemcpyAsync(self._host, self.device, self.size, kind, stream))

    def free(self) -> None:
        del self.array
        check(self._cudart.cudaFree(self.device))
        check(self._cudart.cudaFreeHost(self._host))


class TensorRtEngine:
    """Used from one thread. `run` returns fresh arrays; upload, network and download are one graph launch."""

    backend = "tensorrt"

    def __init__(self, plan: bytes, manifest: Manifest, blocking: bool) -> None:
        trt, self._cudart = import_tensorrt(), import_cudart()
        self.manifest, self.precision = manifest, manifest.precision
        if blocking:  # must come before the context is made; spares a core, costs some tens of microseconds
            check(self._cudart.cudaSetDeviceFlags(self._cudart.cudaDeviceScheduleBlockingSync))
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._engine = trt.Runtime(self._logger).deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ModelError("backend tensorrt: the engine cannot be read; compile it again")
        self._context = self._engine.create_execution_context()
        self._names = (*INPUTS, *OUTPUTS[: manifest.num_outputs])
        self._buffers = {}
        for name in self._names:
            shape, dtype = tuple(self._engine.get_tensor_shape(name)), trt.nptype(self._engine.get_tensor_dtype(name))
            self._buffers[name] = Buffer(self._cudart, shape, dtype)
            self._context.set_tensor_address(name, int(self._buffers[name].device))
        _, greatest = check(self._cudart.cudaDeviceGetStreamPriorityRange())
        self._stream = check(self._cudart.cudaStreamCreateWithPriority(self._cudart.cudaStreamNonBlocking, greatest))
        for _ in range(3):  # TensorRT allocates and loads kernels at first: not inside a capture
            self._step()
        check(self._cudart.cudaStreamSynchronize(self._stream))
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(self._cudart.cudaStreamBeginCapture(self._stream, mode))
        self._step()
        graph = check(self._cudart.cudaStreamEndCapture(self._stream))
        self._graph = check(self._cudart.cudaGraphInstantiate(graph, 0))
        check(self._cudart.cudaGraphDestroy(graph))

    def _step(self) -> None:
        for name in INPUTS:
            self._buffers[name].upload(self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise ModelError("backend tensorrt: the engine does not run; compile it again")
        for name in self._names[len(INPUTS) :]:
            self._buffers[name].download(self._stream)

    def run(self, image: NDArray[np.uint8], audio: NDArray[np.float32]) -> Outputs:
        """image uint8 [S, S, 3], audio float32 [n] → fresh arrays."""
        self._buffers["image"].array[0] = image
        self._buffers["audio"].array[0] = audio
        check(self._cudart.cudaGraphLaunch(self._graph, self._stream))
        check(self._cudart.cudaStreamSynchronize(self._stream))
        names = self._names[len(INPUTS) :]
        return Outputs.of([np.array(self._buffers[name].array[0], np.float32) for name in names])

    def close(self) -> None:
        check(self._cudart.cudaGraphExecDestroy(self._graph))
        for buffer in self._buffers.values():
            buffer.free()
        check(self._cudart.cudaStreamDestroy(self._stream))
        self._context = self._engine = None

    def __enter__(self) -> TensorRtEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_bundle(folder: Path, manifest: Manifest, settings: LiveSettings) -> TensorRtEngine:
    """On a Jetson the thread sleeps while the GPU works, elsewhere it spins: less jitter."""
    return TensorRtEngine((folder / ENGINE).read_bytes(), manifest, Path("/etc/nv_tegra_release").exists())
