"""An RTSP camera for the tests: GStreamer's server in a process of its own; frozen and killed at will."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from tests.child import Child

SYSTEM_PYTHON = "/usr/bin/python3"  # GStreamer's bindings come from the system's packages
PACKAGES = (
    "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RtspServer(Child):
    """Serves `file` (h264 + aac in mp4), or a moving ball without sound; a context manager; may be started again."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/live"

    def __enter__(self) -> RtspServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def start(self) -> None:
        script = Path(__file__).with_name("rtsp_server.py")
        arguments = [str(self.port), *([str(self.file)] if self.file else [])]
        self.process = subprocess.Popen([SYSTEM_PYTHON, str(script), *arguments], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            self.kill()
            raise RuntimeError(f"the RTSP server does not start; tests need: apt-get install {PACKAGES}")
