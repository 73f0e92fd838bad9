"""Video4Linux nodes of this machine: names from sysfs; pictures and rates by ioctl, in a child process with a deadline.

As a program (`python -m rt_avsac.v4l2 /dev/video0`) it prints what one node offers as JSON; a driver can hang in ioctl.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

PROBE_DEADLINE_S = 3.0
CAPTURE = 0x1  # V4L2_CAP_VIDEO_CAPTURE
CAPTURE_MPLANE = 0x1000
HAS_DEVICE_CAPS = 0x80000000
# ioctl numbers of linux/videodev2.h: direction << 30 | size << 16 | 'V' << 8 | number
QUERYCAP = 2 << 30 | 104 << 16 | 0x5600
ENUM_FMT = 3 << 30 | 64 << 16 | 0x5602
ENUM_FRAMESIZES = 3 << 30 | 44 << 16 | 0x564A
ENUM_FRAMEINTERVALS = 3 << 30 | 52 << 16 | 0x564B
DISCRETE = 1


def nodes() -> list[Path]:
    """/dev/video0 and so on, in the order of their numbers."""
    found = [path for path in Path("/dev").glob("video*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def name(node: Path) -> str:
    """What the driver calls it; "" if it does not say."""
    try:
        return Path("/sys/class/video4linux", node.name, "name").read_text().strip()
    except OSError:
        return ""


def described() -> str:
    """The nodes on one line, for an error message."""
    texts = [f"{node} {name(node)}".strip() for node in nodes()]
    return ", ".join(texts) or "no camera at all"


def probe(node: Path, deadline_s: float = PROBE_DEADLINE_S) -> dict[str, Any]:
    """{"path", "name", "captures", "formats": [{"format", "width", "height", "fps"}]}, or "error" for the latter."""
    known: dict[str, Any] = {"path": str(node), "name": name(node)}
    package_root = str(Path(__file__).resolve().parent.parent)
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    child = subprocess.Popen(
        [sys.executable, "-m", "rt_avsac.v4l2", str(node)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"},
    )
    with child:
        try:
            out, _ = child.communicate(timeout=deadline_s)
            return known | json.loads(out)
        except subprocess.TimeoutExpired:
            child.kill()
            return known | {"error": f"the driver did not answer within {deadline_s:.0f} s"}
        except ValueError:
            return known | {"error": f"the probe ended with code {child.returncode}"}


def _rates(fd: int, pixel_format: int, width: int, height: int) -> list[float]:
    """Frame rates at this size; of a range only the highest."""
    import fcntl

    rates: list[float] = []
    for index in range(64):
        request = bytearray(struct.pack("<IIIII", index, pixel_format, width, height, 0).ljust(52, b"\0"))
        try:
            fcntl.ioctl(fd, ENUM_FRAMEINTERVALS, request)
        except OSError:
            break
        kind, numerator, denominator = struct.unpack_from("<III", request, 16)
        if numerator:
            rates.append(round(denominator / numerator, 2))
        if kind != DISCRETE:
            break
    return rates


def _sizes(fd: int, pixel_format: int) -> list[tuple[int, int]]:
    """Widths and heights of this pixel format; of a range the least and the largest."""
    import fcntl

    sizes: list[tuple[int, int]] = []
    for index in range(256):
        request = bytearray(struct.pack("<II", index, pixel_format).ljust(44, b"\0"))
        try:
            fcntl.ioctl(fd, ENUM_FRAMESIZES, request)
        except OSError:
            break
        kind, *numbers = struct.unpack_from("<IIIIIII", request, 8)
        if kind != DISCRETE:  # least width, largest width, step, least height, largest height, step
            return [(numbers[0], numbers[3]), (numbers[1], numbers[4])]
        sizes.append((numbers[0], numbers[1]))
    return sizes


def query(path: str) -> dict[str, Any]:
    """What the node itself says; may hang with its driver. {"error": …} if it cannot be opened."""
    import fcntl

    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        return {"error": error.strerror or str(error)}
    try:
        capability = bytearray(104)
        fcntl.ioctl(fd, QUERYCAP, capability)
        card = bytes(capability[16:48]).split(b"\0")[0].decode(errors="replace")
        all_caps, node_caps = struct.unpack_from("<II", capability, 84)
        caps = node_caps if all_caps & HAS_DEVICE_CAPS else all_caps
        formats: list[dict[str, Any]] = []
        buffer_type = 9 if caps & CAPTURE_MPLANE else 1
        for index in range(64 if caps & (CAPTURE | CAPTURE_MPLANE) else 0):
            request = bytearray(struct.pack("<II", index, buffer_type).ljust(64, b"\0"))
            try:
                fcntl.ioctl(fd, ENUM_FMT, request)
            except OSError:
                break
            (pixel_format,) = struct.unpack_from("<I", request, 44)
            fourcc = struct.pack("<I", pixel_format).decode("ascii", errors="replace").strip()
            for width, height in _sizes(fd, pixel_format):
                rates = _rates(fd, pixel_format, width, height)
                formats.append({"format": fourcc, "width": width, "height": height, "fps": rates})
        return {"name": card, "captures": bool(caps & (CAPTURE | CAPTURE_MPLANE)), "formats": formats}
    except OSError as error:
        return {"error": f"not a video device: {error.strerror}"}
    finally:
        os.close(fd)


if __name__ == "__main__":
    print(json.dumps(query(sys.argv[1])))
