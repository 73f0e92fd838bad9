"""Golden masks: the shipped model on the demo clip, by backend and precision, within the tolerances of a table.

New weights or a changed network make the stored masks stale. After a look at what changed:

    python tests/test_golden.py --update
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from rt_avsac.compile import cached_bundle
from rt_avsac.config import LiveSettings
from rt_avsac.engines import Outputs, open_engine
from rt_avsac.flow import Window
from rt_avsac.infer import fit_audio, rms_dbfs
from rt_avsac.model_path import find
from rt_avsac.scale import scale

GOLDEN = Path(__file__).parent / "golden" / "demo.npz"
MODEL = "avsac-edge"
EVERY = 30  # frames between two golden ones; of their pixels every other one is kept
# (backend, precision): least mean IoU with the stored masks, greatest mean difference of the probabilities
TOLERANCES = {
    ("torch", "fp32"): (0.999, 1e-3),
    ("openvino", "fp32"): (0.999, 1e-3),
    ("openvino", "bf16"): (0.93, 2e-2),
    ("openvino", "int8"): (0.85, 4e-2),
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


def outputs_of(backend: str, precision: str, windows: list[Window]) -> list[Outputs]:
    settings = LiveSettings(backend=backend, precision=precision, device="cpu")  # type: ignore[arg-type]
    with open_engine(cached_bundle(find(MODEL), settings, lambda text: None), settings) as engine:
        return [
            engine.run(
                scale(window.frame.image, engine.manifest.image_size),
                np.ascontiguousarray(fit_audio(window.audio, engine.manifest.num_audio_samples)),
            )
            for window in windows
        ]


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    return golden_windows()


def able(backend: str, precision: str) -> bool:
    """This processor computes in bf16, or the shipped model has a calibration: else there is nothing to hold."""
    from rt_avsac.bundle import sha256
    from rt_avsac.compile import find_calibration
    from rt_avsac.engines.openvino import capabilities, open_core
    from rt_avsac.quantize import read_calibration

    if precision == "bf16":
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
        frames, probability = stored["frames"], stored["probability"].astype(np.float32) / 255
    assert [window.frame.index for window in windows] == frames.tolist()
    if not able(backend, precision):
        return
    least_iou, most_difference = TOLERANCES[backend, precision]
    found = np.stack([outputs.sounding[::2, ::2] for outputs in outputs_of(backend, precision, windows)])
    difference = float(np.abs(found - probability).mean())
    got, wanted = found >= 0.5, probability >= 0.5
    either = (got | wanted).sum()
    iou = float((got & wanted).sum() / either) if either else 1.0
    assert wanted.any(), "golden masks of a model that sees nothing are worth nothing"
    assert difference <= most_difference + 1 / 510  # probabilities are stored in steps of 1/255
    assert iou >= least_iou - 0.005


def test_the_table_is_tight_enough_to_see_a_fault(windows: list[Window]) -> None:
    """The sound of another second must not pass for bf16."""
    with np.load(GOLDEN) as stored:
        probability = stored["probability"].astype(np.float32) / 255
    assert np.abs(np.roll(probability, 1, axis=0) - probability).mean() > TOLERANCES["openvino", "bf16"][1]


def update() -> None:
    from rt_avsac.bundle import sha256

    windows = golden_windows()
    probability = np.stack([outputs.sounding[::2, ::2] for outputs in outputs_of("torch", "fp32", windows)])
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
