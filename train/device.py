"""Where a run trains: the processor, or the GPU of this process."""

from __future__ import annotations

import os

import torch
from torch import nn

from rt_avsac.errors import UserError


def choose(name: str) -> torch.device:
    """ "auto", "cpu" or "cuda" → the device of this process, made torch's own. UserError without the GPU asked for."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    index, num = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if index >= num:
        raise UserError(f"training: process {index} asked a GPU of its own, torch sees {num}; use device=cpu")
    torch.cuda.set_device(index)
    torch.set_float32_matmul_precision("high")  # TF32: enough for training, several times faster
    return torch.device("cuda", index)


def device_of(net: nn.Module) -> torch.device:
    parameter = next(net.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
