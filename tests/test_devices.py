"""`rt-avsac devices`: what is there, what is not, and that nothing can hang it."""

from __future__ import annotations

import json
import os
import resource
import time
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path

import pytest

from rt_avsac import cli, devices, v4l2
from tests.pulse import Pulse


def test_microphones_are_listed_with_their_rates(pulse: Pulse, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "--json", "--timeout", "20"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["microphone_error"] is None
    (default,) = [m for m in found["microphones"] if m["default"]]
    assert default["name"] == "default"
    assert default["takes_16_khz"] is True
    assert default["rate_hz"] > 0
    assert default["channels"] >= 1
    assert cli.main(["devices", "--timeout", "20"]) == 0
    text = capsys.readouterr().out
    assert "cameras (--camera):" in text
    assert "16 kHz itself) default" in text


def test_a_frozen_sound_server_cannot_hang_it(pulse: Pulse, capsys: pytest.CaptureFixture[str]) -> None:
    pulse.freeze()
    began = time.monotonic()
    assert cli.main(["devices", "--timeout", "1"]) == 0
    assert time.monotonic() - began < 10
    assert "the sound server did not answer within 1 s" in capsys.readouterr().out


def test_no_sound_server_is_an_empty_list(pulse: Pulse, capsys: pytest.CaptureFixture[str]) -> None:
    pulse.kill()
    assert devices.main(Namespace(json=False, timeout=20.0)) == 0
    out = capsys.readouterr()
    assert "none (is a sound server running?)" in out.out
    assert out.err == ""


def test_many_open_files_change_nothing(pulse: Pulse, capsys: pytest.CaptureFixture[str]) -> None:
    """select() takes no file beyond the 1,024th."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    with ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(open(os.devnull))
        assert devices.main(Namespace(json=False, timeout=20.0)) == 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "16 kHz itself) default" in capsys.readouterr().out


def test_nodes_that_are_no_cameras_or_do_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(v4l2, "nodes", lambda: [Path("/dev/null"), Path("/dev/nowhere")])
    monkeypatch.setattr(devices, "microphones", lambda timeout_s: ([], ""))
    null, nowhere = devices.cameras(30.0)
    assert null["error"].startswith("not a video device")
    assert nowhere["error"] == "No such file or directory"
    slow = v4l2.probe(Path("/dev/null"), deadline_s=0.0001)
    assert "did not answer" in slow["error"]
    assert devices.main(Namespace(json=False, timeout=30.0)) == 0
    assert "/dev/nowhere" in capsys.readouterr().out


def test_nodes_come_in_the_order_of_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["video10", "video2", "video0", "videoX"]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [self / name for name in names])
    assert [node.name for node in v4l2.nodes()] == ["video0", "video2", "video10"]
    assert v4l2.described().startswith("/dev/video0")


def test_what_a_driver_says_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ioctls of a webcam, answered from the structs of linux/videodev2.h."""
    import fcntl
    import struct

    sizes = [(640, 480), (1280, 720)]

    def ioctl(fd: int, request: int, data: bytearray) -> int:
        if request == v4l2.QUERYCAP:
            struct.pack_into("<16s32s32sIII", data, 0, b"uvcvideo", b"HD Webcam", b"usb-1", 0, 0x84A00001, 0x04200001)
            return 0
        (index,) = struct.unpack_from("<I", data)
        if request == v4l2.ENUM_FMT and index == 0:
            struct.pack_into("<4s", data, 44, b"MJPG")
            return 0
        if request == v4l2.ENUM_FRAMESIZES and index < len(sizes):
            struct.pack_into("<III", data, 8, 1, *sizes[index])
            return 0
        if request == v4l2.ENUM_FRAMEINTERVALS and index < 2:
            struct.pack_into("<III", data, 16, 1, 1, (30, 15)[index])
            return 0
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    found = v4l2.query(os.devnull)
    assert found["name"] == "HD Webcam"
    assert found["captures"] is True
    assert found["formats"] == [
        {"format": "MJPG", "width": 640, "height": 480, "fps": [30.0, 15.0]},
        {"format": "MJPG", "width": 1280, "height": 720, "fps": [30.0, 15.0]},
    ]
    lines = devices._camera_lines([{"path": "/dev/video0", **found}])
    assert lines[0] == "    0  /dev/video0  HD Webcam"
    assert "640x480 30/15 fps  (MJPG)" in lines[1]
