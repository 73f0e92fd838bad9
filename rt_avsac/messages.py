"""The wire, version 1: mask, status, info and preview messages <-> [topic, header, payload]. Stdlib and numpy only.

`decode` is for bytes of strangers: lengths are checked before memory is taken, and what is wrong is a `MessageError`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from rt_avsac import header as headers
from rt_avsac.clock import Clock
from rt_avsac.header import MessageError
from rt_avsac.mask_bytes import Encoding, pack, unpack

VERSION = 1
MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES = 1 << 20, 1 << 24
MAX_MASK_PIXELS = 1 << 25  # of all objects of a message together, once unpacked: 32 MiB
RMS_FLOOR_DBFS = -200.0  # JSON has no -inf: digital silence reads as this

_SOURCE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TOPIC = re.compile(rf"rtavsac/v([0-9]{{1,3}})/({_SOURCE.pattern})/([a-z]+)/")


@dataclass(frozen=True, slots=True)
class Times:
    """Capture times of both modalities, and when the message left; int ns of the publisher's clock."""

    video_ns: int
    video_source: Literal["v4l2", "pts", "arrival"]
    audio_start_ns: int
    audio_end_ns: int
    publish_ns: int
    av_skew_ms: float


@dataclass(frozen=True, slots=True)
class Image:
    """The camera picture, pixels, and its count since the camera opened."""

    width: int
    height: int
    frame_index: int


@dataclass(frozen=True, slots=True)
class Mask:
    """Size of every mask, and the 2x3 row-major affine from mask pixels to image pixels."""

    width: int
    height: int
    to_image: tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class Model:
    """What made the masks. `threshold`: probability from which a pixel sounds."""

    name: str
    sha256: str
    backend: str
    precision: str
    threshold: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", headers.line(self.name))  # a file's name can hold anything


@dataclass(frozen=True, slots=True)
class Audio:
    """State of the window's sound. `rms_dbfs` is at least RMS_FLOOR_DBFS."""

    status: Literal["ok", "late", "missing", "gap"]
    rms_dbfs: float
    silent: bool
    clipped: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "rms_dbfs", max(self.rms_dbfs, RMS_FLOOR_DBFS))


@dataclass(frozen=True, slots=True, eq=False)
class _Object:
    id: int
    class_id: int
    label: str
    score: float
    bbox: tuple[int, int, int, int]
    centroid: tuple[float, float]
    area_px: int


@dataclass(frozen=True, slots=True, eq=False)
class MaskObject(_Object):
    """One sounding object. `bbox` = x, y, width, height (half-open) and `centroid` = x, y are image pixels.

    `mask`: bool [h, w] at network resolution, read-only; `area_px` counts its pixels. With `probability`
    (uint8 [h, w], 255 = 1.0) the map travels instead of the mask, and the receiver cuts it at `model.threshold`.
    """

    mask: NDArray[np.bool_]
    probability: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Entry(_Object):
    """An object as the header has it: its bytes are payload[off : off + len]."""

    enc: Encoding
    shape: tuple[int, int]
    off: int
    len: int


def _known(item: _Object) -> dict[str, Any]:
    return {name: getattr(item, name) for name in headers.names(_Object)}


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a mask message's header says about its payload."""

    mask: Mask
    model: Model
    objects: tuple[_Entry, ...]


@dataclass(frozen=True, slots=True, eq=False)
class MaskMessage:
    """The sounding objects of one frame; none is silence. Attributes are the header's fields."""

    KIND: ClassVar[str] = "masks"
    session: str
    source: str
    seq: int
    clock: Clock
    t: Times
    image: Image
    mask: Mask
    model: Model
    audio: Audio
    latency_ms: dict[str, float]
    drops: dict[str, int]
    objects: tuple[MaskObject, ...]
    tracked: bool = False  # False: objects' ids hold within one frame

    def encode(self, encoding: Encoding = "bits+zlib") -> list[bytes]:
        """[topic, header, payload]; ValueError for masks of another size than `mask` says, NaN, or an odd source."""
        shape, entries, payload = (self.mask.height, self.mask.width), [], list[bytes]()
        for item in self.objects:
            picture = item.mask if item.probability is None else item.probability
            if picture.shape != shape:
                raise ValueError(f"object {item.id}: mask is {picture.shape}, the message says {shape}")
            enc: Encoding = encoding if item.probability is None else "u8+zlib"
            data = pack(picture, enc)
            off = sum(map(len, payload))
            entries.append(_Entry(**_known(item), enc=enc, shape=shape, off=off, len=len(data)))
            payload.append(data)
        return _parts(self, b"".join(payload), objects=tuple(entries))


class _Plain:
    __slots__ = ()

    def encode(self) -> list[bytes]:
        """[topic, header, payload]; ValueError for NaN or an odd source."""
        return _parts(cast(Message, self), getattr(self, "jpeg", b""))


@dataclass(frozen=True, slots=True, eq=False)
class StatusMessage(_Plain):
    """How the publisher is: at 1 Hz and on change."""

    KIND: ClassVar[str] = "status"
    session: str
    source: str
    clock: Clock
    publish_ns: int
    state: str  # starting, running, degraded, stopping
    text: str  # one line for a person: what is wrong and what is done about it, or ""
    camera: str  # opening, ok, lost, ended
    microphone: str  # opening, ok, lost, ended, none
    fps: float = 0.0
    latency_ms: dict[str, float] = field(default_factory=dict)  # capture to publish: p50, p99
    drops: dict[str, int] = field(default_factory=dict)  # by reason
    sounding: tuple[str, ...] = ()  # labels
    seq: int = -1  # of the last mask message

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", headers.line(self.text))  # drivers write several lines into their errors


