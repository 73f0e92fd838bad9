"""The JSON Schema of the headers against messages as they leave the socket, and against the reader."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
import zmq
from wire_samples import each_kind, masks

from rt_avsac.header import MessageError
from rt_avsac.messages import MAX_HEADER_BYTES, Message, decode
from rt_avsac.publish import Publisher

SCHEMA = json.loads((files("rt_avsac") / "schema" / "masks.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def described(schema: dict[str, Any], header: Any, where: str = "") -> list[str]:
    """Fields of the header that the schema does not mention."""
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if isinstance(header, list):
        return [name for item in header for name in described(schema["items"], item, where)] if header else []
    if not isinstance(header, dict) or "additionalProperties" in schema:
        return []
    known = schema.get("properties", {})
    missing = [f"{where}.{name}" for name in header if name not in known]
    return missing + [
        name for key in header if key in known for name in described(known[key], header[key], f"{where}.{key}")
    ]


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("message", [*each_kind(), masks(tracked=True)], ids=lambda message: message.KIND)
def test_messages_on_a_socket_are_as_the_schema_says(message: Message) -> None:
    with Publisher("tcp://127.0.0.1:0") as publisher, zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.subscribe(b"rtavsac/v1/")
        socket.connect(publisher.endpoint)
        while not socket.poll(20):
            publisher.send(message)
        topic, text, _ = socket.recv_multipart()
    header = json.loads(text)
    assert len(text) < MAX_HEADER_BYTES
    assert topic == f"rtavsac/v1/cam0/{message.KIND}/".encode()
    VALIDATOR.validate(header)
    assert described(SCHEMA["$defs"][message.KIND], header) == []


def places(header: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a header."""
    items = header.items() if isinstance(header, dict) else enumerate(header) if isinstance(header, list) else ()
    return [place for key, value in items for place in [(*path, key), *places(value, (*path, key))]]


@pytest.mark.parametrize("message", [each_kind()[0], *each_kind()[2:]], ids=lambda message: message.KIND)
def test_the_schema_and_the_reader_refuse_the_same(message: Message) -> None:
    """Whatever one place of the header is replaced with; numbers out of range are the reader's own business."""
    topic, text, payload = message.encode()
    good = json.loads(text)
    for path in places(good):
        for value in (..., None, "x\x07y" * 400, [], {}, [None], True, 0.5):
            header = copy.deepcopy(good)
            part = header
            for key in path[:-1]:
                part = part[key]
            if value is ...:
                if isinstance(part, list):
                    continue
                del part[path[-1]]
            else:
                part[path[-1]] = value
            try:
                decode([topic, json.dumps(header).encode(), payload])
                fine = True
            except MessageError as error:
                fine = False
                if "add up" in str(error):  # objects that do not fit the payload
                    continue
            assert VALIDATOR.is_valid(header) == fine, (path, value)
