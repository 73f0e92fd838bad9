"""Segmenter: the silence gate, the audio's length, stage times; with a fake engine, and with a real one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rt_avsac.config import LiveSettings
from rt_avsac.engines import Outputs, Packed
from rt_avsac.errors import ModelError
from rt_avsac.flow import AudioStatus, Frame, Window
from rt_avsac.infer import SILENCE_FLOOR_DBFS, Segmenter, fit_audio, open_segmenter, rms_dbfs
from rt_avsac.model_path import find
from tests.tiny_model import make_tiny


class FakeEngine:
    """Says that the left half sounds, as class 1."""

    backend, precision, device = "fake", "fp32", "cpu"
    manifest = SimpleNamespace(
        name="fake", checkpoint_sha256="0" * 64, classes=["background", "dog"], image_size=8, num_audio_samples=100
    )

    def __init__(self) -> None:
        self.heard: list[np.ndarray] = []

    def run(self, image: np.ndarray, audio: np.ndarray) -> Outputs:
        self.heard.append(audio)
        sounding = np.zeros((8, 8), np.float32)
        sounding[:, :4] = 0.75
        return Outputs(sounding, np.full((2, 2, 2), 0.5, np.float32), np.ones(2, np.float32))

    def close(self) -> None:
        self.heard.clear()


class FakePackingEngine(FakeEngine):
    """Says the same as bits, and scales frames of 12x16 itself."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def scales(self, height: int, width: int) -> bool:
        return (height, width) == (12, 16)

    def segment(self, frame: np.ndarray, audio: np.ndarray, threshold: float) -> Packed:
        self.seen.append(frame.shape)
        cells = np.ones((2, 2), np.uint8)
        return Packed(np.full((8, 1), 0xF0, np.uint8), cells, cells * 191, cells * 255)


def window(audio: np.ndarray, status: AudioStatus = "ok") -> Window:
    return Window(Frame(np.zeros((12, 16, 3), np.uint8), 123, 7), audio.astype(np.float32), 0, 456, status)


def segment(audio: np.ndarray, status: AudioStatus = "ok", **settings: Any) -> Any:
    engine: Any = FakeEngine()
    return Segmenter(engine, LiveSettings(min_area_px=1, **settings))(window(audio, status)), engine


def test_masks_packed_on_a_gpu_are_the_same_objects() -> None:
    engine: Any = FakePackingEngine()
    segmenter = Segmenter(engine, LiveSettings(min_area_px=1))
    packed, (plain, _) = segmenter(window(np.ones(100))), segment(np.ones(100))
    assert packed.probability is None
    (got,), (wanted,) = packed.objects, plain.objects
    assert (got.label, got.bbox, got.area_px) == (wanted.label, wanted.bbox, wanted.area_px)
    assert got.score == pytest.approx(wanted.score, abs=0.01)
    other = Window(Frame(np.zeros((20, 30, 3), np.uint8), 1, 1), np.ones(100, np.float32), 0, 1, "ok")
    segmenter(other)
    # what it cannot scale comes at the network's size; each new size comes twice: first to make ready
    assert engine.seen == [(12, 16, 3)] * 2 + [(8, 8, 3)] * 2


def test_a_gpu_gets_ready_for_a_size_of_frame_while_it_is_silent() -> None:
    engine: Any = FakePackingEngine()
    segmenter = Segmenter(engine, LiveSettings(min_area_px=1))
    assert segmenter(window(np.zeros(100))).silent
    assert segmenter(window(np.zeros(100))).silent
    assert engine.seen == [(12, 16, 3)]


def test_prediction_carries_the_frame_and_the_times_of_its_stages() -> None:
    prediction, _ = segment(np.ones(100))
    assert (prediction.frame_index, prediction.time_ns) == (7, 123)
    assert set(prediction.stages_ns) == {"pre", "infer", "post"}
    assert all(value >= 0 for value in prediction.stages_ns.values())
    (found,) = prediction.objects
    assert found.bbox == (0, 0, 8, 12)
    assert found.label == "dog"
    assert not prediction.silent
    assert not prediction.probability.flags.writeable


@pytest.mark.parametrize(
    ("level", "status", "silent"),
    [
        (0.1, "ok", False),
        (0.1, "late", False),
        (0.1, "gap", False),
        (0.1, "missing", True),
        (0.0, "ok", True),
        (10 ** (-61 / 20), "ok", True),
        (10 ** (-59 / 20), "ok", False),
    ],
)
def test_silence_gate(level: float, status: AudioStatus, silent: bool) -> None:
    prediction, engine = segment(np.full(100, level), status)
    assert prediction.silent is silent
    assert bool(prediction.objects) is not silent
    assert bool(prediction.probability.any()) is not silent
    assert bool(engine.heard) is not silent


def test_level_is_dbfs_of_the_window() -> None:
    assert rms_dbfs(np.ones(10, np.float32)) == pytest.approx(0.0)
    assert rms_dbfs(np.full(10, 0.1, np.float32)) == pytest.approx(-20.0, abs=1e-3)
    assert rms_dbfs(np.zeros(10, np.float32)) == SILENCE_FLOOR_DBFS
    assert rms_dbfs(np.zeros(0, np.float32)) == SILENCE_FLOOR_DBFS


def test_audio_ends_at_the_frame_whatever_its_length() -> None:
    ramp = np.arange(1, 151, dtype=np.float32)
    np.testing.assert_array_equal(fit_audio(ramp, 100), ramp[50:])
    short = fit_audio(ramp[:30], 100)
    assert short[:70].max() == 0.0
    np.testing.assert_array_equal(short[70:], ramp[:30])
    assert fit_audio(np.zeros(0, np.float32), 5).tolist() == [0.0] * 5


def test_a_real_network_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First use compiles and says so, the second finds it; the picture and the sound both matter."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    checkpoint = make_tiny(tmp_path / "tiny.safetensors")
    settings = LiveSettings(model=str(checkpoint), backend="torch")
    said: list[str] = []
    with open_segmenter(settings, said.append) as first:
        assert first.model.name == "tiny"
        assert (first.model.backend, first.model.precision) == ("torch", "fp32")
        assert (first.model.mask_width, first.model.num_audio_samples) == (64, 15_600)
        random = np.random.default_rng(0)
        frame = Frame(random.integers(0, 256, (48, 64, 3), dtype=np.uint8), 0, 0)
        noise = random.standard_normal(15_600).astype(np.float32)
        a = first(Window(frame, 0.1 * noise, 0, 0, "ok")).probability
        b = first(Window(frame, 0.01 * noise[::-1].copy(), 0, 0, "ok")).probability
        assert a.shape == (64, 64)
        assert np.abs(a - b).max() > 1e-3
    assert any("first use" in text for text in said)
    said.clear()
    with open_segmenter(settings, said.append):
        assert said == []


@pytest.mark.parametrize("name", ["no-such-model", "folder", "file.onnx", "corrupt.safetensors"])
def test_models_that_cannot_be_had(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.onnx").write_bytes(b"x")
    (tmp_path / "corrupt.safetensors").write_bytes(b"not safetensors")
    asked = name if name.startswith("no-such") else str(tmp_path / name)
    with pytest.raises(ModelError) as raised:
        open_segmenter(LiveSettings(model=asked, backend="torch"))
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_shipped_models_are_found_by_name() -> None:
    from rt_avsac.model_path import shipped

    for name in shipped():
        assert find(name).is_file()
