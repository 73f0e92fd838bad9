"""OpenVINO: the CPU backend (x86-64 and ARM), fp32, bf16, fp16 and int8. Loads no torch."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rt_avsac import cache
from rt_avsac.bundle import MANIFEST, Machine, Manifest
from rt_avsac.config import LiveSettings
from rt_avsac.engines import Outputs
from rt_avsac.errors import ModelError, reason

if TYPE_CHECKING:
    import openvino

ENGINE = "engine.xml"
WEIGHTS = "engine.bin"
LARGEST = 127  # the largest magnitude of an int8 weight; an activation's is twice as much
KEPT_DAYS = 60
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


def import_openvino() -> Any:
    # its usage statistics are sent over the network unless refused before the import
    os.environ.setdefault("OPENVINO_TELEMETRY_DISABLED", "1")
    try:
        import openvino

        return openvino
    except ImportError as error:
        raise ModelError(
            f"backend openvino: cannot be imported ({error}); pip install openvino, or use torch"
        ) from None


def open_core() -> Any:
    """An openvino.Core with its CPU plugin loaded, by a thread that ends at once.

    The plugin gives the thread that loads it a signal stack, with room for one signal where registers are large (AMX):
    in the main thread, a second Ctrl-C that came on top of the first was a segmentation fault.
    """
    core = import_openvino().Core()
    with ThreadPoolExecutor(max_workers=1) as loader:
        loader.submit(core.get_property, "CPU", "FULL_DEVICE_NAME").result()
    return core


def machine() -> Machine:
    """Runtime version and processor, with what its instructions are good for."""
    ov = import_openvino()
    core = open_core()
    name = str(core.get_property("CPU", "FULL_DEVICE_NAME")).strip()
    return Machine({"openvino": ov.__version__.split("-")[0]}, f"{name} ({', '.join(capabilities(core))})", "")


def capabilities(core: Any) -> list[str]:
    """Of FP16, BF16, INT8 and the like, what this processor computes in itself."""
    known = ("FP16", "BF16", "INT8")
    found = {str(item) for item in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")}
    return [item for item in known if item in found]


def computed_in(able: list[str]) -> list[str]:
    """The floating-point precisions of a processor with these abilities."""
    return ["fp32", *(kind for kind in ("bf16", "fp16") if kind.upper() in able)]


def check_precision(precision: str, able: list[str]) -> None:
    if precision in HINTS and precision not in computed_in(able):
        raise ModelError(
            f"precision {precision}: this processor computes {', '.join(able) or 'fp32 only'}; use fp32 or int8"
        )


def saturates(core: Any) -> bool:
    """Whether int8 sums overflow: x86 without VNNI adds two products in 16 bits. Measured with one convolution."""
    ov = import_openvino()
    from openvino import opset13 as ops

    low, high, zero = np.float32(-LARGEST), np.float32(LARGEST), np.float32(0)
    pixels = ops.parameter([1, 16, 4, 4], np.float32)
    weights = ops.constant(np.full((16, 16, 1, 1), high))
    rounded = ops.fake_quantize(pixels, zero, 2 * high, zero, 2 * high, 2 * LARGEST + 1)
    summed = ops.convolution(
        rounded, ops.fake_quantize(weights, low, high, low, high, 2 * LARGEST + 1), [1, 1], [0, 0], [0, 0], [1, 1]
    )
    compiled = compile_model(core, ov.Model([summed], [pixels]), HINTS["fp32"], num_threads=1)
    found = compiled(np.full((1, 16, 4, 4), 2 * high))[0].max()
    return bool(found < 0.9 * 16 * 2 * LARGEST**2)


def compile_model(core: Any, model: Any, hint: str, num_threads: int) -> openvino.CompiledModel:
    """`model`: an openvino.Model or the path of its .xml; `hint`: f32, bf16 or f16 for whatever is not int8."""
    config = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": num_threads,
    }
    return core.compile_model(model, "CPU", config)


def cache_folder(manifest: Manifest) -> Path:
    """Where OpenVINO keeps what it made of this very bundle: by itself it looks at path, time and .xml, not at weights.

    What was not opened for KEPT_DAYS is removed.
    """
    base = cache.folder() / "openvino"
    folder = base / hashlib.sha256(repr(sorted(manifest.files.items())).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    for other in base.iterdir():
        if other.is_dir() and time.time() - other.stat().st_mtime > KEPT_DAYS * 86_400:
            shutil.rmtree(other, ignore_errors=True)
    return folder


class OpenVinoEngine:
    """One compiled model and its one request; `run` is not for two threads at once."""

    backend = "openvino"
    device = "cpu"

    def __init__(self, compiled: Any, manifest: Manifest) -> None:
        self.manifest = manifest
        self.precision = manifest.precision
        self._compiled = compiled
        self._request = compiled.create_infer_request()

    def run(self, image: NDArray[np.uint8], audio: NDArray[np.float32]) -> Outputs:
        """image uint8 [S, S, 3], audio float32 [n] → fresh arrays."""
        self._request.infer({0: image[None], 1: audio[None]}, share_inputs=True)
        outputs = [self._request.get_output_tensor(index).data for index in range(self.manifest.num_outputs)]
        return Outputs.of([np.array(output[0], np.float32) for output in outputs])

    def close(self) -> None:
        self._request = self._compiled = None

    def __enter__(self) -> OpenVinoEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_bundle(folder: Path, manifest: Manifest, settings: LiveSettings) -> OpenVinoEngine:
    """The bundle's engine on the CPU; ModelError when OpenVINO cannot read it."""
    core = open_core()
    with suppress(OSError):  # a read-only home only makes the start slower
        core.set_property({"CACHE_DIR": str(cache_folder(manifest))})
    hint = manifest.options.get("hint") or HINTS[manifest.precision]
    try:
        compiled = compile_model(core, str(folder / ENGINE), hint, settings.num_threads)
    except RuntimeError as error:
        raise ModelError(f"bundle {folder}: OpenVINO cannot load {ENGINE}: {reason(error)}; compile it again") from None
    check_shapes(folder, manifest, compiled)
    return OpenVinoEngine(compiled, manifest)


def check_shapes(folder: Path, manifest: Manifest, compiled: Any) -> None:
    """ModelError where the network is not the one that the manifest tells of."""
    size, classes = manifest.image_size, len(manifest.classes)
    inputs = [(1, size, size, 3), (1, manifest.num_audio_samples)]
    outputs = [(1, size, size), (1, classes, size // 4, size // 4), (1, classes)][: manifest.num_outputs]
    for what, ports, told in (("inputs", compiled.inputs, inputs), ("outputs", compiled.outputs, outputs)):
        found = [tuple(port.shape) for port in ports]
        if found != told:
            raise ModelError(
                f"bundle {folder}: {MANIFEST} tells of {what} {told}, {ENGINE} has {found}; compile it again"
            )
