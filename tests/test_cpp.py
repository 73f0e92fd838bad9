"""The C++ and Python example subscribers on a real socket: they compile, run and agree on every mask's area."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq
from wire_samples import mask_object, masks, wait_until

from rt_avsac.messages import MaskMessage, decode
from rt_avsac.publish import Publisher

EXAMPLES = Path(__file__).parent.parent / "examples"
NEEDED = "the C++ example needs: apt-get install g++ libzmq3-dev nlohmann-json3-dev zlib1g-dev"
STRICT = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cpp") / "subscriber"
    source = EXAMPLES / "cpp_subscriber" / "subscriber.cpp"
    built = subprocess.run(
        ["g++", *STRICT, str(source), "-o", str(made), "-lzmq", "-lz"], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, f"{NEEDED}\n{built.stderr}"
    return made


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with process:
            yield process
    finally:
        process.kill()


def odd_masks(number: int) -> MaskMessage:
    """Masks of an odd width, as bits; the second one is a probability map."""
    random = np.random.default_rng(number)
    picture = random.random((61, 83)) < 0.4
    objects = (
        dataclasses.replace(mask_object(0), mask=picture, area_px=int(picture.sum())),
        dataclasses.replace(
            mask_object(1), mask=picture, label="cat", probability=random.integers(0, 256, (61, 83), dtype=np.uint8)
        ),
    )
    return masks(number, mask=dataclasses.replace(masks().mask, width=83, height=61), objects=objects)


def expected(parts: list[bytes]) -> str:
    message = decode(parts)
    assert isinstance(message, MaskMessage)
    items = [f" | {item.label} {item.mask.sum()} px at {' '.join(map(str, item.bbox))}" for item in message.objects]
    return f"mask {message.seq}{''.join(items)}\n"


def test_cpp_and_python_agree_on_every_mask(program: Path) -> None:
    bad = masks(99).encode()
    broken = json.loads(bad[1])
    broken["objects"][0]["len"] = len(bad[2]) + 1
    bomb = zlib.compress(bytes(1 << 26), 9)
    exploding = json.loads(bad[1])
    exploding["objects"][0]["len"] = len(bomb)
    sent = [
        masks(0, 0).encode(),
        masks(1, 5).encode(),
        *(odd_masks(number).encode(encoding) for number, encoding in enumerate(("bits+zlib", "bits", "raw"), 2)),
        [*masks(5, 2).encode(), b"part four"],
        [bad[0], bad[1].replace(b'"version":1', b'"version":2'), bad[2]],
        [bad[0], b"{", b""],
        [bad[0], json.dumps(broken).encode(), bad[2]],
        [bad[0], json.dumps(exploding).encode(), bomb],
        [bad[0], json.dumps(exploding | {"objects": [{}]}).encode(), b""],
        bad[:1],
        [bad[0].replace(b"masks", b"status"), bad[1], b""],
        masks(6, 1).encode(),
    ]
    good = [parts for number, parts in enumerate(sent) if number < 6 or number == len(sent) - 1]
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.linger = 1000
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        with running(str(program), f"tcp://127.0.0.1:{port}", "", str(len(good))) as process:
            assert socket.recv() == b"\x01rtavsac/v1/"
            for parts in sent:
                socket.send_multipart(parts)
            said, complaints = process.communicate(timeout=20)
    assert said.splitlines(keepends=True) == [expected(parts) for parts in good]
    assert complaints.count("refused: ") == 5
    assert "Sanitizer" not in complaints
    assert process.returncode == 0


def test_cpp_subscribes_to_one_source_of_the_publisher(program: Path) -> None:
    with (
        Publisher("tcp://127.0.0.1:0") as publisher,
        running(str(program), publisher.endpoint, "cam1", "1") as process,
    ):

        def send() -> None:
            for source in ("cam10", "cam1"):
                publisher.send(masks(3, 1, source=source))

        wait_until(lambda: process.poll() is not None, doing=send)
        assert process.communicate()[0] == expected(masks(3, 1, source="cam1").encode())


def test_the_python_example_says_the_same() -> None:
    message = masks(7, 2)
    with Publisher("tcp://127.0.0.1:0") as publisher:
        command = (sys.executable, str(EXAMPLES / "python_subscriber.py"), publisher.endpoint)
        with running(*command) as process:
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            said: list[str] = []

            def read() -> bool:
                said.append(process.stdout.readline() if process.stdout else "")
                return "dog" in said[-1]

            wait_until(read, doing=lambda: publisher.send(message))
            process.kill()
    first, second = message.objects
    assert f"dog {first.mask.sum()} px at (57, 21, 86, 43), dog {second.mask.sum()} px" in said[-1]
