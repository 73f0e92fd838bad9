"""Golden masks: the shipped model on the demo clip, by backend and precision, within the tolerances of a table.

New weights or a changed network make the stored masks stale. After a look at what changed:

    python tests/test_golden.py --update
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from rt_avsac.compile import cached_bundle
from rt_avsac.config import LiveSettings
from rt_avsac.engines import open_engine
from rt_avsac.flow import Window
from rt_avsac.infer import fit_audio, rms_dbfs
from rt_avsac.model_path import find
from rt_avsac.scale import scale

GOLDEN = Path(__file__).parent / "golden" / "demo.npz"
MODEL = "avsac-edge"
EVERY = 30  # frames between two golden ones; of their pixels every other one is kept


class Tolerance(NamedTuple):
    """Against the stored masks. Measured with AVX-512 and AMX; int8 differs more from processor to processor."""

    clip_iou: float  # least, of all masks together
    frame_iou: float  # least, of any frame
    difference: float  # greatest, mean of the probabilities; 4e-4 is the rounding of what is stored


TOLERANCES = {
    ("torch", "fp32"): Tolerance(0.9995, 0.998, 5e-4),
    ("torch", "bf16"): Tolerance(0.985, 0.92, 4e-3),
    ("torch", "int8"): Tolerance(0.98, 0.9, 4e-3),
    ("openvino", "fp32"): Tolerance(0.9995, 0.998, 5e-4),
    ("openvino", "bf16"): Tolerance(0.985, 0.92, 4e-3),
    ("openvino", "int8"): Tolerance(0.93, 0.6, 1e-2),
}


def golden_windows() -> list[Window]:
    """One window a second of the demo clip, without the silent ones."""
    from rt_avsac.sources import open_sources

    found = []
    with open_sources(LiveSettings(camera="demo", realtime=False)) as sources:
        while not sources.ended:
            window = sources.next(1.0)
            if window is not None and window.frame.index % EVERY == EVERY - 1 and rms_dbfs(window.audio) > -60:
                found.append(window)
    return found


def probability_of(backend: str, precision: str, windows: list[Window]) -> NDArray[np.float32]:
    """float32 [frame, S/2, S/2]"""
    settings = LiveSettings(backend=backend, precision=precision, device="cpu")  # type: ignore[arg-type]
    with open_engine(cached_bundle(find(MODEL), settings, lambda text: None), settings) as engine:
        assert (engine.backend, engine.manifest.precision) == (backend, precision)
        found = [
            engine.run(
                scale(window.frame.image, engine.manifest.image_size),
                np.ascontiguousarray(fit_audio(window.audio, engine.manifest.num_audio_samples)),
            )
            for window in windows
        ]
    return np.stack([outputs.sounding[::2, ::2] for outputs in found])


def stored_probability() -> NDArray[np.float32]:
    with np.load(GOLDEN) as stored:
        return np.asarray(stored["probability"].astype(np.float32) / 255)


def faults(found: NDArray[np.float32], stored: NDArray[np.float32], limits: Tolerance) -> list[str]:
    """What is beyond the limits, in words."""
    got, wanted = found >= 0.5, stored >= 0.5
    either = (got | wanted).sum(axis=(1, 2))
    both = (got & wanted).sum(axis=(1, 2))
    of_frames = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    said = []
    if (clip := both.sum() / either.sum()) < limits.clip_iou:
        said.append(f"IoU of the clip {clip:.4f}, at least {limits.clip_iou}")
    if of_frames.min() < limits.frame_iou:
        said.append(f"IoU of frame {of_frames.argmin()} {of_frames.min():.4f}, at least {limits.frame_iou}")
    if (difference := float(np.abs(found - stored).mean())) > limits.difference:
        said.append(f"mean difference {difference:.5f}, at most {limits.difference}")
    return said


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    return golden_windows()


def able(backend: str, precision: str) -> bool:
    """This processor computes in bf16, or the shipped model has a calibration: else there is nothing to hold."""
    from rt_avsac.bundle import sha256
    from rt_avsac.compile import find_calibration
    from rt_avsac.engines.openvino import capabilities, open_core
    from rt_avsac.quantize import read_calibration

    if (backend, precision) == ("openvino", "bf16"):
        return "BF16" in capabilities(open_core())
    if precision != "int8":
        return True
    path = find_calibration(find(MODEL))
    return path is not None and read_calibration(path).checkpoint_sha256 == sha256(find(MODEL))


@pytest.mark.parametrize(("backend", "precision"), TOLERANCES)
def test_masks_are_the_golden_ones(backend: str, precision: str, windows: list[Window]) -> None:
    from rt_avsac.bundle import sha256

    with np.load(GOLDEN) as stored:
        assert str(stored["checkpoint"]) == sha256(find(MODEL)), (
            "stale golden masks: python tests/test_golden.py --update"
        )
        frames = stored["frames"]
    assert [window.frame.index for window in windows] == frames.tolist()
    if not able(backend, precision):
        pytest.skip("this processor does not compute so, or there is no calibration")
    found = probability_of(backend, precision, windows)
    assert faults(found, stored_probability(), TOLERANCES[backend, precision]) == []


@pytest.mark.parametrize("limits", TOLERANCES.values(), ids=map("-".join, TOLERANCES))
def test_the_table_is_tight_enough_to_see_a_fault(limits: Tolerance) -> None:
    """One frame without its masks, the sound of another second, or masks some pixels off, all are beyond it."""
    stored = stored_probability()
    assert faults(stored, stored, limits) == []
    masked = [index for index, frame in enumerate(stored) if (frame >= 0.5).any()]
    assert len(masked) > len(stored) / 2, "golden masks of a model that sees nothing are worth nothing"
    for index in masked:
        one_less = stored.copy()
        one_less[index] = 0
        assert faults(one_less, stored, limits)
    assert len(faults(np.roll(stored, 1, axis=0), stored, limits)) == len(limits)
    assert faults(np.roll(stored, 2, axis=2), stored, limits)


def update() -> None:
    from rt_avsac.bundle import sha256

    windows = golden_windows()
    probability = probability_of("torch", "fp32", windows)
    GOLDEN.parent.mkdir(exist_ok=True)
    temporary = GOLDEN.with_name("new.npz")
    np.savez_compressed(
        temporary,
        checkpoint=sha256(find(MODEL)),
        frames=np.array([window.frame.index for window in windows]),
        probability=np.rint(probability * 255).astype(np.uint8),
    )
    temporary.replace(GOLDEN)
    print(f"{GOLDEN}: {len(windows)} frames, {GOLDEN.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    if sys.argv[1:] != ["--update"]:
        raise SystemExit("usage: python tests/test_golden.py --update")
    update()
