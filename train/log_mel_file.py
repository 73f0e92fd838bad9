"""Reads AVSBench's .pkl log-mel files without running what is inside: only tensors and arrays are let through."""

from __future__ import annotations

import collections
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rt_avsac.errors import UserError, reason


def _storage(content: bytes) -> Any:
    """What torch keeps inside a pickled tensor, itself a small file."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _allowed() -> dict[tuple[str, str], Any]:
    reconstruct, from_buffer = np.empty(1).__reduce__()[0], np.empty(1).__reduce_ex__(5)[0]  # type: ignore[index]
    table: dict[tuple[str, str], Any] = {
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch.storage", "_load_from_bytes"): _storage,
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
    }
    for package in ("numpy.core", "numpy._core"):  # before and since numpy 2
        table[(f"{package}.multiarray", "_reconstruct")] = reconstruct
        table[(f"{package}.numeric", "_frombuffer")] = from_buffer
    return table


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _allowed().get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no tensor")
        return found


def read_log_mel(path: Path) -> NDArray[np.float32]:
    """float32 [n, 1, 96, 64]: log(mel + 0.01) patches, patch k of [0.96 k, 0.96 (k + 1)] s. UserError otherwise."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"log-mel file {path}: cannot be read: {error.strerror}") from None
    try:
        value = _storage(content) if content.startswith(b"PK") else _Unpickler(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle raises almost anything
        raise UserError(f"log-mel file {path}: refused or damaged: {reason(error)}") from None
    if isinstance(value, torch.Tensor):
        value = value.detach().float().numpy()
    if not isinstance(value, np.ndarray) or value.ndim != 4 or value.shape[1:] != (1, 96, 64):
        got = list(value.shape) if isinstance(value, np.ndarray) else type(value).__name__
        raise UserError(f"log-mel file {path}: asked patches [n, 1, 96, 64], got {got}")
    return np.ascontiguousarray(value, dtype=np.float32)
