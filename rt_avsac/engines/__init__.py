"""One file per backend behind one small interface; only the runtime of the opened bundle is imported."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rt_avsac.config import LiveSettings
from rt_avsac.errors import ModelError
from rt_avsac.memory import needed_for

if TYPE_CHECKING:
    from rt_avsac.bundle import Manifest

BACKENDS = ("tensorrt", "cuda", "openvino", "torch")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
CPU_BACKENDS = ("openvino", "torch")


class Outputs(NamedTuple):
    """Fresh arrays of one run. A binary model has only the first; a semantic one names its classes by pixel alone."""

    sounding: NDArray[np.float32]  # [S, S], probability that the pixel sounds
    class_probability: NDArray[np.float32] | None  # [C, S/4, S/4], softmax over classes
    audio_probability: NDArray[np.float32] | None  # [C], one sigmoid a class

    @classmethod
    def of(cls, arrays: Sequence[NDArray[np.float32]]) -> Outputs:
        """From as many arrays as the network has outputs."""
        return cls(*arrays, *[None] * (3 - len(arrays)))  # type: ignore[arg-type]


class Packed(NamedTuple):
    """What a robot needs of one run, thresholded, named and packed on the GPU: 16 KB instead of 560."""

    bits: NDArray[np.uint8]  # [S, S/8], a bit a pixel that sounds, MSB first
    class_map: NDArray[np.uint8]  # [S/4, S/4], never 0
    confidence: NDArray[np.uint8]  # [S/4, S/4], mean probability of the cell's sounding pixels, of 255
    share: NDArray[np.uint8]  # [S/4, S/4], of the class in P(pixel is c) x P(c is heard), of 255


@runtime_checkable
class PackingEngine(Protocol):
    """An engine on a GPU that also scales the camera's picture and packs its masks there."""

    def scales(self, height: int, width: int) -> bool:
        """Frames of this size are scaled on the GPU; others must come at the network's size."""

    def segment(self, frame: NDArray[np.uint8], audio: NDArray[np.float32], threshold: float) -> Packed:
        """frame uint8 [H, W, 3] RGB, audio float32 [n] → Packed, fresh arrays."""


class Engine(Protocol):
    """A loaded network. Used from one thread; `close` frees the device, `with` does it."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def backend(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def device(self) -> str:
        """cpu or cuda: where the network runs."""

    def run(self, image: NDArray[np.uint8], audio: NDArray[np.float32]) -> Outputs:
        """image uint8 [S, S, 3] RGB, audio float32 [n] in [-1, 1] → Outputs."""

    def close(self) -> None: ...
    def __enter__(self) -> Engine: ...
    def __exit__(self, *error: object) -> None: ...


def open_engine(bundle: str | Path, settings: LiveSettings) -> Engine:
    """Opens an engine bundle, after its manifest was held to its files and to this machine. ModelError says why not."""
    from rt_avsac.bundle import read, verify

    folder = Path(bundle)
    manifest = read(folder)
    for asked, got, key in (
        (settings.backend, manifest.backend, "backend"),
        (settings.precision, manifest.precision, "precision"),
    ):
        if asked not in ("auto", got):
            raise ModelError(
                f"bundle {folder}: asked {key} {asked}, it was built for {got}; give the checkpoint instead"
            )
    if settings.device == "cpu" and manifest.backend not in CPU_BACKENDS:
        raise ModelError(
            f"bundle {folder}: asked device cpu, it was built for {manifest.backend}; compile for openvino"
        )
    if settings.device == "cuda" and manifest.backend == "openvino":
        raise ModelError(f"bundle {folder}: asked device cuda, it was built for openvino; compile for cuda")
    module = backend_module(manifest.backend)
    with needed_for(f"bundle {folder}"):
        verify(folder, manifest, module.machine)
        return module.open_bundle(folder, manifest, settings)  # type: ignore[no-any-return]


def backend_module(backend: str):  # type: ignore[no-untyped-def]
    """The module of a backend: `machine()`, `open_bundle(folder, manifest, settings)`. ModelError if unknown."""
    if backend not in BACKENDS:
        raise ModelError(f"backend {backend}: unknown; choose from {', '.join(BACKENDS)}")
    return importlib.import_module(f"rt_avsac.engines.{backend}")
