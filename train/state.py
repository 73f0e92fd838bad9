"""The state of a run: network, EMA, optimizer and step, written so that a run resumes exactly where it was."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rt_avsac.errors import DiskError, UserError, reason
from rt_avsac.model.avsac import Avsac
from train.device import device_of
from train.settings import TrainSettings

NO_DECAY = ("gate", "queries", "level", "norm", "bias")


@dataclass
class State:
    """Everything that changes from step to step. `best`: the best validation score so far."""

    net: Avsac
    ema: Avsac
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: float = -1.0


def module_named(net: nn.Module, name: str) -> nn.Module:
    """A direct part of the network; UserError with the names there are."""
    parts = dict(net.named_children())
    if name not in parts:
        raise UserError(f"training: the network has no part {name!r}; it has {', '.join(parts)}")
    return parts[name]


def freeze_early_layers(net: Avsac, parts: int) -> None:
    """The backbone's first `parts` parts never train (EfficientNet-Lite0: the stem, then its seven stages)."""
    children = [
        part for child in net.backbone.children() for part in (child if isinstance(child, nn.ModuleList) else [child])
    ]
    trained = [part for part in children if any(True for _ in part.parameters())]
    for part in trained[:parts]:
        part.requires_grad_(False)


def start(net: Avsac, settings: TrainSettings) -> State:
    freeze_early_layers(net, settings.freeze_backbone_parts)
    for part in settings.freeze_parts:
        module_named(net, part).requires_grad_(False)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        lr = settings.lr
        if name.startswith("backbone."):
            lr = settings.backbone_lr
        elif name.startswith("audio_encoder."):
            lr = settings.audio_lr
        decay = 0.0 if parameter.ndim < 2 or any(word in name for word in NO_DECAY) else settings.weight_decay
        if lr > 0.0:
            groups.setdefault((lr, decay), []).append(parameter)
        else:
            parameter.requires_grad = False
    optimizer = torch.optim.AdamW(
        [{"params": params, "lr": lr, "base_lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]
    )
    return State(net, copy.deepcopy(net).eval().requires_grad_(False), optimizer)


def freeze_batch_norm(net: nn.Module, settings: TrainSettings) -> None:
    """BatchNorm of frozen parts, of the backbone, or all keep their statistics; call after every `net.train()`."""
    frozen = {"none": (), "backbone": ("backbone",), "all": ("",)}[settings.frozen_batch_norm] + settings.freeze_parts
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d) and name.startswith(frozen):
            module.eval()


@torch.no_grad()
def update_ema(state: State, decay: float) -> None:
    """ema = decay * ema + (1 - decay) * net, faster in the first steps; buffers are copied."""
    decay = min(decay, (1 + state.step) / (10 + state.step))
    for kept, new in zip(state.ema.parameters(), state.net.parameters(), strict=True):
        kept.lerp_(new, 1.0 - decay)
    for statistic, current in zip(state.ema.buffers(), state.net.buffers(), strict=True):
        statistic.copy_(current)


def write(path: Path, state: State) -> None:
    """Atomically; DiskError when the disk is full, the last state intact."""
    content = {
        "net": state.net.state_dict(),
        "ema": state.ema.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "best": state.best,
        "torch_rng": torch.get_rng_state(),
    }
    if device_of(state.net).type == "cuda":
        content["cuda_rng"] = torch.cuda.get_rng_state()
    temporary = path.with_suffix(".tmp")
    try:
        torch.save(content, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise DiskError(f"training state {path}: cannot be written: {error}; the last one is kept") from None
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, state: State) -> None:
    """Into `state`; UserError for a file of another network or a damaged one."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state.net.load_state_dict(content["net"])
        state.ema.load_state_dict(content["ema"])
        state.optimizer.load_state_dict(content["optimizer"])
        state.step, state.best = int(content["step"]), float(content["best"])
        torch.set_rng_state(content["torch_rng"])
        if "cuda_rng" in content and device_of(state.net).type == "cuda":
            torch.cuda.set_rng_state(content["cuda_rng"])
    except Exception as error:
        raise UserError(
            f"training state {path}: cannot be resumed: {reason(error)}; name another folder with out=…"
        ) from None
