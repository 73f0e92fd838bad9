"""`rt-avsac sync-test`: the skew of the ground-truth clip, shifted clips, and what cannot be measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rt_avsac import cli
from rt_avsac.config import LiveSettings
from rt_avsac.flash_beep import make_clip, pair
from rt_avsac.flow import Frame, Window
from rt_avsac.sync_test import NothingMeasuredError, Offset, Watcher, measure
from tests.clips import beep, flash, write_clip


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, dict[str, float]]:
    code = cli.main(["sync-test", *words])
    text = capsys.readouterr().out
    return code, text, json.loads(text.splitlines()[-1])


def test_the_ground_truth_clip_has_no_skew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_clip(tmp_path / "flashbeep.mp4", 6.5)
    code, text, found = run(capsys, "--camera", str(clip))
    assert code == 0
    assert found["pairs"] >= 5
    assert abs(found["median_ms"]) <= 1.0
    assert found["std_ms"] <= 0.5
    assert "nothing to set" in text


def test_the_clip_it_makes_is_a_ruler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ruler.mp4"
    make_clip(path, seconds=5)
    assert [item.name for item in tmp_path.iterdir()] == ["ruler.mp4"]
    _, _, found = run(capsys, "--camera", str(path))
    assert found["pairs"] == 4
    assert abs(found["median_ms"]) <= 1.0
    code = cli.main(["sync-test", "--make-clip", str(tmp_path / "no" / "such.mp4")])
    assert code == 5
    assert "such.mp4: cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(("shift_ms", "setting"), [(120.0, "mic_latency_ms=120"), (-80.0, "camera_latency_ms=80")])
def test_the_setting_it_prints_removes_the_offset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shift_ms: float, setting: str
) -> None:
    clip = write_clip(tmp_path / "shifted.mp4", 5.5, sound=lambda t: beep(t - shift_ms / 1000))
    code, text, found = run(capsys, "--camera", str(clip))
    assert code == 0
    assert found["offset_ms"] == pytest.approx(shift_ms, abs=1.0)
    assert f"--set {setting}" in text.replace("119.9", "120").replace("120.1", "120").replace("79.9", "80")
    printed = [word for line in text.splitlines() if "--set" in line for word in line.split()[1:]]
    words = [word for assignment in printed for word in ("--set", assignment)]
    _, text, again = run(capsys, "--camera", str(clip), *words)
    assert abs(again["offset_ms"]) <= 1.0
    assert "nothing to set" in text


def test_a_free_running_camera_sees_the_flash_half_a_frame_late() -> None:
    """Flashes at any moment of the frame, the sound 50 ms late: the half frame is taken out."""
    rng = np.random.default_rng(0)
    period_ns, watcher = 33_366_667, Watcher()
    starts_ns = np.cumsum(rng.integers(700_000_000, 1_300_000_000, 25))
    seconds = starts_ns[-1] / 1e9 + 1
    sound = np.zeros(round(seconds * 16_000), np.float32)
    for start_ns in starts_ns:
        first = round((start_ns + 50_000_000) * 16e-6)
        sound[first : first + 1600] = 0.5
    for index in range(round(seconds * 1e9 / period_ns) - 30):
        time_ns = (index + 30) * period_ns
        bright = bool(((time_ns >= starts_ns) & (time_ns < starts_ns + 100_000_000)).any())
        image = np.zeros((48, 64, 3), np.uint8)
        image[:12, :12] = 200 * bright  # a phone in the corner
        end = round(time_ns * 16e-6)
        audio = sound[max(0, end - 15_600) : end]
        audio = np.concatenate([np.zeros(15_600 - len(audio), np.float32), audio])
        frame = Frame(image, time_ns, index)
        watcher.add(Window(frame, audio, end * 62_500 - 15_600 * 62_500, end * 62_500, "ok"))
    found = measure(watcher, LiveSettings())
    assert found.pairs >= 20
    assert found.correction_ms == pytest.approx(16.7, abs=0.1)
    assert found.offset_ms == pytest.approx(50.0, abs=6.0)


def test_settings_already_made_are_taken_into_account(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_clip(tmp_path / "shifted.mp4", 5.5, sound=lambda t: beep(t - 0.1))
    _, _, found = run(capsys, "--camera", str(clip), "--set", "mic_latency_ms=30")
    assert found["offset_ms"] == pytest.approx(70.0, abs=1.0)
    assert found["mic_latency_ms"] == pytest.approx(100.0, abs=1.0)
    assert set(found) == {*Offset.__dataclass_fields__, "offset_ms"}


@pytest.mark.parametrize("what", ["dark", "quiet"])
def test_nothing_to_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    clip = write_clip(
        tmp_path / "clip.mp4",
        4.0,
        picture=(lambda t: flash(0.5)) if what == "dark" else flash,
        sound=(lambda t: 0 * t) if what == "quiet" else beep,
    )
    assert cli.main(["sync-test", "--camera", str(clip)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("rt-avsac: sync-test: asked for 3 flashes with their beep, got 0")
    assert error.count("\n") == 1


def test_it_needs_a_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = write_clip(tmp_path / "silent.mp4", 1.0, sound=None)
    assert cli.main(["sync-test", "--camera", str(clip), "--mic", "none"]) == 2
    assert cli.main(["sync-test", "--camera", str(clip)]) == 3
    assert "asked for the file's sound" in capsys.readouterr().err
    with pytest.raises(NothingMeasuredError):
        measure(Watcher(), replace(LiveSettings()))


def test_pairs_are_near_each_other() -> None:
    second = 1_000_000_000
    flashes = np.array([1, 2, 3, 5]) * second
    beeps = np.array([1.02, 2.02, 4.0, 5.02]) * second
    assert pair(flashes, beeps.astype(np.int64)).round(3).tolist() == [20.0, 20.0, 20.0]
    assert len(pair(flashes, beeps[:0].astype(np.int64))) == 0
