"""Messages to test with, and waiting for something that another thread does."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rt_avsac.clock import Clock
from rt_avsac.messages import (
    Audio,
    ClassInfo,
    Image,
    InfoMessage,
    Mask,
    MaskMessage,
    MaskObject,
    Message,
    Model,
    PreviewMessage,
    StatusMessage,
    Times,
)

# wire version 1; a change here is a change of the protocol
FIELDS = {
    "": "schema version session source seq clock t image mask model audio latency_ms drops objects",
    "clock": "id realtime_offset_ns",
    "t": "video_ns video_source audio_start_ns audio_end_ns publish_ns av_skew_ms",
    "image": "width height frame_index",
    "mask": "width height to_image",
    "model": "name sha256 backend precision threshold",
    "audio": "status rms_dbfs silent clipped",
    "objects": "id class_id label score bbox centroid area_px enc shape off len",
}
MODEL = Model("avsac-edge", "ab" * 32, "openvino", "fp32", 0.5)
LATENCY_MS = {"capture": 8.1, "wait": 2.2, "pre": 1.9, "infer": 18.4, "post": 1.1, "total": 33.1}


def mask_object(number: int = 0, width: int = 224, height: int = 224, fill: float = 0.3) -> MaskObject:
    """A box of 30 x 20 mask pixels, and some noise."""
    mask = np.random.default_rng(number).random((height, width)) < 0.01 * fill
    mask[10:30, 20 + number : 50 + number] = True
    return MaskObject(number, 17, "dog", 0.91, (57, 21, 86, 43), (99.3, 42.5), int(mask.sum()), mask)


def masks(
    seq: int = 1234, count: int = 1, *, session: str = "8f3c2a11", source: str = "cam0", **more: Any
) -> MaskMessage:
    """A mask message of a picture taken just now."""
    now = time.monotonic_ns()
    fields: dict[str, Any] = {
        "session": session,
        "source": source,
        "seq": seq,
        "clock": Clock.here(),
        "t": Times(now, "v4l2", now - 975_000_000, now, now, 0.25),
        "image": Image(640, 480, 5678),
        "mask": Mask(224, 224, (640 / 224, 0.0, 0.0, 0.0, 480 / 224, 0.0)),
        "model": MODEL,
        "audio": Audio("ok", -32.5, False, False),
        "latency_ms": LATENCY_MS,
        "drops": {"video": 12, "audio": 0, "publish": 0},
        "objects": tuple(mask_object(number) for number in range(count)),
    }
    return MaskMessage(**fields | more)


def status(*, session: str = "8f3c2a11", source: str = "cam0", text: str = "") -> StatusMessage:
    drops, latency = {"network_busy": 3}, {"p50": 31.0, "p99": 44.0}
    sounding, now = ("dog",), time.monotonic_ns()
    return StatusMessage(
        session, source, Clock.here(), now, "running", text, "ok", "ok", 29.9, latency, drops, sounding, 1233
    )


def info(*, session: str = "8f3c2a11", source: str = "cam0") -> InfoMessage:
    classes = (ClassInfo(0, "background", (0, 0, 0)), ClassInfo(17, "dog", (230, 160, 20)))
    return InfoMessage(session, source, Clock.here(), classes, MODEL, 30.0, 0.975, 224, 224)


def preview(seq: int = 1234, *, session: str = "8f3c2a11", source: str = "cam0") -> PreviewMessage:
    now = time.monotonic_ns()
    return PreviewMessage(
        session, source, seq, Clock.here(), now, Image(640, 480, 5678), b"\xff\xd8 a picture \xff\xd9"
    )


def each_kind() -> list[Message]:
    return [masks(count=2), masks(count=0), status(), info(), preview()]


def wait_until(
    condition: Callable[[], object], timeout_s: float = 10.0, doing: Callable[[], object] = lambda: None
) -> None:
    """Until `condition` is true, `doing` something between the looks at it; AssertionError after the timeout."""
    deadline = time.monotonic() + timeout_s
    for _ in itertools.count():
        if condition():
            return
        assert time.monotonic() < deadline, "waited in vain"
        doing()
        time.sleep(0.005)


def changed(message: Message, change: Any) -> list[bytes]:
    """The message's bytes after `change(header)`."""
    name, text, payload = message.encode()
    header = json.loads(text)
    change(header)
    return [name, json.dumps(header).encode(), payload]


def same(one: Any, other: Any) -> bool:
    """Equal, fields and arrays."""
    if dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one)]
        return type(one) is type(other) and all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return bool(one == other)
