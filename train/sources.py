"""What a run trains and validates on: the data set its settings name, opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from rt_avsac.errors import UserError
from train.bank import Bank, Say, load_or_build
from train.classes import CLASSES
from train.mapping import load_pictures, load_sounds
from train.samples import Composed
from train.scene import Pictures
from train.settings import RunSettings
from train.sound import Sounds

LICENCE = "research and non-commercial use: some sources allow no more; see the model card"


@dataclass
class Data:
    """`num_pictures` makes one epoch; `bank` is None unless the sounds were encoded beforehand."""

    samples: Dataset[Any]
    num_pictures: int
    classes: tuple[str, ...]
    licence: str
    bank: Bank | None = None


def open_composed(run: RunSettings, encoder: nn.Module, say: Say) -> Data:
    """Composed scenes of the training split. UserError without pictures or sounds."""
    settings = run.data
    if not settings.root:
        raise UserError("training data: no folder given; add root=FOLDER (a folder or mapping file, see the README)")
    sounds = Sounds(load_sounds(settings.root, "train"), settings)
    pictures = Pictures(load_pictures(settings.root, "train"), sounds.classes, settings)
    if not pictures.sounding:
        raise UserError(f"training data {settings.root}: no class has both pictures and sounds in the training split")
    bank = None
    if settings.audio_bank:
        if run.train.audio_lr > 0:
            raise UserError("training: audio_bank keeps a frozen encoder's output; audio_lr must be 0, or audio_bank=0")
        path = Path(settings.bank_file or Path(run.train.out) / "bank.safetensors")
        bank = load_or_build(path, encoder, sounds, settings, run.model.num_classes, say)
    samples = Composed(pictures, sounds, settings, run.train.seed, run.model.num_classes, bank)
    return Data(samples, len(pictures.items), CLASSES, LICENCE, bank)
