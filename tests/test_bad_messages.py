"""Bytes that are no message: each is one ValueError of one line, and takes no memory."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from typing import Any

import pytest
from wire_samples import FIELDS, changed, info, masks, preview, same, status

from rt_avsac.header import MessageError
from rt_avsac.messages import decode


def test_the_error_is_a_value_error() -> None:
    assert issubclass(MessageError, ValueError)


def setting(*path: Any, value: Any) -> Any:
    """A change that sets header[path[0]][path[1]]… to value, or removes it for `...`."""

    def change(header: Any) -> None:
        for key in path[:-1]:
            header = header[key]
        if value is ...:
            del header[path[-1]]
        else:
            header[path[-1]] = value

    return change


WRONG_FIELDS = [
    *[setting(name, value=...) for name in FIELDS[""].split() if name not in ("drops",)],
    *[
        setting(part, name, value=...)
        for part in ("clock", "t", "image", "mask", "model")
        for name in FIELDS[part].split()
    ],
    *[setting("objects", 0, name, value=...) for name in FIELDS["objects"].split()],
    setting("version", value=2),
    setting("version", value="1"),
    setting("version", value=True),
    setting("schema", value="rt-avsac.status"),
    setting("source", value="cam1"),
    setting("seq", value=1.5),
    setting("seq", value=10**30),
    setting("seq", value=None),
    setting("session", value="a\nb"),
    setting("session", value="x" * 2000),
    setting("t", value=[]),
    setting("t", "video_ns", value="0"),
    setting("t", "video_source", value="guess"),
    setting("t", "av_skew_ms", value=True),
    setting("mask", "to_image", value=[1, 0, 0]),
    setting("mask", "width", value=223),
    setting("mask", "width", value=0),
    setting("mask", "width", value=-224),
    setting("mask", "width", value=2**62),
    setting("audio", "status", value="fine"),
    setting("audio", "silent", value=0),
    setting("drops", value=[1]),
    setting("drops", value={"video": "many"}),
    setting("latency_ms", value={"total": None}),
    setting("objects", value={}),
    setting("objects", value=[7]),
    setting("objects", 0, "bbox", value=[1, 2, 3]),
    setting("objects", 0, "bbox", value=[1, 2, 3, 4.5]),
    setting("objects", 0, "enc", value="png"),
    setting("objects", 0, "enc", value=["bits"]),
    setting("objects", 0, "enc", value="bits"),  # then the length is wrong
    setting("objects", 0, "shape", value=[224]),
    setting("objects", 0, "shape", value=[2**31, 2**31]),
    setting("objects", 0, "off", value=-1),
    setting("objects", 0, "off", value=1),
    setting("objects", 0, "len", value=-1),
    setting("objects", 0, "len", value=10**6),
    setting("objects", 0, "len", value=0),
    lambda header: header["objects"].append(header["objects"][0]),  # the same bytes twice
]


@pytest.mark.parametrize("number", range(len(WRONG_FIELDS)))
def test_wrong_fields_are_one_value_error(number: int) -> None:
    with pytest.raises(MessageError) as raised:
        decode(changed(masks(), WRONG_FIELDS[number]))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


GOOD = masks().encode()
WRONG_PARTS: dict[str, Any] = {
    "no parts": [],
    "one part": GOOD[:1],
    "two parts": GOOD[:2],
    "text": [part.decode("latin-1") for part in GOOD],
    "not a list": b"".join(GOOD),
    "no topic": [b"", *GOOD[1:]],
    "topic without its slash": [GOOD[0][:-1], *GOOD[1:]],
    "topic of version 2": [GOOD[0].replace(b"v1", b"v2"), *GOOD[1:]],
    "topic of another kind": [GOOD[0].replace(b"masks", b"status"), *GOOD[1:]],
    "topic of an unknown kind": [GOOD[0].replace(b"masks", b"music"), *GOOD[1:]],
    "topic in no alphabet": [GOOD[0].replace(b"cam0", b"c\xff"), *GOOD[1:]],
    "topic without end": [GOOD[0] * 1000, *GOOD[1:]],
    "no header": [GOOD[0], b"", GOOD[2]],
    "half a header": [GOOD[0], GOOD[1][: len(GOOD[1]) // 2], GOOD[2]],
    "header and more": [GOOD[0], GOOD[1] + b"}", GOOD[2]],
    "a list for a header": [GOOD[0], b"[1]", GOOD[2]],
    "null": [GOOD[0], b"null", GOOD[2]],
    "not UTF-8": [GOOD[0], b"\xff" + GOOD[1], GOOD[2]],
    "UTF-16": [GOOD[0], GOOD[1].decode().encode("utf-16"), GOOD[2]],
    "NaN": [GOOD[0], GOOD[1].replace(b"-32.5", b"NaN"), GOOD[2]],
    "infinity": [GOOD[0], GOOD[1].replace(b"-32.5", b"-Infinity"), GOOD[2]],
    "1e999": [GOOD[0], GOOD[1].replace(b"-32.5", b"-1e999"), GOOD[2]],
    "long integer": [GOOD[0], GOOD[1].replace(b":1234,", b":" + b"9" * 10000 + b","), GOOD[2]],
    "deep": [GOOD[0], b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", GOOD[2]],
    "escape of a lone surrogate": [GOOD[0], GOOD[1].replace(b'"dog"', b'"\\ud800"'), GOOD[2]],
    "huge header": [GOOD[0], b" " * (1 << 21), GOOD[2]],
    "no payload": [*GOOD[:2], b""],
    "half a payload": [*GOOD[:2], GOOD[2][: len(GOOD[2]) // 2]],
    "payload and more": [*GOOD[:2], GOOD[2] + b"\x00"],
    "payload of something else": [*GOOD[:2], b"\x00" * len(GOOD[2])],
    "huge payload": [*GOOD[:2], b"\x00" * ((1 << 24) + 1)],
}


@pytest.mark.parametrize("name", WRONG_PARTS)
def test_wrong_parts_are_one_value_error(name: str) -> None:
    with pytest.raises(MessageError) as raised:
        decode(WRONG_PARTS[name])
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_truncations_and_flipped_bits_are_refused() -> None:
    parts = masks().encode()
    for cut in range(len(parts[1])):
        with pytest.raises(MessageError):
            decode([parts[0], parts[1][:cut], parts[2]])
    for cut in range(len(parts[2])):
        with pytest.raises(MessageError):
            decode([*parts[:2], parts[2][:cut]])
    for bit in range(8 * len(parts[2])):  # zlib has a checksum
        flipped = bytearray(parts[2])
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            message = decode([*parts[:2], bytes(flipped)])
        except MessageError:
            continue
        assert same(message, decode(parts))  # deflate's padding


def with_payload(data: bytes, **entry: Any) -> list[bytes]:
    parts = changed(masks(), lambda header: header["objects"][0].update(len=len(data), **entry))
    return [*parts[:2], data]


@pytest.mark.parametrize(
    "data",
    [
        zlib.compress(b"\x00" * (224 * 28) + b"\x00", 9),  # one byte too many
        zlib.compress(b"\x00" * (224 * 28 - 1), 9),
        zlib.compress(b"\x00" * (224 * 28), 9) + b"garbage",
        zlib.compress(b"\x00" * (224 * 28), 9)[:-1],
        zlib.compress(b"\x00" * (224 * 28), 9)[:-4] + struct.pack(">I", 0),  # another checksum
        zlib.compress(b"", 9),
        b"",
    ],
)
def test_zlib_data_is_of_exactly_the_mask(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode(with_payload(data))


def test_a_zip_bomb_takes_no_memory() -> None:
    bomb = zlib.compress(bytes(1 << 27), 9)  # 128 KiB that would be 128 MiB
    parts = with_payload(bomb)
    tracemalloc.start()
    with pytest.raises(MessageError):
        decode(parts)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 4 << 20  # its own bytes, cut out of the payload, and the mask


def test_many_masks_of_one_payload_take_no_memory() -> None:
    data = zlib.compress(bytes(4096 * 512), 9)

    def many(header: dict[str, Any]) -> None:
        header["mask"] |= {"width": 4096, "height": 4096}
        header["objects"] = [header["objects"][0] | {"len": len(data), "shape": [4096, 4096]}] * 4000

    parts = [*changed(masks(), many)[:2], data]
    tracemalloc.start()
    with pytest.raises(MessageError, match="at most"):
        decode(parts)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 32 << 20


def test_the_other_kinds_refuse_too() -> None:
    for message, name in ((status(), "state"), (info(), "classes"), (preview(), "image")):
        with pytest.raises(MessageError, match=f"{message.KIND}: {name}: "):
            decode(changed(message, setting(name, value=7)))
        with pytest.raises(MessageError, match=f"{name}: missing"):
            decode(changed(message, setting(name, value=...)))
