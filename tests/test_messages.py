"""The wire to the letter: fields, encodings, and what readers ignore."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import zlib
from typing import Any

import numpy as np
import pytest
from wire_samples import FIELDS, changed, each_kind, mask_object, masks, same, status

from rt_avsac.clock import Clock
from rt_avsac.messages import Audio, MaskMessage, Message, StatusMessage, decode


def header_of(message: Message) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(message.encode()[1])
    return header


def test_the_header_has_these_fields_in_this_order() -> None:
    header = header_of(masks())
    for name, fields in FIELDS.items():
        part = {"": header, "objects": header["objects"][0]}.get(name) or header[name]
        assert list(part) == fields.split(), name
    assert (header["schema"], header["version"]) == ("rt-avsac.masks", 1)
    assert list(header["latency_ms"]) == ["capture", "wait", "pre", "infer", "post", "total"]
    entry = header["objects"][0]
    assert (entry["enc"], entry["shape"], entry["off"]) == ("bits+zlib", [224, 224], 0)


def test_topics_end_with_a_slash_and_three_parts_are_sent() -> None:
    for message in each_kind():
        parts = message.encode()
        assert parts[0] == f"rtavsac/v1/cam0/{message.KIND}/".encode()
        assert len(parts) == 3


@pytest.mark.parametrize("message", each_kind(), ids=lambda message: message.KIND)
def test_a_message_survives_the_wire(message: Message) -> None:
    assert same(message, decode(message.encode()))


@pytest.mark.parametrize("encoding", ["bits+zlib", "bits", "raw"])
@pytest.mark.parametrize("size", [(224, 224), (1, 1), (13, 9), (640, 3)])
def test_every_encoding_keeps_every_pixel(encoding: Any, size: tuple[int, int]) -> None:
    width, height = size
    random = np.random.default_rng(width)
    pictures = [random.random((height, width)) < share for share in (0.0, 0.3, 1.0)]
    base = mask_object()
    objects = tuple(dataclasses.replace(base, id=number, mask=mask) for number, mask in enumerate(pictures))
    grid = dataclasses.replace(masks().mask, width=width, height=height)
    message = decode(masks(mask=grid, objects=objects).encode(encoding))
    assert isinstance(message, MaskMessage)
    for item, picture in zip(message.objects, pictures, strict=True):
        assert item.mask.dtype == np.bool_
        assert np.array_equal(item.mask, picture)
        assert not item.mask.flags.writeable


def test_bits_are_rows_packed_msb_first() -> None:
    mask = np.zeros((2, 10), np.bool_)
    mask[0, 0] = mask[1, 9] = True
    item = dataclasses.replace(mask_object(), mask=mask)
    message = masks(mask=dataclasses.replace(masks().mask, width=10, height=2), objects=(item,))
    assert message.encode("bits")[2] == bytes([0b10000000, 0, 0, 0b01000000])
    assert zlib.decompress(message.encode()[2]) == message.encode("bits")[2]
    assert message.encode()[2] == zlib.compress(message.encode("bits")[2], 1)


def test_a_probability_map_is_cut_at_the_threshold() -> None:
    probability = np.arange(224 * 224, dtype=np.uint32).astype(np.uint8).reshape(224, 224)
    item = dataclasses.replace(mask_object(), probability=probability)
    parts = masks(objects=(item,)).encode()
    assert json.loads(parts[1])["objects"][0]["enc"] == "u8+zlib"
    message = decode(parts)
    assert isinstance(message, MaskMessage)
    assert np.array_equal(message.objects[0].probability, probability)
    assert np.array_equal(message.objects[0].mask, probability >= 127.5)


def test_silence_is_a_message_without_objects() -> None:
    parts = masks(count=0).encode()
    assert json.loads(parts[1])["objects"] == []
    assert parts[2] == b""


def test_unknown_fields_and_further_parts_are_ignored() -> None:
    def add(header: dict[str, Any]) -> None:
        header["new"] = {"deep": [1, None, "x"]}
        for part in ("clock", "t", "image", "mask", "model", "audio"):
            header[part]["new"] = None
        header["objects"][0]["velocity"] = [0.5, None]

    message = masks()
    assert same(message, decode([*changed(message, add), b"part four", b""]))


def test_digital_silence_and_lines_of_drivers_fit_in_json() -> None:
    assert header_of(masks(audio=Audio("ok", -math.inf, True, False)))["audio"]["rms_dbfs"] == -200.0
    received = decode(status(text="camera lost:\n\tno such device \ud800" + "x" * 5000).encode())
    assert isinstance(received, StatusMessage)
    assert received.text.startswith("camera lost:  no such device  x")
    assert len(received.text) == 1024


def test_tracked_travels_only_when_true() -> None:
    message = decode(masks(tracked=True).encode())
    assert isinstance(message, MaskMessage)
    assert message.tracked


def test_clocks() -> None:
    here = Clock.here()
    assert re.fullmatch(r"monotonic@\S+", here.id)
    assert here.offset_ns() == 0
    elsewhere = Clock("monotonic@another-boot", here.realtime_offset_ns + 5_000_000_000)
    offset_ns = elsewhere.offset_ns()
    assert offset_ns is not None
    assert abs(offset_ns - 5_000_000_000) < 1_000_000_000  # the wall clock may be stepped a little meanwhile
    assert Clock("media", 0).offset_ns() is None


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan")])
def test_nan_is_not_sent(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        masks(t=dataclasses.replace(masks().t, av_skew_ms=value)).encode()


def test_masks_of_another_size_than_said_are_not_sent() -> None:
    with pytest.raises(ValueError, match="224"):
        masks(objects=(mask_object(width=100),)).encode()
    with pytest.raises(ValueError, match="source"):
        masks(source="cam/0").encode()
