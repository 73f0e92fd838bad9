"""Bank: mixtures made once, with what the frozen audio encoder makes of them; saves its pass in every step."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from train.device import device_of
from train.settings import DataSettings
from train.sound import Mixture, Sounds, mix, mute, only_noise
from train.vary import elsewhere

BATCH = 64
Say = Callable[[str], None]


class Bank:
    """`cells` float16 [N, d, h, w]; `heard` bool [N, C]; rows by what is heard in them. In the host's memory."""

    def __init__(self, cells: Tensor, heard: Tensor) -> None:
        self.cells, self.heard = cells, heard
        self.rows: dict[frozenset[int], list[int]] = defaultdict(list)
        for row, flags in enumerate(heard):
            self.rows[frozenset(torch.nonzero(flags).flatten().tolist())].append(row)


def draw_mixture(rng: np.random.Generator, sounds: Sounds, settings: DataSettings) -> Mixture:
    """Any mixture: 1 of 6 a negative, 3 of 6 one class, 2 of 6 two, a few of three."""
    kind = rng.random()
    if kind < 0.02:
        return mute(rng)
    if kind < 0.05:
        return only_noise(rng, settings)
    if kind < 0.17:
        return mix(rng, sounds, [0] * (2 if rng.random() < 0.2 else 1), settings)
    number = 1 if kind < 0.62 else 2 if kind < 0.96 else 3
    classes = [int(c) for c in rng.choice(sounds.classes, size=number, replace=False)]
    return mix(rng, sounds, classes, settings)


@torch.no_grad()
def build(encoder: nn.Module, sounds: Sounds, settings: DataSettings, num_classes: int, say: Say) -> Bank:
    """`settings.audio_bank` mixtures through the encoder, wherever it is; says how far it is."""
    cells, heard, began = [], torch.zeros(settings.audio_bank, num_classes, dtype=torch.bool), time.monotonic()
    encoder.eval()
    device = device_of(encoder)
    for start in range(0, settings.audio_bank, BATCH):
        windows = []
        for row in range(start, min(start + BATCH, settings.audio_bank)):
            rng = np.random.default_rng((row, 77))
            mixture = draw_mixture(rng, sounds, settings)
            window = mixture.samples
            for _ in range(settings.bank_variations):
                window = elsewhere(rng, window)
            windows.append(np.clip(window, -1.0, 1.0))
            heard[row, list(mixture.heard)] = True
        cells.append(encoder(torch.from_numpy(np.stack(windows)).to(device)).half().cpu())
        done = start + len(windows)
        if start % (BATCH * 20) == 0:
            left_s = (time.monotonic() - began) / done * (settings.audio_bank - done)
            say(f"audio bank: {done}/{settings.audio_bank} mixtures, {left_s:.0f} s left")
    return Bank(torch.cat(cells), heard)


def load_or_build(
    path: Path, encoder: nn.Module, sounds: Sounds, settings: DataSettings, num_classes: int, say: Say
) -> Bank:
    """The bank kept at `path`, if it is one of the same settings and encoder; else a new one, kept there."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    weights = sum(parameter.cpu().double().sum().item() for parameter in encoder.parameters())
    key = repr((dataclasses.replace(settings, bank_file=""), num_classes, weights))
    if path.is_file():
        with safe_open(path, "pt") as file:
            same = (file.metadata() or {}).get("key") == key
        if same:
            state = load_file(path)
            return Bank(state["cells"], state["heard"].bool())
    bank = build(encoder, sounds, settings, num_classes, say)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file({"cells": bank.cells, "heard": bank.heard.to(torch.uint8)}, temporary, {"key": key})
    os.replace(temporary, path)
    return bank
