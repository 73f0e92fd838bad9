"""Pictures of a V4L2 device (or another system's camera) through OpenCV, each with its capture time."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_avsac import v4l2
from rt_avsac.backoff import HopelessError
from rt_avsac.config import LiveSettings
from rt_avsac.errors import SourceError
from rt_avsac.flow import TimeSource

MAX_STAMP_AGE_NS = 2_000_000_000  # a kernel stamp older than this, or from the future, is not on our clock
FAILED_READS = 5  # in a row: the device is gone (after an unplug, OpenCV says "open" and fails at once for ever)


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """A picture as it came: uint8 [H, W, 3] RGB and its capture time."""

    image: NDArray[np.uint8]
    time_ns: int
    time_source: TimeSource


def stamp(now_ns: int, position_ms: float) -> tuple[int, TimeSource]:
    """Capture time: the kernel's monotonic stamp (CAP_PROP_POS_MSEC of V4L2) where plausible, else the arrival."""
    time_ns = round(position_ms * 1e6)
    if position_ms > 0 and 0 <= now_ns - time_ns <= MAX_STAMP_AGE_NS:
        return time_ns, "v4l2"
    return now_ns, "arrival"


def _check(camera: str) -> str:
    """The node's path (or the index, where there are no nodes). SourceError that says what exists."""
    if sys.platform != "linux":
        return camera
    path = Path(f"/dev/video{camera}" if camera.isdigit() else camera)
    what = f"camera {camera}: asked for {path}, "
    if not path.exists():
        raise SourceError(f"{what}no such device; found {v4l2.described()}; see `rt-avsac devices`")
    if not path.is_char_device():
        raise HopelessError(f"{what}found a file that is no device; found {v4l2.described()}; see `rt-avsac devices`")
    if not os.access(path, os.R_OK | os.W_OK):
        raise SourceError(f"{what}permission denied; add the user to the group video, or run as its owner")
    return str(path.resolve())


def _opened(settings: LiveSettings) -> Any:
    """A cv2.VideoCapture, asked for the size and rate of the settings. SourceError if it does not open."""
    camera = _check(settings.camera)
    import cv2

    logging = getattr(getattr(cv2, "utils", None), "logging", None)
    if logging is not None:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # the error below says it in one line
    is_node = not camera.isdigit()
    capture = cv2.VideoCapture(camera, cv2.CAP_V4L2) if is_node else cv2.VideoCapture(int(camera), cv2.CAP_ANY)
    if not capture.isOpened():
        capture.release()
        raise SourceError(
            f"camera {settings.camera}: asked OpenCV for {camera}, it does not open: in use, or no capture device; "
            "see `rt-avsac devices` (a Jetson's CSI camera needs an OpenCV with GStreamer, the system's one)"
        )
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, settings.camera_width)
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, settings.camera_height)
    capture.set(cv2.CAP_PROP_FPS, settings.camera_fps)
    return capture


def device_shots(settings: LiveSettings, stop: threading.Event) -> Iterator[Shot]:
    """Pictures until `stop`. SourceError when the device cannot be opened or is gone. `read` may hang: use a thread."""
    capture = _opened(settings)
    import cv2

    failures = 0
    try:
        while not stop.is_set():
            grabbed = capture.grab()
            now_ns = time.monotonic_ns()
            time_ns, time_source = stamp(now_ns, capture.get(cv2.CAP_PROP_POS_MSEC)) if grabbed else (0, "arrival")
            image = capture.retrieve()[1] if grabbed else None
            if image is None:
                failures += 1
                if failures >= FAILED_READS:
                    raise SourceError(f"camera {settings.camera}: {failures} reads failed in a row; is it unplugged?")
                stop.wait(0.01)
                continue
            failures = 0
            if image.ndim == 2:
                image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
            else:
                image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            yield Shot(image, time_ns, time_source)
    finally:
        capture.release()
