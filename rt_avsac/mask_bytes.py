"""Masks <-> bytes: rows packed MSB first, zlib level 1, and their plain variants (stdlib and numpy only)."""

from __future__ import annotations

import zlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rt_avsac.header import MessageError

Encoding = Literal["bits+zlib", "bits", "raw", "u8+zlib"]


def pack(picture: NDArray[Any], encoding: Encoding) -> bytes:
    """bool [h, w] as "bits+zlib", "bits" or "raw" (0 or 1 per byte); uint8 [h, w] probability as "u8+zlib"."""
    wanted = np.uint8 if encoding == "u8+zlib" else np.bool_
    if picture.dtype != wanted:
        raise ValueError(f"mask as {encoding}: asked {wanted.__name__}, got {picture.dtype}")
    data = np.packbits(picture, axis=1).tobytes() if encoding.startswith("bits") else picture.tobytes()
    return zlib.compress(data, 1) if encoding.endswith("zlib") else data


def unpack(data: bytes, encoding: Encoding, height: int, width: int) -> NDArray[np.uint8]:
    """uint8 [h, w]: 0 or 1, or the probability of "u8+zlib". Takes at most h * w bytes, whatever `data` claims."""
    row_bytes = (width + 7) // 8 if encoding.startswith("bits") else width
    size = height * row_bytes
    if encoding.endswith("zlib"):
        data = _inflate(data, size)
    if len(data) != size:
        raise MessageError(f"mask {width}x{height} as {encoding}: asked {size} bytes, got {len(data)}")
    rows = np.frombuffer(data, np.uint8).reshape(height, row_bytes)
    if encoding.startswith("bits"):
        return np.unpackbits(rows, axis=1, count=width)
    return (rows != 0).view(np.uint8) if encoding == "raw" else rows


def _inflate(data: bytes, size: int) -> bytes:
    """Exactly `size` bytes from all of `data`; one more is room enough to see a bomb."""
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise MessageError(f"mask: {error}") from None
    if len(plain) > size or not stream.eof or stream.unused_data:
        raise MessageError(f"mask: zlib data is not of exactly {size} bytes")
    return plain