@dataclass(frozen=True, slots=True)
class ClassInfo:
    id: int
    name: str
    color: tuple[int, int, int]  # RGB, 0-255


@dataclass(frozen=True, slots=True, eq=False)
class InfoMessage(_Plain):
    """What does not change during a session; sent again to late joiners."""

    KIND: ClassVar[str] = "info"
    session: str
    source: str
    clock: Clock
    classes: tuple[ClassInfo, ...]
    model: Model
    fps: float  # asked of the camera
    window_s: float  # audio the network hears
    mask_width: int
    mask_height: int


@dataclass(frozen=True, slots=True, eq=False)
class PreviewMessage(_Plain):
    """A picture to look at: JPEG bytes of the frame that mask message `seq` belongs to."""

    KIND: ClassVar[str] = "preview"
    session: str
    source: str
    seq: int
    clock: Clock
    video_ns: int
    image: Image
    jpeg: bytes = b""


Message = MaskMessage | StatusMessage | InfoMessage | PreviewMessage
_KINDS: dict[str, type] = {kind.KIND: kind for kind in get_args(Message)}


def topic(source: str, kind: str) -> str:
    """ "rtavsac/v1/<source>/<kind>/"; MessageError for a source whose name does not fit in one."""
    if not _SOURCE.fullmatch(source):
        raise MessageError(f"source {source[:70]!a}: asked 1 to 64 letters, digits, '.', '_' or '-'")
    return f"rtavsac/v{VERSION}/{source}/{kind}/"


def decode(parts: Sequence[bytes]) -> Message:
    """The message in `parts` ([topic, header, payload], further ones ignored); MessageError for anything else."""
    if not isinstance(parts, (list, tuple)) or len(parts) < 3 or not all(type(part) is bytes for part in parts[:3]):
        raise MessageError("message: asked a list of three parts of bytes")
    name, text, payload = parts[:3]
    if len(name) > 128 or len(text) > MAX_HEADER_BYTES or len(payload) > MAX_PAYLOAD_BYTES:
        raise MessageError(f"message: {len(name)}, {len(text)} and {len(payload)} bytes are too long for its parts")
    found = _TOPIC.fullmatch(name.decode("ascii", "replace"))
    if not found or found[3] not in _KINDS:
        raise MessageError(f"topic: asked rtavsac/v{VERSION}/<source>/<kind>/, got {name[:40]!r}")
    source, kind, header = found[2], found[3], headers.loads(text)
    version = header.get("version")
    if type(version) is not int or version != VERSION or found[1] != str(VERSION):
        raise MessageError(f"version: this reader knows {VERSION}, got {version if version in range(1000) else 'odd'}")
    if header.get("schema") != f"rt-avsac.{kind}" or header.get("source") != source:
        raise MessageError(f"header: asked schema rt-avsac.{kind} and source {source!a} as in the topic")
    try:
        if kind == "masks":
            return _masks(header, payload)
        given = {"jpeg": payload} if kind == "preview" else {}
        return cast(Message, headers.read(_KINDS[kind], header, **given))
    except MessageError as error:
        raise MessageError(f"{kind}: {error}") from None


def _masks(header: dict[str, Any], payload: bytes) -> MaskMessage:
    listed = headers.read(_Layout, header)
    grid, limit = listed.mask, listed.model.threshold * 255
    count, objects = len(listed.objects), []
    if min(grid.width, grid.height) < 1 or grid.width * grid.height * max(count, 1) > MAX_MASK_PIXELS:
        raise MessageError(f"{count} masks of {grid.width}x{grid.height}: at most {MAX_MASK_PIXELS} pixels")
    if sum(entry.len for entry in listed.objects) != len(payload):  # also: no bytes are unpacked twice
        raise MessageError(f"objects: their len do not add up to the payload of {len(payload)} bytes")
    for entry in listed.objects:
        if entry.shape != (grid.height, grid.width):
            raise MessageError(f"objects: shape {entry.shape} differs from mask, {(grid.height, grid.width)}")
        if entry.off < 0 or entry.len < 0 or entry.off + entry.len > len(payload):
            raise MessageError(f"objects: {entry.len} bytes from {entry.off} of a payload of {len(payload)}")
        picture = unpack(payload[entry.off : entry.off + entry.len], entry.enc, *entry.shape)
        probability = picture if entry.enc == "u8+zlib" else None
        mask = picture.view(np.bool_) if probability is None else picture >= limit
        mask.flags.writeable = False
        objects.append(MaskObject(**_known(entry), mask=mask, probability=probability))
    return headers.read(MaskMessage, header, objects=tuple(objects))


def _parts(message: Message, payload: bytes = b"", **instead: Any) -> list[bytes]:
    """The three parts; what lies in the payload is not in the header, or as `instead` says."""
    header: dict[str, Any] = {"schema": f"rt-avsac.{message.KIND}", "version": VERSION}
    for name in headers.names(type(message)):  # type: ignore[arg-type]
        if name not in ("objects", "jpeg") and (name != "tracked" or message.tracked):  # type: ignore[union-attr]
            header[name] = headers.plain(getattr(message, name))
    header |= {name: headers.plain(value) for name, value in instead.items()}
    return [topic(message.source, message.KIND).encode(), headers.dumps(header), payload]
