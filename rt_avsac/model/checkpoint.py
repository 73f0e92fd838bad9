"""Checkpoints: safetensors with the settings inside; tensors and plain values only, nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from rt_avsac.config import override
from rt_avsac.errors import ModelError, UserError, reason
from rt_avsac.model.avsac import Avsac
from rt_avsac.model.settings import ModelSettings

FORMAT = 1
METADATA_KEY = "rt_avsac"
LEAST = {"image_size": 32, "num_classes": 1, "dim": 1, "mask_dim": 1, "num_heads": 1, "num_queries": 1, "num_layers": 1}
LARGEST = 8192


def save(path: str | Path, net: Avsac, classes: list[str], extra: dict[str, Any], half: bool = False) -> None:
    """Writes weights, settings, class names and `extra` (plain values) to `path`, atomically."""
    from safetensors.torch import save_file

    header = {"format": FORMAT, "settings": dataclasses.asdict(net.settings), "classes": classes, **extra}
    state = {
        key: value.detach().to(torch.float16 if half and value.is_floating_point() else value.dtype).contiguous().cpu()
        for key, value in net.state_dict().items()
    }
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        save_file(state, temporary, {METADATA_KEY: json.dumps(header)})
        os.chmod(temporary, 0o644)  # safetensors lets nobody else read it
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_header(path: str | Path) -> dict[str, Any]:
    """Settings, classes and the rest, without the weights. ModelError for anything that is not such a file."""
    from safetensors import safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise ModelError(f"model {path}: no such file") from None
    except Exception as error:
        raise ModelError(f"model {path}: not a readable safetensors checkpoint: {error}") from None
    try:
        header = json.loads(metadata[METADATA_KEY])
    except (KeyError, ValueError, RecursionError):
        raise ModelError(f"model {path}: no rt-avsac settings inside; make one with `python -m train`") from None
    if not isinstance(header, dict):
        raise ModelError(f"model {path}: asked a table of settings inside, got a {type(header).__name__}; make it anew")
    if header.get("format") != FORMAT:
        raise ModelError(f"model {path}: format {header.get('format')!r}, this version reads {FORMAT}; update rt-avsac")
    settings, classes = header.get("settings"), header.get("classes")
    if not isinstance(settings, dict) or not isinstance(settings.get("name"), str):
        raise ModelError(f"model {path}: no settings with a name inside; make it anew with `python -m train`")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise ModelError(f"model {path}: asked a list of class names inside, got {str(classes)[:40]}; make it anew")
    return header


def load(path: str | Path) -> tuple[Avsac, dict[str, Any]]:
    """The network in eval mode (float32) and its header; ModelError when the file does not fit."""
    from safetensors.torch import load_file

    header = read_header(path)
    try:
        settings = override(ModelSettings(), header["settings"], f"model {path}")
        check_sizes(settings, len(header["classes"]))
        net = Avsac(settings)
        state = {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
        net.load_state_dict(state)
    except UserError as error:
        named = str(error) if str(path) in str(error) else f"model {path}: {str(error).removeprefix('model: ')}"
        raise ModelError(named) from None
    except (RuntimeError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        why = reason(RuntimeError(str(error).partition("Error(s) in loading state_dict for Avsac:")[2] or error))
        raise ModelError(f"model {path}: weights do not fit the settings inside: {why[:200]}") from None
    damaged = next((key for key, value in state.items() if not torch.isfinite(value).all()), None)
    if damaged is not None:
        raise ModelError(f"model {path}: {damaged} holds what is no finite number; the file is damaged")
    return net.eval(), header


def check_sizes(settings: ModelSettings, num_classes: int) -> None:
    """UserError for what no network has, before memory is asked for it. Without class heads names are not counted."""
    for key, least in LEAST.items():
        if not least <= (value := getattr(settings, key)) <= LARGEST:
            raise UserError(f"setting {key}: asked {value}, which is not between {least} and {LARGEST}")
    if settings.num_classes > 1 and settings.num_classes != num_classes:
        raise UserError(f"model: {settings.num_classes} classes asked in its settings, {num_classes} named")


def sha256(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
