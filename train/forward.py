"""One training forward: pictures once, each with several sounds."""

from __future__ import annotations

import torch
from torch import Tensor

from rt_avsac.model.avsac import Avsac, Decoded, Heard, Seen
from train.bank import Bank
from train.losses import sounding_target, total
from train.samples import Batch
from train.settings import TrainSettings


def repeat(seen: Seen, times: int) -> Seen:
    """Each picture `times` times in a row, for as many sounds."""
    if times == 1:
        return seen
    values = [
        tuple(level.repeat_interleave(times, 0) for level in value)
        if isinstance(value, tuple)
        else None
        if value is None
        else value.repeat_interleave(times, 0)
        for value in seen
    ]
    return Seen(*values)  # type: ignore[arg-type]


def hear(net: Avsac, batch: Batch, bank: Bank | None) -> tuple[Heard, Tensor]:
    """→ Heard of B·K sounds, and which classes are in each, bool [B, K, C]."""
    if batch.rows is not None:
        assert bank is not None
        rows = batch.rows.flatten()
        device = batch.image.device
        flags = bank.heard[rows].unflatten(0, tuple(batch.rows.shape)).to(device)
        return net.hear_cells(bank.cells[rows].to(device).float()), flags
    assert batch.audio is not None
    return net.hear(batch.audio.flatten(0, 1)), batch.heard.bool()


def losses(net: Avsac, batch: Batch, bank: Bank | None, settings: TrainSettings) -> dict[str, Tensor]:
    """The weighted parts of the loss, and their "total"."""
    image = batch.image.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
    seen = net.see(image)
    heard, flags = hear(net, batch, bank)
    decoded: Decoded = net.decode(repeat(seen, flags.shape[1]), heard)
    target, valid = sounding_target(batch.label, flags)
    sides = [batch.image.shape[1] // stride for stride in net.settings.token_strides]
    return total(seen, heard, decoded, batch.label, flags.flatten(0, 1), target, valid, sides, settings)
