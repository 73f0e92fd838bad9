"""The training loop: steps, checkpoints, validation, and what is written of them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader

from rt_avsac.errors import UserError
from rt_avsac.model import checkpoint
from train import state as states
from train.bank import Bank
from train.device import device_of
from train.forward import losses
from train.log import Log
from train.samples import Batch, Steps, collate
from train.schedule import rate, sizes
from train.settings import RunSettings, TrainSettings
from train.sources import Data
from train.state import State

Validate = Callable[[State], dict[str, float]]


def world() -> tuple[int, int]:
    """(rank, number of processes)."""
    if distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def average_gradients(state: State, processes: int) -> None:
    """Mean over all processes, in one message."""
    if processes == 1:
        return
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
    distributed.all_reduce(flat)
    flat /= processes
    offset = 0
    for parameter in parameters:
        parameter.grad.copy_(flat[offset : offset + parameter.numel()].view_as(parameter))
        offset += parameter.numel()


def step(
    state: State, batch: Batch, bank: Bank | None, num_steps: int, frozen: bool, settings: TrainSettings
) -> dict[str, float]:
    """One update; → the parts of the loss. UserError when it is not finite (the state is then that of before)."""
    net, processes = state.net, world()[1]
    net.train()
    states.freeze_batch_norm(net, settings)
    for group in state.optimizer.param_groups:
        group["lr"] = group["base_lr"] * rate(state.step, num_steps, settings)
    state.optimizer.zero_grad(set_to_none=True)
    device = device_of(net)
    batch = batch.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        parts = losses(net, batch, bank, settings)
    loss = parts["total"]
    if not math.isfinite(loss.item()):
        raise UserError(
            f"training: step {state.step}: the loss is {loss.item()}; the last checkpoint is kept; "
            f"lower lr or look at these sources: {'; '.join(batch.ids[:4])}"
        )
    loss.backward()
    if frozen:
        for parameter in net.backbone.parameters():
            parameter.grad = None
    average_gradients(state, processes)
    norm = torch.nn.utils.clip_grad_norm_(
        [p for group in state.optimizer.param_groups for p in group["params"]], settings.clip_norm
    )
    if not math.isfinite(norm.item()):
        raise UserError(
            f"training: step {state.step}: the gradient is {norm.item()}; the last checkpoint is kept; lower lr"
        )
    state.optimizer.step()
    state.step += 1
    states.update_ema(state, settings.ema_decay)
    values = {name: part.item() for name, part in parts.items()}
    if processes > 1:
        values = _mean_over_processes(values, processes, device)
    return values | {"gradient": norm.item()}


def _mean_over_processes(values: dict[str, float], processes: int, device: torch.device) -> dict[str, float]:
    flat: Tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    distributed.all_reduce(flat)
    return dict(zip(values, (flat / processes).tolist(), strict=True))


def run(run_settings: RunSettings, data: Data, state: State, validate: Validate, log: Log) -> State:
    """Trains from `state.step` to the end; resumable at any checkpoint, bit-identical on the CPU."""
    settings, out = run_settings.train, Path(run_settings.train.out)
    rank, processes = world()
    num_steps = max(int(settings.epochs * data.num_pictures / settings.batch_size), 1)
    side = sizes(num_steps, run_settings.model.image_size, settings)
    frozen_steps = int(settings.freeze_backbone_epochs * data.num_pictures / settings.batch_size)
    sampler = Steps(state.step, num_steps, settings.batch_size, side, rank, processes)
    loader = DataLoader(
        data.samples,
        batch_sampler=sampler,
        num_workers=settings.num_workers,
        collate_fn=collate,
        prefetch_factor=4 if settings.num_workers else None,
    )
    began, first = time.monotonic(), state.step
    batches = iter(loader)
    while state.step < num_steps:
        batch = next_batch(batches)
        values = step(state, batch, data.bank, num_steps, state.step < frozen_steps, settings)
        if rank == 0:
            left_s = (time.monotonic() - began) / (state.step - first) * (num_steps - state.step)
            log.step(state.step, num_steps, values, left_s)
        last = state.step == num_steps
        if state.step % settings.validate_every == 0 or last:
            score = validate(state)
            if rank == 0:
                log.validation(state.step, score)
                if score["score"] > state.best:
                    state.best = score["score"]
                    save_model(out / "best.safetensors", run_settings, state, data, score)
                save_model(out / "last.safetensors", run_settings, state, data, score)
        if rank == 0 and (state.step % settings.checkpoint_every == 0 or last):
            states.write(out / "state.pt", state)
    return state


def next_batch(batches: object) -> Batch:
    """UserError for a worker that died; what a worker raised as such."""
    try:
        return next(batches)  # type: ignore[call-overload, no-any-return]
    except UserError:
        raise
    except RuntimeError as error:
        raise UserError(f"training: a data worker died: {str(error).splitlines()[-1]}; start again to resume") from None


def save_model(path: Path, run_settings: RunSettings, state: State, data: Data, score: dict[str, float]) -> None:
    """The EMA's weights with everything that made them."""
    extra = {
        "step": state.step,
        "train": dataclasses.asdict(run_settings.train),
        "data": dataclasses.asdict(run_settings.data),
        "validation": score,
        "licence": data.licence,
    }
    checkpoint.save(path, state.ema, list(data.classes), json.loads(json.dumps(extra)))


def limit_threads(num_threads: int) -> None:
    if num_threads:
        torch.set_num_threads(num_threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
