"""Camera and microphone together, with real servers that fail: windows go on, and say what is missing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rt_avsac.config import LiveSettings
from rt_avsac.errors import SourceError
from rt_avsac.flow import Window
from rt_avsac.sources import Sources, open_sources
from tests.clips import write_clip
from tests.mjpeg import MjpegServer
from tests.pulse import Feeder, Pulse
from tests.waiting import until


def grey(t: float) -> np.ndarray:
    return np.full((48, 64, 3), 90, np.uint8)


@pytest.fixture
def camera() -> Iterator[MjpegServer]:
    with MjpegServer(grey) as running:
        yield running


def live(camera: MjpegServer, **changes: object) -> LiveSettings:
    return replace(LiveSettings(camera=camera.url, mic="default", reopen_min_s=0.05, reopen_max_s=0.2), **changes)


def window_with(sources: Sources, status: str, deadline_s: float = 20.0) -> Window:
    found: list[Window] = []

    def there() -> bool:
        window = sources.next(0.2)
        if window is not None and window.status == status:
            found.append(window)
        return bool(found)

    until(there, deadline_s, f"a window that is {status}")
    return found[0]


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(round(16_000 * seconds)) * 0.2


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_pictures_go_on_without_the_microphone(camera: MjpegServer, pulse: Pulse, fault: str) -> None:
    with Feeder(pulse, noise(60)), open_sources(live(camera)) as sources:
        whole = window_with(sources, "ok")
        assert whole.audio.any()
        assert abs(whole.skew_ns) <= 31_250
        assert sources.states == {"camera": "ok", "mic": "ok"}
        getattr(pulse, fault)()
        missing = window_with(sources, "missing")
        assert not missing.audio.any()
        assert missing.wait_ns < 50_000_000, "nobody waits for a dead microphone"
        until(lambda: sources.states == {"camera": "ok", "mic": "lost"})
        assert "microphone default" in str(sources.describe()["text"])
        assert sources.drops["audio_lost"] >= 1
        pulse.thaw() if fault == "freeze" else pulse.start("vfifo")
        with Feeder(pulse, noise(60)):
            window_with(sources, "ok")
        assert sources.states == {"camera": "ok", "mic": "ok"}


def test_the_camera_comes_back_while_the_microphone_runs_on(camera: MjpegServer, pulse: Pulse) -> None:
    with Feeder(pulse, noise(60)), open_sources(live(camera, max_frame_age_ms=400.0)) as sources:
        before = window_with(sources, "ok")
        camera.freeze()
        until(lambda: sources.states["camera"] == "lost")
        assert sources.states["mic"] == "ok"
        assert not sources.ended
        camera.thaw()
        frozen_until_ns = time.monotonic_ns()
        until(lambda: (w := sources.next(0.2)) is not None and w.frame.time_ns > frozen_until_ns)
        after = window_with(sources, "ok")
        assert after.frame.index > before.frame.index


def test_exit_when_either_is_lost(camera: MjpegServer, pulse: Pulse) -> None:
    with Feeder(pulse, noise(60)), open_sources(live(camera, on_source_loss="exit")) as sources:
        window_with(sources, "ok")
        pulse.freeze()
        with pytest.raises(SourceError, match="microphone default: no sound for 1000 ms") as caught:
            until(lambda: sources.next(0.1) and False)
        assert caught.value.exit_code == 3


def test_windows_come_before_the_microphone_is_there(camera: MjpegServer, pulse: Pulse) -> None:
    pulse.freeze()  # its process hangs while it opens
    with open_sources(live(camera)) as sources:
        assert window_with(sources, "missing").wait_ns < 50_000_000
        assert sources.states["mic"] == "opening"
        pulse.thaw()
        with Feeder(pulse, noise(60)):
            window_with(sources, "ok")


def test_a_sound_file_beside_a_live_camera(camera: MjpegServer, tmp_path: Path) -> None:
    sound = write_clip(tmp_path / "sound.wav", 2.0, picture=None, codec="pcm_s16le")
    with open_sources(live(camera, mic=str(sound))) as sources:
        window = window_with(sources, "ok")
        assert window.frame.time_source == "arrival"
        until(lambda: sources.states["mic"] == "ended")
        assert sources.states["camera"] == "ok"
        window_with(sources, "missing")
        assert not sources.ended


def test_a_live_microphone_beside_a_file(pulse: Pulse, tmp_path: Path) -> None:
    film = write_clip(tmp_path / "film.mp4", 4.0, sound=None)
    settings = LiveSettings(camera=str(film), mic="default", loop=True)
    with Feeder(pulse, noise(30)), open_sources(settings) as sources:
        window = window_with(sources, "ok")
        assert window.frame.time_source == "pts"
        assert sources.states == {"camera": "ok", "mic": "ok"}


def test_a_camera_without_a_microphone(camera: MjpegServer) -> None:
    with open_sources(live(camera, mic="none")) as sources:
        window_with(sources, "missing")
        assert set(sources.states) == {"camera"}
