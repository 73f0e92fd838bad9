"""TensorRT without torch: its runtime, pinned buffers and a captured CUDA graph, by cuda-python. Not run here: no GPU.

cuda-python and not PyCUDA: it has wheels for x86-64 and aarch64 and owns no context; PyCUDA is built from source
against the CUDA headers. A Jetson runs this with the system's TensorRT and 300 MB less memory than with torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_avsac.bundle import Machine, Manifest
from rt_avsac.config import LiveSettings
from rt_avsac.engines import Outputs, Packed
from rt_avsac.errors import ModelError, reason

ENGINE = "engine.plan"
SCALE = "scale-{height}x{width}.plan"  # brings a frame of this size to the network's
INPUTS = ("image", "audio", "threshold")
OUTPUTS = ("sounding", "class_probability", "audio_probability")
PACKED = ("bits", "class_map", "confidence", "share")


def import_tensorrt() -> Any:
    try:
        import tensorrt

        return tensorrt
    except Exception as error:  # without its libraries it raises more than ImportError
        raise ModelError(
            f"backend tensorrt: cannot be imported ({reason(error)}); install TensorRT, or use cuda"
        ) from None


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
    """Used from one thread; what it returns are fresh arrays. Upload, network and download are one graph launch.

    `scale_plans`: (height, width) of the frames that it scales on the GPU → plan.
    """

    backend = "tensorrt"
    device = "cuda"

    def __init__(
        self,
        plan: bytes,
        manifest: Manifest,
        blocking: bool,
        scale_plans: Mapping[tuple[int, int], bytes] | None = None,
    ) -> None:
        trt, self._cudart = import_tensorrt(), import_cudart()
        self.manifest, self.precision = manifest, manifest.precision
        if blocking:  # must come before the context is made; spares a core, costs some tens of microseconds
            check(self._cudart.cudaSetDeviceFlags(self._cudart.cudaDeviceScheduleBlockingSync))
        try:
            self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        except TypeError as error:  # what its bindings make of a null pointer
            raise ModelError(f"backend tensorrt: its runtime does not start ({reason(error)})") from None
        if core := manifest.options.get("dla_core"):
            self._runtime.DLA_core = int(core)
        self._outputs = OUTPUTS[: manifest.num_outputs]
        self._buffers: dict[str, Buffer] = {}
        _, greatest = check(self._cudart.cudaDeviceGetStreamPriorityRange())
        self._stream = check(self._cudart.cudaStreamCreateWithPriority(self._cudart.cudaStreamNonBlocking, greatest))
        self._network = self._load(plan, (*INPUTS, *self._outputs, *PACKED))
        self._scale_plans, self._scales = dict(scale_plans or {}), dict[tuple[int, int], Any]()
        self._graphs: dict[tuple[str, ...], Any] = {}  # None: cannot be captured

    def _load(self, plan: bytes, names: tuple[str, ...]) -> Any:
        """An execution context with an address for each tensor; those of one name are one buffer."""
        trt = import_tensorrt()
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise ModelError("backend tensorrt: the engine cannot be read; compile it again")
        context = engine.create_execution_context()
        if context is None:
            raise ModelError("backend tensorrt: no memory on the GPU for the engine; free some, or use a smaller model")
        for name in names:
            if name not in self._buffers:
                shape, dtype = tuple(engine.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name))
                self._buffers[name] = Buffer(self._cudart, shape, dtype)
            context.set_tensor_address(name, int(self._buffers[name].device))
        return context

    def _step(self, contexts: Sequence[Any], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        for name in inputs:
            self._buffers[name].upload(self._stream)
        for context in contexts:
            if not context.execute_async_v3(int(self._stream)):
                raise ModelError("backend tensorrt: the engine does not run; compile it again")
        for name in outputs:
            self._buffers[name].download(self._stream)

    def _launch(self, contexts: Sequence[Any], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        """The graph from these inputs to these outputs, captured when it is first asked for."""
        key = inputs + outputs
        if key not in self._graphs:
            for _ in range(3):  # TensorRT allocates and loads kernels at first: not inside a capture
                self._step(contexts, inputs, outputs)
            check(self._cudart.cudaStreamSynchronize(self._stream))
            self._graphs[key] = self._capture(contexts, inputs, outputs)
        if self._graphs[key] is None:
            self._step(contexts, inputs, outputs)
        else:
            check(self._cudart.cudaGraphLaunch(self._graphs[key], self._stream))
        check(self._cudart.cudaStreamSynchronize(self._stream))

    def _capture(self, contexts: Sequence[Any], inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Any:
        """An executable graph; None where something in it refuses to be captured, as a DLA does."""
        cudart = self._cudart
        check(
            cudart.cudaStreamBeginCapture(self._stream, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        )
        try:
            self._step(contexts, inputs, outputs)
            refused = False
        except ModelError:
            refused = True
        error, graph = cudart.cudaStreamEndCapture(self._stream)
        if refused or int(error) != 0:  # the engine may have broken the capture and said nothing
            cudart.cudaGetLastError()
            return None
        try:
            return check(cudart.cudaGraphInstantiate(graph, 0))
        finally:
            check(cudart.cudaGraphDestroy(graph))

    def _put(self, name: str, value: Any) -> None:
        self._buffers[name].array[0] = value

    def run(self, image: NDArray[np.uint8], audio: NDArray[np.float32]) -> Outputs:
        """image uint8 [S, S, 3], audio float32 [n] → fresh arrays."""
        self._put("image", image)
        self._put("audio", audio)
        self._launch([self._network], INPUTS, self._outputs)
        return Outputs.of([np.array(self._buffers[name].array[0], np.float32) for name in self._outputs])

    def scales(self, height: int, width: int) -> bool:
        return (height, width) in self._scale_plans

    def segment(self, frame: NDArray[np.uint8], audio: NDArray[np.float32], threshold: float) -> Packed:
        """frame uint8 of a size it scales, or [S, S, 3]; audio float32 [n] → fresh arrays; slow once for each size."""
        height, width = frame.shape[:2]
        name, contexts = "image", [self._network]
        if self.scales(height, width):
            name = f"frame {height}x{width}"
            if (height, width) not in self._scales:
                self._scales[height, width] = self._load_scale(self._scale_plans[height, width], name)
            contexts = [self._scales[height, width], self._network]
        self._put(name, frame)
        self._put("audio", audio)
        self._put("threshold", threshold)
        self._launch(contexts, (name, "audio", "threshold"), PACKED)
        return Packed(*[np.array(self._buffers[each].array[0]) for each in PACKED])

    def _load_scale(self, plan: bytes, name: str) -> Any:
        """The plan's output is the network's input."""
        context = self._load(plan, ("frame", "image"))
        self._buffers[name] = self._buffers.pop("frame")
        return context

    def close(self) -> None:
        """Frees the GPU; once."""
        if self._network is None:
            return
        for graph in filter(None, self._graphs.values()):
            check(self._cudart.cudaGraphExecDestroy(graph))
        self._network = None  # the engines before their memory
        self._scales.clear()
        for buffer in self._buffers.values():
            buffer.free()
        check(self._cudart.cudaStreamDestroy(self._stream))

    def __enter__(self) -> TensorRtEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_bundle(folder: Path, manifest: Manifest, settings: LiveSettings) -> TensorRtEngine:
    """On a Jetson the thread sleeps while the GPU works, elsewhere it spins: less jitter."""
    scales = {}
    for size in manifest.options.get("frame_sizes", "").split():
        height, width = (int(side) for side in size.split("x"))
        scales[height, width] = (folder / SCALE.format(height=height, width=width)).read_bytes()
    blocking = bool(check(import_cudart().cudaGetDeviceProperties(0)).integrated)
    return TensorRtEngine((folder / ENGINE).read_bytes(), manifest, blocking, scales)
