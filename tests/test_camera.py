"""Cameras: network streams from real servers that freeze and die, V4L2's behaviour, and what a user gets wrong."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from rt_avsac import capture_device
from rt_avsac.camera import Camera
from rt_avsac.capture_device import stamp
from rt_avsac.capture_stream import stream_shots
from rt_avsac.config import LiveSettings
from rt_avsac.errors import SourceError
from rt_avsac.flash_beep import pair
from rt_avsac.flow import Frame
from rt_avsac.sources import open_sources
from rt_avsac.sync_test import watch
from tests.clips import write_clip
from tests.mjpeg import MjpegServer
from tests.rtsp import RtspServer, free_port
from tests.waiting import until

QUICK = LiveSettings(mic="none", reopen_min_s=0.05, reopen_max_s=0.2)


def counting(t: float) -> np.ndarray:
    """A picture whose brightness says when it was made: 4 grey levels a frame."""
    return np.full((48, 64, 3), round(t * 30) * 4 % 256, np.uint8)


@pytest.fixture
def server() -> Iterator[MjpegServer]:
    with MjpegServer(counting) as running:
        yield running


def take(camera: Camera) -> Frame:
    frame = camera.latest.take(10.0)
    assert frame is not None, camera.status_text
    return frame


def fresh(camera: Camera) -> Frame:
    """A frame that came after this call."""
    now_ns = time.monotonic_ns()
    while (frame := take(camera)).time_ns < now_ns:
        pass
    return frame


def test_a_network_camera_gives_its_newest_picture(server: MjpegServer) -> None:
    with Camera(replace(QUICK, camera=server.url, camera_latency_ms=0.0)) as camera:
        first = fresh(camera)
        assert first.image.shape == (48, 64, 3)
        assert first.time_source == "arrival", "the stamps of such a stream are made up"
        overwritten = camera.drops["frame_overwritten"]
        until(lambda: camera.drops["frame_overwritten"] >= overwritten + 10, what="frames nobody takes")

        def is_new() -> bool:  # on a loaded machine a picture is late now and then, not always
            frame = take(camera)
            number = round((frame.time_ns - server.began_ns) / 1e9 * 30)
            return abs((number * 4 - float(frame.image.mean()) + 128) % 256 - 128) <= 10

        until(is_new, what="a picture of now")
        frame = take(camera)
        assert frame.index > first.index + 9
        assert camera.state == "ok"
        assert "64x48" in camera.status_text


def test_the_latency_setting_moves_the_stamp(server: MjpegServer) -> None:
    with Camera(replace(QUICK, camera=server.url, camera_latency_ms=5000.0)) as camera:
        frame = take(camera)
        assert time.monotonic_ns() - frame.time_ns > 5_000_000_000


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_a_lost_network_camera_is_told_and_comes_back(server: MjpegServer, fault: str) -> None:
    with Camera(replace(QUICK, camera=server.url, max_frame_age_ms=500.0)) as camera:
        index = fresh(camera).index
        getattr(server, fault)()
        assert until(lambda: camera.state == "lost") < 5
        assert any(reason in camera.status_text for reason in ("no frame", "no data", "lost:"))
        camera.check()  # lost, not over
        until(lambda: camera.drops["camera_lost"] >= 2, what="an attempt in vain")
        server.thaw() if fault == "freeze" else server.start()
        assert fresh(camera).index > index
        until(lambda: camera.state == "ok")


def test_a_frozen_rtsp_camera_is_told_and_comes_back() -> None:
    with RtspServer() as server, Camera(replace(QUICK, camera=server.url)) as camera:
        frame = fresh(camera)
        assert frame.time_source == "pts"
        assert frame.image.shape == (240, 320, 3)
        server.freeze()
        assert until(lambda: camera.state == "lost") < 3
        server.thaw()
        until(lambda: camera.state == "ok")
        fresh(camera)
        server.kill()
        until(lambda: camera.state == "lost")
        server.start()
        fresh(camera)


def test_rtsp_frames_are_evenly_spaced_whenever_they_arrive() -> None:
    with RtspServer() as server, Camera(replace(QUICK, camera=server.url)) as camera:
        fresh(camera)
        frames = [take(camera) for _ in range(30)]
    spacing_ms = [
        (later.time_ns - earlier.time_ns) / 1e6 / (later.index - earlier.index)
        for earlier, later in itertools.pairwise(frames)
    ]
    assert np.median(spacing_ms) == pytest.approx(1000 / 30, abs=0.5)


def test_the_sound_of_a_stream_is_on_the_clock_of_its_picture(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "flashbeep.mp4", 8.0)
    with RtspServer(clip) as server:
        settings = replace(QUICK, camera=server.url, mic="same")
        for _ in range(4):  # a loaded machine loses frames, flashes too; what it keeps is in its place
            watcher = watch(settings, 4.5, threading.Event())
            offsets = pair(watcher.flashes, watcher.beeps)
            if len(offsets) >= 3:
                break
    assert len(offsets) >= 3
    assert abs(np.median(offsets)) <= 5.0


def test_a_slow_reader_of_a_live_stream_skips_to_its_newest_pictures() -> None:
    dropped: list[str] = []
    stop, ages_s, num_before = threading.Event(), [], 0
    with RtspServer() as server:
        shots = stream_shots(replace(QUICK, camera=server.url), stop, None, dropped.append)
        for shot in shots:
            ages_s.append((time.monotonic_ns() - shot.time_ns) / 1e9)
            if dropped or len(ages_s) == 500:
                break
            num_before = len(ages_s)
            stop.wait(0.08)  # what a network that is too slow would take
        shots.close()
    assert set(dropped) == {"packet_behind"}
    assert num_before >= 4, "it skips only when it has been behind for a second"
    assert ages_s[num_before - 1] > 0.2
    assert ages_s[num_before] < ages_s[num_before - 1] / 2


@pytest.mark.parametrize("container", ["ts", "mp4"])
def test_a_file_on_a_web_server_plays_at_its_own_pace_and_ends(tmp_path: Path, container: str) -> None:
    write_clip(tmp_path / f"film.{container}", 3.0)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/film.{container}"
    began = time.monotonic()
    with open_sources(replace(QUICK, camera=url, mic="same")) as sources:
        windows = list(itertools.takewhile(lambda _: time.monotonic() - began < 20, sources))
        assert sources.states == {"camera": "ended", "mic": "ended"}
    assert time.monotonic() - began > 2.5
    assert len(windows) > 30
    first_ns = windows[0].frame.time_ns
    later = [window.status for window in windows if window.frame.time_ns - first_ns > 1_200_000_000]
    assert later.count("ok") > 0.8 * len(later), later
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_stream_without_the_sound_that_was_asked_for(server: MjpegServer) -> None:
    for policy in ("auto", "reopen"):
        with Camera(replace(QUICK, camera=server.url, on_source_loss=policy), with_sound=True) as camera:
            until(lambda: camera.state == "lost")
            with pytest.raises(SourceError, match="found a stream without sound; use --mic default or none"):
                until(lambda: camera.check(), 1.0)


def test_no_camera_at_the_start_ends_the_run_unless_it_may_wait() -> None:
    with Camera(replace(QUICK, camera=f"http://127.0.0.1:{free_port()}/")) as camera:
        until(lambda: camera.state == "lost")
        with pytest.raises(SourceError, match=r"cannot be opened: Connection refused.*--on-source-loss reopen"):
            until(lambda: camera.check(), 1.0)
    port = free_port()
    late = MjpegServer(counting)
    late.port = port
    with Camera(replace(QUICK, camera=f"http://127.0.0.1:{port}/", on_source_loss="reopen")) as camera:
        until(lambda: camera.drops["camera_lost"] >= 2)
        camera.check()
        with late:
            fresh(camera)


def test_exit_ends_at_the_first_loss(server: MjpegServer) -> None:
    settings = replace(QUICK, camera=server.url, on_source_loss="exit", max_frame_age_ms=300.0)
    with Camera(settings) as camera:
        fresh(camera)
        server.freeze()
        until(lambda: camera.state == "lost")
        with pytest.raises(SourceError, match="no frame for 300 ms"):
            until(lambda: camera.check(), 1.0)


def test_an_index_that_does_not_exist_is_one_quiet_line() -> None:
    script = (
        "from rt_avsac.camera import Camera; from rt_avsac.config import LiveSettings; import time\n"
        "with Camera(LiveSettings(camera='93')) as camera:\n"
        "    while camera.state != 'lost': time.sleep(0.01)\n"
        "    time.sleep(0.1)\n"
        "    try: camera.check()\n"
        "    except Exception as error: print(f'{error.exit_code} {error}')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.startswith("3 camera 93: asked for /dev/video93, no such device; found ")
    assert done.stdout.count("\n") == 1


def test_what_is_no_camera_device(tmp_path: Path) -> None:
    for camera, message in (("/dev/null", "does not open"), ("/dev/shm", "no device"), ("/dev/nowhere", "no such")):
        with Camera(replace(QUICK, camera=camera)) as source:
            until(lambda: source.state == "lost")
            with pytest.raises(SourceError, match=message):
                until(lambda: source.check(), 1.0)


def test_the_kernels_stamp_is_used_where_it_is_plausible() -> None:
    now_ns = 50_000_000_000
    assert stamp(now_ns, 49_990.0) == (49_990_000_000, "v4l2")
    assert stamp(now_ns, 50_010.0) == (now_ns, "arrival"), "from the future"
    assert stamp(now_ns, 47_000.0) == (now_ns, "arrival"), "too old"
    assert stamp(now_ns, 0.0) == (now_ns, "arrival")
    assert stamp(now_ns, -1.0) == (now_ns, "arrival")


class Device:
    """Stands in for cv2.VideoCapture of a V4L2 device: `grab` does what the test says."""

    def __init__(self, grab: Callable[[], bool]) -> None:
        self.grab = grab
        self.released = threading.Event()

    def get(self, _property: int) -> float:
        return time.monotonic_ns() / 1e6 - 5.0

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((4, 6, 3), (255, 0, 0), np.uint8)  # blue, in OpenCV's order

    def release(self) -> None:
        self.released.set()


def plug(monkeypatch: pytest.MonkeyPatch, grab: Callable[[], bool]) -> list[Device]:
    """The devices that the camera opens from now on."""
    opened: list[Device] = []

    def open_device(_settings: LiveSettings) -> Device:
        opened.append(Device(grab))
        return opened[-1]

    monkeypatch.setattr(capture_device, "_opened", open_device)
    return opened


def tick() -> bool:
    time.sleep(0.01)
    return True


def test_device_frames_are_rgb_with_the_kernels_time(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = plug(monkeypatch, tick)
    with Camera(replace(QUICK, camera="0")) as camera:
        frame = take(camera)
    assert frame.image[0, 0].tolist() == [0, 0, 255]
    assert frame.time_source == "v4l2"
    assert opened[0].released.is_set()


def test_an_unplugged_device_is_released_and_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plugged = threading.Event()
    plugged.set()
    opened = plug(monkeypatch, lambda: plugged.is_set() and tick())
    with Camera(replace(QUICK, camera="0")) as camera:
        take(camera)
        plugged.clear()
        until(lambda: camera.state == "lost")
        assert "5 reads failed in a row" in camera.status_text
        assert opened[0].released.is_set()
        plugged.set()
        fresh(camera)
        assert len(opened) >= 2


def test_a_device_whose_driver_hangs_is_left_alone_and_never_opened_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    hang, release = threading.Event(), threading.Event()

    def grab() -> bool:
        if hang.is_set():
            release.wait(30.0)
        return tick()

    opened = plug(monkeypatch, grab)
    with Camera(replace(QUICK, camera="0", max_frame_age_ms=200.0)) as camera:
        take(camera)
        hang.set()
        until(lambda: camera.state == "lost")
        until(lambda: "hangs in the driver" in camera.status_text)
        assert len(opened) == 1
        assert camera.left_behind
        hang.clear()
        release.set()
        fresh(camera)
        assert len(opened) == 2
        release.clear()
        hang.set()
        until(lambda: camera.state == "lost")
        began = time.monotonic()
    assert time.monotonic() - began < 3, "closing must not wait for the driver"
    assert camera.left_behind
    release.set()
    until(opened[1].released.is_set)


def test_stopping_while_the_camera_does_not_answer() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:  # accepts, says nothing
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        with Camera(replace(QUICK, camera=url)) as camera:
            until(lambda: camera._thread is not None)
            began = time.monotonic()
        assert time.monotonic() - began < 3
    until(lambda: not camera.left_behind, what="the reading thread to see the stop")
