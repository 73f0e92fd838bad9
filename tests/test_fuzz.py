"""The decoder against damaged and against arbitrary messages; the long run is `python tests/fuzz_messages.py`."""

from __future__ import annotations

import json
import string
from typing import Any

import fuzz_messages
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_samples import masks, same

from rt_avsac.clock import Clock
from rt_avsac.header import MessageError
from rt_avsac.messages import Audio, Image, Mask, MaskObject, Model, Times, decode, topic

INTEGER = st.integers(-(2**63), 2**63 - 1)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=20)  # printable ones
SOURCE = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=64)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGER | NUMBER | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=20), inner, max_size=5),
    max_leaves=20,
)


def test_ten_thousand_damaged_messages() -> None:
    said: list[str] = []
    came, _ = fuzz_messages.run(10_000, 0, said.append)
    assert came.total() == 10_000
    assert min(came[kind] for kind in ("refused", "masks", "status", "info", "preview")) > 50, came


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["masks", "status", "info", "preview"]), JSON, st.binary(max_size=100))
def test_any_json_is_a_message_or_one_error(kind: str, header: Any, payload: bytes) -> None:
    fuzz_messages.check([topic("cam0", kind).encode(), json.dumps(header).encode(), payload])
    known = {"schema": f"rt-avsac.{kind}", "version": 1, "source": "cam0"}
    with pytest.raises(MessageError, match="missing"):
        decode([topic("cam0", kind).encode(), json.dumps(known | {"x": header}).encode(), payload])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_can_be_sent_is_received(data: st.DataObject) -> None:
    draw = data.draw
    width, height = draw(st.integers(1, 70)), draw(st.integers(1, 20))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    objects = tuple(
        MaskObject(
            draw(INTEGER),
            draw(INTEGER),
            draw(TEXT),
            draw(NUMBER),
            draw(st.tuples(INTEGER, INTEGER, INTEGER, INTEGER)),
            draw(st.tuples(NUMBER, NUMBER)),
            draw(INTEGER),
            random.random((height, width)) < draw(st.floats(0, 1)),
        )
        for _ in range(draw(st.integers(0, 4)))
    )
    message = masks(
        draw(INTEGER),
        session=draw(TEXT),
        source=draw(SOURCE),
        clock=Clock(draw(TEXT), draw(INTEGER)),
        t=Times(
            draw(INTEGER),
            draw(st.sampled_from(["v4l2", "pts", "arrival"])),
            draw(INTEGER),
            draw(INTEGER),
            draw(INTEGER),
            draw(NUMBER),
        ),
        image=Image(draw(INTEGER), draw(INTEGER), draw(INTEGER)),
        mask=Mask(width, height, draw(st.tuples(*[NUMBER] * 6))),
        model=Model(draw(TEXT), draw(TEXT), draw(TEXT), draw(TEXT), draw(NUMBER)),
        audio=Audio(
            draw(st.sampled_from(["ok", "late", "missing", "gap"])),
            draw(NUMBER),
            draw(st.booleans()),
            draw(st.booleans()),
        ),
        latency_ms=draw(st.dictionaries(TEXT, NUMBER, max_size=5)),
        drops=draw(st.dictionaries(TEXT, INTEGER, max_size=5)),
        objects=objects,
        tracked=draw(st.booleans()),
    )
    assert same(message, decode(message.encode(draw(st.sampled_from(["bits+zlib", "bits", "raw"])))))
