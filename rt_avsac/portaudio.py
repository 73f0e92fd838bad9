"""The process that owns PortAudio: lists microphones, or sends the blocks of one down its standard output.

A frozen sound server hangs whoever is inside PortAudio (even in its import), a dying one can abort it, and a busy
interpreter delays its callback. So it lives in a process of its own, which can be ended at any time.
Run by rt_avsac.microphone and rt_avsac.devices: `python -m rt_avsac.portaudio list | record DEVICE RATE`.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

# kind (O opened, E error, B block), overflow, bytes that follow, time_ns of the callback, frames up to its end
HEADER = struct.Struct("<cB2xIqq")
BLOCK_S = 0.02
LATENCY_S = 0.1
MAX_QUEUED_BLOCKS = 250  # 5 s that the reader may be away; older blocks than that are dropped, as an overflow


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """This module as a child process; its standard output is a pipe."""
    package_root = str(Path(__file__).resolve().parent.parent)
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "rt_avsac.portaudio", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # ALSA and libpulse write there at will
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"},
        bufsize=0,
    )


def _die_with_parent() -> None:
    """Also where the parent is killed while this process hangs in the sound library (Linux)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    if sys.platform == "linux":
        import ctypes

        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def microphones(sd: Any) -> list[dict[str, Any]]:
    """All devices that record: index, name, api, channels, rate_hz, default."""
    apis = sd.query_hostapis()
    default = next((api["default_input_device"] for api in apis if api["default_input_device"] >= 0), -1)
    return [
        {
            "index": index,
            "name": device["name"],
            "api": apis[device["hostapi"]]["name"],
            "channels": device["max_input_channels"],
            "rate_hz": round(device["default_samplerate"]),
            "default": index == default,
        }
        for index, device in enumerate(sd.query_devices())
        if device["max_input_channels"] > 0
    ]


def _list(out: BinaryIO) -> None:
    """One JSON object a line, each sent as soon as it is known."""
    import sounddevice as sd

    for microphone in microphones(sd):
        try:
            sd.check_input_settings(device=microphone["index"], channels=1, samplerate=16_000)
            microphone["takes_16_khz"] = True
        except (sd.PortAudioError, ValueError):
            microphone["takes_16_khz"] = False
        out.write(json.dumps(microphone).encode() + b"\n")


def choose(found: list[dict[str, Any]], asked: str) -> dict[str, Any]:
    """The microphone of this index, name or part of a name, or "default". ValueError says what there is."""
    if asked == "default":
        for microphone in found:
            if microphone["default"]:
                return microphone
    elif asked.isdigit():
        for microphone in found:
            if microphone["index"] == int(asked):
                return microphone
    else:
        for matches in (str.__eq__, str.__contains__):
            for microphone in found:
                if matches(microphone["name"].lower(), asked.lower()):
                    return microphone
    names = ", ".join(f"{m['index']} {m['name']}" for m in found)
    raise ValueError(
        f"no such microphone; found {names}" if found else "no microphone found (is a sound server running?)"
    )


def _open(sd: Any, microphone: dict[str, Any], rate_hz: int, callback: Any) -> Any:
    """A started stream at `rate_hz`, or at the device's own rate; mono, or what the device insists on."""
    rates = dict.fromkeys([rate_hz, microphone["rate_hz"], 48_000])
    channels = dict.fromkeys([1, 2, microphone["channels"]])
    first_error: Exception | None = None
    for rate in rates:
        for count in channels:
            if count > microphone["channels"]:
                continue
            try:
                stream = sd.RawInputStream(
                    samplerate=rate,
                    blocksize=round(rate * BLOCK_S),
                    device=microphone["index"],
                    channels=count,
                    dtype="float32",
                    latency=LATENCY_S,
                    callback=callback,
                )
                stream.start()
                return stream
            except (sd.PortAudioError, ValueError) as error:  # no server at all is a ValueError
                first_error = first_error or error
    raise ValueError(f"cannot be opened: {first_error}")


def _record(out: BinaryIO, asked: str, rate_hz: int) -> None:
    blocks: queue.SimpleQueue[tuple[int, int, int, bytes]] = queue.SimpleQueue()
    frames_so_far = 0
    lost = 0

    def callback(data: Any, frames: int, _time: Any, status: Any) -> None:
        """Only stamps and hands over; runs in PortAudio's thread. An exception here would end the stream."""
        nonlocal frames_so_far, lost
        now_ns = time.monotonic_ns()
        lost |= bool(status.input_overflow)
        if blocks.qsize() > MAX_QUEUED_BLOCKS:
            lost = 1
            return
        frames_so_far += frames
        blocks.put((now_ns, frames_so_far, lost, bytes(data)))
        lost = 0

    try:
        import sounddevice as sd

        microphone = choose(microphones(sd), asked)
        stream = _open(sd, microphone, rate_hz, callback)
    except (ImportError, OSError, ValueError) as error:
        text = str(error).encode()
        out.write(HEADER.pack(b"E", 0, len(text), 0, 0) + text)
        return
    opened = {"name": microphone["name"], "rate_hz": round(stream.samplerate), "channels": stream.channels}
    text = json.dumps(opened).encode()
    out.write(HEADER.pack(b"O", 0, len(text), time.monotonic_ns(), 0) + text)
    while True:
        now_ns, frames, overflow, data = blocks.get()
        out.write(HEADER.pack(b"B", overflow, len(data), now_ns, frames) + data)


def main(arguments: list[str]) -> None:
    _die_with_parent()
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # nothing but records goes down the pipe
    try:
        if arguments[0] == "list":
            _list(out)
        else:
            _record(out, arguments[1], int(arguments[2]))
    except BrokenPipeError:
        pass  # the parent is gone
    os._exit(0)  # PortAudio's own exit can hang on a frozen server


if __name__ == "__main__":
    main(sys.argv[1:])
