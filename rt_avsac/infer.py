"""Segmenter: Window → Prediction. Owns the engine, the silence gate, the thresholds and the stage times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_avsac.config import LiveSettings
from rt_avsac.engines import Engine, PackingEngine, open_engine
from rt_avsac.flow import Frame, Prediction, Region, Window
from rt_avsac.objects import find_objects, regions_of, unpacked
from rt_avsac.scale import scale

SILENCE_FLOOR_DBFS = -120.0  # digital silence; JSON has no minus infinity


@dataclass(frozen=True)
class ModelInfo:
    """What runs: goes into every message and into `info`."""

    name: str
    sha256: str  # of the checkpoint
    backend: str
    precision: str
    threshold: float
    classes: tuple[str, ...]  # background first
    mask_width: int
    mask_height: int
    num_audio_samples: int


def rms_dbfs(audio: NDArray[np.float32]) -> float:
    """Root mean square of float32 [n] in dB below full scale (a full-scale square wave is 0), at least -120."""
    power = float(np.mean(np.square(audio, dtype=np.float64))) if audio.size else 0.0
    return max(10.0 * float(np.log10(power)), SILENCE_FLOOR_DBFS) if power > 0.0 else SILENCE_FLOOR_DBFS


def fit_audio(audio: NDArray[np.float32], num_samples: int) -> NDArray[np.float32]:
    """The last `num_samples` of float32 [n], zeros in front of what is too short."""
    if len(audio) == num_samples:
        return audio
    fitted = np.zeros(num_samples, np.float32)
    kept = audio[-num_samples:]
    fitted[num_samples - len(kept) :] = kept
    return fitted


class Segmenter:
    """Called with one window at a time, from one thread; `close` (or `with`) frees the engine.

    The gate: a window without audio (status "missing") or below `silence_dbfs` has no sounding pixel, and the network
    is not run for it.
    """

    def __init__(self, engine: Engine, settings: LiveSettings) -> None:
        manifest = engine.manifest
        self._engine = engine
        self._packing = engine if isinstance(engine, PackingEngine) else None
        self._settings = settings
        self._frame_size = (0, 0)  # that the engine has seen last
        self.model = ModelInfo(
            name=manifest.name,
            sha256=manifest.checkpoint_sha256,
            backend=engine.backend,
            precision=engine.precision,
            threshold=settings.threshold,
            classes=tuple(manifest.classes),
            mask_width=manifest.image_size,
            mask_height=manifest.image_size,
            num_audio_samples=manifest.num_audio_samples,
        )

    @property
    def device(self) -> str:
        """cpu or cuda: where the network runs."""
        return self._engine.device

    def warm_up(self) -> None:
        """Three made-up windows through everything, so that the first frame is as fast as the others."""
        frame = Frame(np.zeros((480, 640, 3), np.uint8), 0, 0)
        audio = np.ones(self.model.num_audio_samples, np.float32)
        for _ in range(3):
            self(Window(frame, audio, 0, 0, "ok"))

    def __call__(self, window: Window) -> Prediction:
        started = time.monotonic_ns()
        if self._packing is not None:
            self._make_ready(self._packing, window.frame.image)
        level = rms_dbfs(window.audio)
        silent = window.status == "missing" or level < self._settings.silence_dbfs
        probability: NDArray[np.float32] | None = None
        objects: tuple[Region, ...] = ()
        if silent:
            scaled = inferred = time.monotonic_ns()
            probability = np.zeros((self.model.mask_height, self.model.mask_width), np.float32)
        else:
            image = window.frame.image
            height, width = image.shape[:2]
            audio = np.ascontiguousarray(fit_audio(window.audio, self.model.num_audio_samples))
            packing = self._packing
            if packing is None or not packing.scales(height, width):
                image = scale(image, self.model.mask_width)
            scaled = time.monotonic_ns()
            if packing is None:
                outputs = self._engine.run(image, audio)
                inferred = time.monotonic_ns()
                probability = outputs.sounding
                objects = find_objects(*outputs, self.model.classes, self._settings, width, height)
            else:
                packed = packing.segment(image, audio, self._settings.threshold)
                inferred = time.monotonic_ns()
                objects = regions_of(*unpacked(*packed), self.model.classes, self._settings, width, height)
        done = time.monotonic_ns()
        return Prediction(
            probability=probability,
            objects=objects,
            frame_index=window.frame.index,
            time_ns=window.frame.time_ns,
            rms_dbfs=level,
            silent=silent,
            stages_ns={"pre": scaled - started, "infer": inferred - scaled, "post": done - inferred},
        )

    def _make_ready(self, packing: PackingEngine, image: NDArray[np.uint8]) -> None:
        """A GPU captures its work anew for each size of frame: at the first such frame, not when something sounds."""
        height, width = image.shape[:2]
        if (height, width) != self._frame_size:
            self._frame_size = height, width
            silence = np.zeros(self.model.num_audio_samples, np.float32)
            scaled = image if packing.scales(height, width) else scale(image, self.model.mask_width)
            packing.segment(scaled, silence, self._settings.threshold)

    def close(self) -> None:
        self._engine.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_segmenter(settings: LiveSettings, progress: Callable[[str], None] | None = None) -> Segmenter:
    """Finds the model, compiles it for this machine when that was not done before, loads and warms it up.

    `progress` is told in words what takes long. ModelError when the model cannot be had.
    """
    from rt_avsac.model_path import find

    say = progress or (lambda text: None)
    path: Path = find(settings.model)
    if path.is_file():
        from rt_avsac.compile import open_cached

        engine = open_cached(path, settings, say)
    else:
        engine = open_engine(path, settings)
    segmenter = Segmenter(engine, settings)
    segmenter.warm_up()
    return segmenter
