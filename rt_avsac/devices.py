"""`rt-avsac devices`: the cameras and microphones of this machine with their rates; never hangs."""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import wait
from typing import Any

from rt_avsac import portaudio, v4l2


def cameras(timeout_s: float) -> list[dict[str, Any]]:
    """All V4L2 nodes, asked at the same time, each in a process of its own; "error" where a driver does not answer."""
    nodes = v4l2.nodes()
    if not nodes:
        return []
    with ThreadPoolExecutor(len(nodes)) as pool:
        found = list(pool.map(lambda node: v4l2.probe(node, timeout_s), nodes))
    # a webcam has a second node for its metadata: no camera
    return [camera for camera in found if camera.get("captures", True)]


def microphones(timeout_s: float) -> tuple[list[dict[str, Any]], str]:
    """What PortAudio lists within `timeout_s`, and what went wrong ("" if nothing)."""
    child = portaudio.start("list")
    assert child.stdout is not None
    fd, deadline, text, error = child.stdout.fileno(), time.monotonic() + timeout_s, b"", ""
    try:
        while True:
            if not wait([fd], max(0.0, deadline - time.monotonic())):
                error = f"the sound server did not answer within {timeout_s:g} s"
                break
            data = os.read(fd, 1 << 16)
            if not data:
                code = child.wait()
                error = f"PortAudio cannot be used (code {code}); is libportaudio2 installed?" if code else ""
                break
            text += data
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    whole_lines = text.split(b"\n")[:-1]
    return [json.loads(line) for line in whole_lines], error


def _camera_lines(found: list[dict[str, Any]]) -> list[str]:
    lines = []
    for camera in found:
        offers: dict[str, list[str]] = {}  # a driver offers the same sizes in a dozen pixel formats
        for offer in camera.get("formats", ()):
            rates = "/".join(f"{rate:g}" for rate in offer["fps"])
            size = f"{offer['width']}x{offer['height']}" + (f" {rates} fps" if rates else "")
            offers.setdefault(size, []).append(offer["format"])
        sizes = [f"{size}  ({', '.join(formats)})" for size, formats in offers.items()]
        number = camera["path"].removeprefix("/dev/video")
        lines.append(f"  {number:>3}  {camera['path']}  {camera['name']}")
        lines += [f"         {line}" for line in sizes or [camera.get("error", "no formats")]]
    return lines or ["  none (network cameras, files and the demo need no device)"]


def _microphone_lines(found: list[dict[str, Any]], error: str) -> list[str]:
    lines = [
        f"  {m['index']:>3}  {m['name']}  ({m['api']}, {m['channels']} channels, {m['rate_hz']} Hz, "
        f"16 kHz {'itself' if m['takes_16_khz'] else 'by resampling'})" + (" default" if m["default"] else "")
        for m in found
    ]
    return [*(lines or ([] if error else ["  none (is a sound server running?)"])), *([f"  {error}"] if error else [])]


def main(args: argparse.Namespace) -> int:
    """Lists what there is; 0, also where that is nothing."""
    with ThreadPoolExecutor(1) as pool:  # both at once: the deadline holds for the whole command
        listing = pool.submit(microphones, args.timeout)
        found = cameras(args.timeout)
        heard, error = listing.result()
    if args.json:
        print(json.dumps({"cameras": found, "microphones": heard, "microphone_error": error or None}))
        return 0
    print("\n".join(["cameras (--camera):", *_camera_lines(found)]))
    print("\n".join(["microphones (--mic):", *_microphone_lines(heard, error)]))
    return 0
