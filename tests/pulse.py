"""A private PulseAudio server for the tests of the microphone: started, played to, frozen and killed at will."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from tests.child import Child

FIFO_RATE_HZ = 16_000


class Pulse(Child):
    """A sound server of our own with two sources: `vspk.monitor` (what is played) and `vfifo` (what `feed` writes).

    `start` may be called again after `kill`. The caller puts `environment` into os.environ.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rtavsac-pulse-"))
        self.socket = self.folder / "pulse.sock"
        self.fifo = self.folder / "mic.fifo"
        self.environment = {
            "XDG_RUNTIME_DIR": str(self.folder),
            "HOME": str(self.folder),
            "PULSE_SERVER": f"unix:{self.socket}",
            "PULSE_COOKIE": str(self.folder / "cookie"),
        }
        # PortAudio speaks ALSA: its default device is the sound server, as on a desktop
        asoundrc = "pcm.!default { type pulse hint { show on description pulse } }\nctl.!default { type pulse }\n"
        (self.folder / ".asoundrc").write_text(asoundrc)

    def start(self, default_source: str = "vspk.monitor") -> None:
        if shutil.which("pulseaudio") is None:
            raise RuntimeError("tests of the microphone need: apt-get install pulseaudio pulseaudio-utils "
                               "libasound2-plugins libportaudio2")  # fmt: skip
        for left in (self.socket, self.fifo):
            left.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [
                *("pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no"),
                "--disable-shm=yes",
                "-L",
                f"module-native-protocol-unix auth-anonymous=1 socket={self.socket}",
                "-L",
                "module-null-sink sink_name=vspk rate=48000 channels=1 norewinds=1",
                "-L",
                f"module-pipe-source source_name=vfifo file={self.fifo} format=s16le rate={FIFO_RATE_HZ} channels=1",
            ],
            env={**os.environ, **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while self._pactl("set-default-source", default_source) != 0:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError("the private sound server does not start")
            time.sleep(0.05)

    def _pactl(self, *arguments: str) -> int:
        command = ["pactl", *arguments]
        quiet = subprocess.DEVNULL
        return subprocess.run(command, env={**os.environ, **self.environment}, stdout=quiet, stderr=quiet).returncode

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Feeder:
    """Writes sound into `vfifo` at its own pace from a thread; a context manager. `true_ns(k)`: when sample k was due.

    `pause` holds the samples back, as a microphone that stalls; `resume` sends what was due meanwhile at once.
    """

    def __init__(self, pulse: Pulse, samples: np.ndarray) -> None:
        self._fifo = os.open(pulse.fifo, os.O_RDWR)  # read and write: opening never blocks
        self._data = (np.clip(samples, -1, 1) * 32767).astype("<i2")
        self._stop, self._flowing = threading.Event(), threading.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self.began_ns = 0

    def true_ns(self, sample: int) -> int:
        return self.began_ns + sample * 1_000_000_000 // FIFO_RATE_HZ

    def __enter__(self) -> Feeder:
        self.began_ns = time.monotonic_ns()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._flowing.set()
        self._thread.join()
        os.close(self._fifo)

    def pause(self) -> None:
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def _run(self) -> None:
        sent, block = 0, FIFO_RATE_HZ // 100
        os.set_blocking(self._fifo, False)
        while sent < len(self._data) and not self._stop.is_set():
            due_ns = self.true_ns(sent + block)  # a sample is there when it is over
            self._stop.wait(max(0, due_ns - time.monotonic_ns()) / 1e9)
            self._flowing.wait()
            try:
                os.write(self._fifo, self._data[sent : sent + block].tobytes())
                sent += block
            except BlockingIOError:
                self._stop.wait(0.005)
