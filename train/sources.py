"""What a run trains and validates on: the data set its settings name, opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from rt_avsac.errors import UserError
from train.avsbench import AvsBench, Kind
from train.bank import Bank, Say, load_or_build
from train.bench_samples import BenchSamples
from train.classes import BINARY, CLASSES
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


def open_data(run: RunSettings, encoder: nn.Module, say: Say) -> Data:
    """The training split of the data set that `run.data.kind` names."""
    if not run.data.root:
        raise UserError("training data: no folder given; add root=FOLDER (a folder or mapping file, see the README)")
    return open_composed(run, encoder, say) if run.data.kind == "composed" else open_avsbench(run)


def open_avsbench(run: RunSettings) -> Data:
    """The labelled frames of AVSBench's training split. UserError when the network has other classes."""
    if run.data.audio_bank:
        raise UserError("training: audio_bank is for composed scenes; AVSBench frames have sounds of their own")
    kind: Kind = run.data.kind.removeprefix("avsbench_")  # type: ignore[assignment]
    bench = AvsBench(kind, run.data.root, "train")
    num_outputs = len(bench.classes) if kind == "avss" else 1
    if run.model.num_classes != num_outputs:
        raise UserError(
            f"training: {run.data.kind} needs num_classes={num_outputs}, {run.model.name} has {run.model.num_classes}"
        )
    samples = BenchSamples(bench, run.train.seed, run.model.num_classes)
    return Data(samples, len(bench.labelled), bench.classes, "AVSBench: CC BY-NC 4.0, non-commercial")


def open_composed(run: RunSettings, encoder: nn.Module, say: Say) -> Data:
    """Composed scenes of the training split. UserError without pictures or sounds."""
    settings = run.data
    if run.model.num_classes not in (1, len(CLASSES)):
        raise UserError(
            f"training: composed scenes have {len(CLASSES)} classes; num_classes asked {run.model.num_classes}, "
            f"give {len(CLASSES)}, or 1 for a mask alone (with class_match=false)"
        )
    sounds = Sounds(load_sounds(settings.root, "train"), settings)
    pictures = Pictures(load_pictures(settings.root, "train"), sounds.classes, settings)
    if not pictures.sounding:
        raise UserError(f"training data {settings.root}: no class has both pictures and sounds in the training split")
    bank = None
    if settings.audio_bank:
        if run.train.audio_lr > 0:
            raise UserError("training: audio_bank keeps a frozen encoder's output; audio_lr must be 0, or audio_bank=0")
        path = Path(settings.bank_file or Path(run.train.out) / "bank.safetensors")
        bank = load_or_build(path, encoder, sounds, settings, len(CLASSES), say)
    samples = Composed(pictures, sounds, settings, run.train.seed, len(CLASSES), bank)
    classes = CLASSES if run.model.num_classes > 1 else BINARY
    return Data(samples, len(pictures.items), classes, LICENCE, bank)
