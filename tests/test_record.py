"""Recording and replay: the same messages again, and what is left after a full disk or a kill."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import numpy as np
import pytest

from rt_avsac import cli
from rt_avsac.config import LiveSettings
from rt_avsac.errors import UserError
from rt_avsac.flow import Frame, Prediction, Window
from rt_avsac.messages import MaskMessage
from rt_avsac.pipeline import run
from rt_avsac.record import MESSAGES, WINDOWS, Recorder
from rt_avsac.replay import Recording, read_messages
from rt_avsac.stop import Stop
from tests.live_process import LiveProcess
from tests.test_live import DEMO, timeless


@pytest.fixture(scope="module")
def recorded(model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[MaskMessage]]:
    """Two live seconds of the demo: the folder, and the messages as they were sent."""
    folder = tmp_path_factory.mktemp("run") / "recording"
    settings = LiveSettings(
        camera="demo", bind="tcp://127.0.0.1:0", model=model, duration_s=2.0, record=str(folder), source="left"
    )
    masks: list[MaskMessage] = []
    found = run(settings, stop=Stop(), on_message=masks.append)
    assert found.error is None
    return folder, masks


def test_the_recording_has_every_message(recorded: tuple[Path, list[MaskMessage]]) -> None:
    folder, masks = recorded
    assert [m.encode() for m in read_messages(folder)] == [m.encode() for m in masks]


@pytest.mark.parametrize("realtime", [True, False])
def test_a_replay_makes_the_same_messages(recorded: tuple[Path, list[MaskMessage]], realtime: bool) -> None:
    folder, masks = recorded
    recording = Recording(folder, realtime)
    settings = dataclasses.replace(recording.settings, bind="tcp://127.0.0.1:0", realtime=realtime)
    again: list[MaskMessage] = []
    run(settings, stop=Stop(), windows=recording, on_message=again.append)
    assert [same(m) for m in again] == [same(m) for m in masks]


def same(message: MaskMessage) -> tuple[object, ...]:
    """All of it but times and session."""
    topic, fields, payload = timeless(message)
    skew = round(message.t.av_skew_ms, 3)
    return topic, {key: value for key, value in fields.items() if key not in ("t", "clock", "session")}, payload, skew


def test_the_replay_command_checks(
    recorded: tuple[Path, list[MaskMessage]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, masks = recorded
    words = ["replay", str(folder), "--no-realtime", "--check", "--bind", "tcp://127.0.0.1:0"]
    assert cli.main(words) == 0
    assert f"{len(masks)} messages as recorded, 0 others" in capsys.readouterr().out
    assert cli.main([*words, "--set", "silence_dbfs=0"]) == 1
    assert "others (first at frame" in capsys.readouterr().out


def test_windows_come_back_bit_for_bit(tmp_path: Path, recorded: tuple[Path, list[MaskMessage]]) -> None:
    rng = np.random.default_rng(7)
    sound = rng.standard_normal(40_000).astype(np.float32)
    template = recorded[1][0]
    windows = []
    for number, (height, width) in enumerate([(48, 64), (48, 64), (47, 63), (47, 63), (48, 64)]):
        end = 16_000 + number * 533
        audio = sound[end - 15_600 : end].copy()
        if number == 3:
            audio[-100:] = 0  # late: the next window does not go on from it
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        end_ns = end * 62_500
        windows.append(Window(Frame(image, end_ns, number), audio, end_ns - 975_000_000, end_ns, "ok"))
    from rt_avsac.infer import ModelInfo

    info = ModelInfo("m", "0" * 64, "torch", "fp32", 0.5, ("background", "dog"), 224, 224, 15_600)
    prediction = Prediction(np.zeros((224, 224), np.float32), (), 0, 0, -20.0, False)
    with Recorder(str(tmp_path / "r"), LiveSettings(), info) as recorder:
        for window in windows:
            recorder.write(window, prediction, template)
    recording = Recording(tmp_path / "r", realtime=False)
    for window in windows:
        again = recording.next(0)
        assert again is not None
        assert np.array_equal(again.frame.image, window.frame.image)
        assert np.array_equal(again.audio, window.audio)
        assert (again.frame.time_ns, again.audio_end_ns) == (window.frame.time_ns, window.audio_end_ns)
    assert recording.next(0) is None
    assert recording.ended
    assert (tmp_path / "r" / "audio.f32").stat().st_size < 4 * 3 * 15_600


def test_a_cut_off_recording_is_replayed_up_to_the_cut(
    recorded: tuple[Path, list[MaskMessage]], tmp_path: Path
) -> None:
    folder, masks = recorded
    for path in folder.iterdir():
        data = path.read_bytes()
        cut = len(data) if path.suffix == ".json" else len(data) * 2 // 3
        (tmp_path / path.name).write_bytes(data[:cut])
    recording = Recording(tmp_path, realtime=False)
    windows = []
    while (window := recording.next(0)) is not None:
        windows.append(window)
    assert 0 < len(windows) < len(masks)
    assert 0 < len(list(read_messages(tmp_path))) < len(masks)


def test_folders_that_are_no_recording(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="recording"):
        Recording(tmp_path / "none", realtime=False)
    (tmp_path / "recording.json").write_text("{}")
    with pytest.raises(UserError, match="format"):
        Recording(tmp_path, realtime=False)


def test_a_folder_in_use_is_left_alone(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text("x")
    assert cli.main([*DEMO, "--model", model, "--record", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("command", ["live", "record"])
def test_a_full_disk_ends_the_recording_with_exit_code_5(model: str, tmp_path: Path, command: str) -> None:
    folder = tmp_path / "recording"
    common = ("--camera", "demo", "--bind", "tcp://127.0.0.1:0", "--model", model)
    words = (command, *common, "--record", str(folder)) if command == "live" else (command, str(folder), *common)
    with LiveProcess(*words, limit=1_500_000) as live:
        live.until_line("cannot be written: File too large")
        if command == "live":  # the masks go on, and the status says what is missing
            live.until_line(r"degraded .*cannot be written")
            live.signal()
        assert live.wait() == 5
    assert "Traceback" not in live.said()
    recording = Recording(folder, realtime=False)
    count = 0
    while recording.next(0) is not None:
        count += 1
    assert count > 5


def test_a_killed_run_leaves_a_recording(model: str, tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    with LiveProcess(*DEMO, "--model", model, "--record", str(folder)) as live:
        live.until(lambda lines: (folder / WINDOWS).is_file() and (folder / WINDOWS).read_bytes().count(b"\n") > 40)
        live.signal(signal.SIGKILL)
        live.wait()
    recording = Recording(folder, realtime=False)
    assert recording.next(0) is not None
    assert (folder / MESSAGES).stat().st_size > 0
