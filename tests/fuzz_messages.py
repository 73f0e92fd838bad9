"""Throws damaged messages at the decoder: python tests/fuzz_messages.py --count 1000000 --seed 1

Every input must come out as a message that can be sent on, or as one MessageError of one short line; anything else is
printed with the input that caused it, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import random
import re
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from wire_samples import each_kind, mask_object, masks

from rt_avsac.header import MessageError
from rt_avsac.messages import MaskMessage, decode

VALUES = [
    None, True, False, 0, -1, 1, 7, 223, 224, 225, 255, 4096, 2**24, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 10**40,
    0.5, -0.0, 1e-320, 1e308, "", "0", "cam0", "masks", "bits", "raw", "bits+zlib", "u8+zlib", "png", "\x00", "\ud800",
    "x" * 1025, "é", [], [0], [0] * 6, [224, 224], [[[[]]]], {}, {"": {}}, {"id": 0},
]  # fmt: skip
CHUNKS = [
    b"",
    b"\x00",
    b"\xff",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"\\",
    b"NaN",
    b"1e999",
    b"-",
    b"9" * 30,
    b"\\u",
]
_NOW = re.compile(rb"[0-9]{10,}|(?<=monotonic@)[^\"]+")  # the same inputs on every machine, at every time
SMALL = zlib.compress(bytes(224 * 28), 9)


def seeds() -> list[list[bytes]]:
    """Good messages of all kinds and encodings, small ones, so that a mutation is likely to matter."""
    made = [message.encode() for message in each_kind()]
    random_map = np.random.default_rng(0).integers(0, 256, (5, 9), dtype=np.uint8)
    item = dataclasses.replace(mask_object(), mask=random_map > 127)
    grid = dataclasses.replace(masks().mask, width=9, height=5)
    for encoding in ("bits+zlib", "bits", "raw"):
        made.append(masks(mask=grid, objects=(item, item)).encode(encoding))
    probable = dataclasses.replace(item, probability=random_map)
    made.append(masks(mask=grid, objects=(probable,), tracked=True).encode())
    return [[name, _NOW.sub(b"1234567890123", text), payload] for name, text, payload in made]


def bytes_of(rng: random.Random, data: bytes) -> bytes:
    """`data` with some bytes changed, cut out, put in or repeated."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at, span = rng.randrange(len(out) + 1), rng.choice((1, 1, 2, 8, 64))
        what = rng.randrange(6)
        if what == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif what == 1 and out:
            out[at % len(out)] = rng.randrange(256)
        elif what == 2:
            del out[at : at + span]
        elif what == 3:
            out[at:at] = rng.choice(CHUNKS)
        elif what == 4:
            out[at:at] = rng.randbytes(span)
        else:
            out[at:at] = out[at : at + span]
    return bytes(out)


def header_of(rng: random.Random, text: bytes, payload: bytes) -> tuple[bytes, bytes]:
    """The header with some of its values replaced, removed, moved or doubled; lengths are sometimes made to fit."""
    header = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        part, key, above = header, None, None
        while isinstance(part, (dict, list)) and part and (above is None or rng.random() < 0.8):
            above, key = part, rng.choice(list(part) if isinstance(part, dict) else range(len(part)))
            part = part[key]
        if above is None:
            continue
        what = rng.randrange(5)
        if what == 0:
            del above[key]
        elif what == 1:
            above[rng.choice(list(header)) if isinstance(above, dict) else key] = copy.deepcopy(part)
        elif what == 2 and isinstance(above, list):
            above *= rng.choice((2, 3, 300))
        elif what == 3 and isinstance(part, int):
            above[key] = part + rng.choice((-1, 1, -part, part))
        else:
            above[key] = copy.deepcopy(rng.choice(VALUES))
    if rng.random() < 0.2 and isinstance(header, dict):
        payload = rng.choice((SMALL, SMALL[:-1], SMALL + b"x", zlib.compress(bytes(rng.randrange(5000)), 1)))
        entries = header.get("objects")
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                entry["off"], entry["len"] = 0, len(payload) // len(entries)
    return json.dumps(header, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass"), payload


def inputs(seed: int) -> Iterator[list[bytes]]:
    rng, good = random.Random(seed), seeds()
    while True:
        parts = list(rng.choice(good))
        what = rng.random()
        if what < 0.5:
            parts[1], parts[2] = header_of(rng, parts[1], parts[2])
        elif what < 0.95:
            number = rng.choice((0, 1, 1, 1, 2, 2))
            parts[number] = bytes_of(rng, parts[number])
        else:
            parts = [rng.choice(rng.choice(good)) for _ in range(rng.randrange(5))]
        if rng.random() < 0.1 and parts:
            parts.append(rng.choice(parts))
        yield parts


def check(parts: list[bytes]) -> str:
    """What came of it, for the count. Raises for what must not happen."""
    try:
        message = decode(parts)
    except MessageError as error:
        text = str(error)
        if type(error) is not MessageError or not text.isprintable() or len(text) >= 400:
            raise AssertionError(f"not a short line: {text!r}") from error
        return "refused"
    again = decode(message.encode())
    assert type(again) is type(message)
    if isinstance(message, MaskMessage) and isinstance(again, MaskMessage):
        for one, other in zip(message.objects, again.objects, strict=True):
            assert one.mask.shape == (message.mask.height, message.mask.width)
            assert np.array_equal(one.mask, other.mask)
    return message.KIND


def run(count: int, seed: int, say: Callable[[str], None]) -> tuple[Counter[str], float]:
    """`count` inputs → what came of them, and the longest CPU time one took, s. What must not happen is raised."""
    came: Counter[str] = Counter()
    slowest = 0.0
    for number, parts in zip(range(count), inputs(seed), strict=False):
        began = time.thread_time()
        try:
            came[check(parts)] += 1
        except Exception:
            say(f"input {number} of seed {seed}: {parts!r}")
            raise
        slowest = max(slowest, time.thread_time() - began)
        if number % 100_000 == 99_999:
            say(f"{number + 1}: {dict(came)}, slowest {slowest * 1000:.1f} ms")
    return came, slowest


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    began = time.perf_counter()
    came, slowest = run(args.count, args.seed, lambda line: print(line, flush=True))
    result: dict[str, Any] = {"inputs": came.total(), "seed": args.seed, "came_of_them": dict(came), "crashes": 0}
    print(json.dumps(result | {"slowest_ms": round(slowest * 1000, 1), "seconds": round(time.perf_counter() - began)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
