"""TrainSettings and DataSettings: every choice of a training run, as plain values with units."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rt_avsac.config import override, read_file, unknown_key
from rt_avsac.errors import UserError
from rt_avsac.model.settings import ModelSettings


@dataclass(frozen=True)
class DataSettings:
    """What the composed scenes are made of, and how (after VPO: pictures with masks + sounds by class)."""

    root: str = ""  # mapping file, folder in our layout, or AVSBench folder
    kind: Literal["composed", "avsbench_s4", "avsbench_ms3", "avsbench_avss"] = "composed"
    min_object_share: float = 0.02  # objects smaller than this share of the picture are never the sounding one
    paste_share: float = 0.5  # scenes with one or two objects pasted from other pictures
    collage_share: float = 0.15  # scenes made of two pictures side by side
    num_audios: int = 3  # sounds decoded with each picture: original, swapped, negative, …
    negative_share: float = 0.3  # of those sounds: mute, noise, or off-screen
    mixture_share: float = 0.3  # of the positive ones: more than one class is heard
    gain_db: float = 6.0  # each source is louder or softer by up to this
    level_dbfs: tuple[float, ...] = (-45.0, -8.0)  # RMS of the whole mixture, from … to
    ambience_share: float = 0.4  # mixtures with an ambient sound under them
    ambience_snr_db: tuple[float, ...] = (0.0, 20.0)  # from … to
    ambience_labels: tuple[str, ...] = ("rain", "sea_waves", "fire", "air_conditioner", "street_music", "thunder")
    onset_share: float = 0.2  # sources that begin or end inside the window
    min_audible_s: float = 0.35  # … of which at least this much is heard
    pitch_share: float = 0.3  # sources replayed up to 8 % faster or slower
    audio_bank: int = 0  # mixtures made once, their frozen audio-encoder cells cached; 0 = a new mixture every time
    bank_variations: int = 0  # times each of them is changed as if recorded elsewhere, as new recordings will be
    bank_file: str = ""  # where the bank is kept; "" = beside the run


@dataclass(frozen=True)
class TrainSettings:
    """Optimisation. `(paper)` marks the baseline's values, see the configs of the paper's models."""

    seed: int = 0
    epochs: float = 20.0  # one epoch = as many scenes as there are training pictures
    batch_size: int = 16  # scenes (or clips), over all processes
    lr: float = 5e-4
    backbone_lr: float = 1e-4
    audio_lr: float = 0.0  # 0 = audio encoder frozen
    weight_decay: float = 0.05
    warmup_steps: int = 200
    decay_share: float = 0.3  # the last share of the steps, over which the rate falls to zero; constant before
    freeze_backbone_epochs: float = 0.0
    freeze_backbone_parts: int = 0  # never train; EfficientNet-Lite0: stem, then 7 stages
    frozen_batch_norm: Literal["none", "backbone", "all"] = "backbone"  # BatchNorm that keeps its statistics
    small_size: int = 160  # picture side for the first `small_share` of the steps
    small_share: float = 0.6
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU where there is one, one for each process
    precision: Literal["fp32", "bf16"] = "fp32"
    bce_weight: float = 1.0
    dice_weight: float = 1.0
    mix_weight: float = 0.1  # the mixer's mean map
    auxiliary_weight: float = 0.1  # the second mask, of a network that has one
    avfs_weight: float = 0.1
    avfs_form: Literal["kl_frame", "kl_token", "l2_token", "l2_frame", "off"] = "kl_frame"
    class_weight: float = 1.0
    audio_class_weight: float = 0.5
    num_workers: int = 1
    num_threads: int = 0  # torch threads; 0 = torch's own choice
    validate_every: int = 500  # steps
    num_validation_scenes: int = 200
    checkpoint_every: int = 200  # steps
    out: str = "runs/avsac"
    backbone_weights: str = ""  # published ImageNet weights of the picture backbone; these replace `start_from`'s own
    audio_weights: str = ""  # published weights of the audio encoder, or those of train.hear; likewise
    teacher_weights: str = ""  # train.hear: published YAMNet with its class layer, which the encoder must not forget
    distill_weight: float = 0.1  # … and how much that counts
    start_from: str = ""  # a checkpoint to start from
    start_parts: tuple[str, ...] = ()  # modules to take from it; () = all
    freeze_parts: tuple[str, ...] = ()  # modules that never train, such as backbone, pixel_encoder


@dataclass(frozen=True)
class RunSettings:
    """One run: the network, its training, its data."""

    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    train: TrainSettings = dataclasses.field(default_factory=TrainSettings)
    data: DataSettings = dataclasses.field(default_factory=DataSettings)


TABLES = ("model", "train", "data")


def read_run(config: str | Path | None, assignments: dict[str, str]) -> RunSettings:
    """Defaults, then the config's [model], [train] and [data] tables, then key=value.

    A config may name another one beside it, base = "FILE.toml", which is read first.

    A key may name its table (train.lr=1e-4) or not (lr=1e-4). UserError for an unknown one, with a suggestion.
    """
    run = RunSettings()
    if config is not None:
        for path, tables in reversed(_with_bases(Path(config))):
            for table, changes in tables.items():
                if table not in TABLES or not isinstance(changes, dict):
                    raise unknown_key(table, [*TABLES, "base"], f"config {path}")
                run = _change(run, table, changes, f"config {path}")
    for key, value in assignments.items():
        table, _, name = key.rpartition(".")
        if not table:
            table = next((t for t in TABLES if hasattr(getattr(run, t), name)), "")
        if table not in TABLES:
            known = [item.name for t in TABLES for item in dataclasses.fields(getattr(run, t))]
            raise unknown_key(key, known, "command line")
        run = _change(run, table, {name: value}, "command line")
    if run.train.batch_size < 1 or run.train.epochs <= 0:
        raise UserError("training: batch_size and epochs must be positive")
    return run


def _with_bases(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The config's tables, then those of its base, then of that one's; UserError for a circle."""
    read: list[tuple[Path, dict[str, Any]]] = []
    while True:
        tables = read_file(path)
        base = tables.pop("base", None)
        read.append((path, tables))
        if base is None:
            return read
        path = path.parent / str(base)
        if path in [seen for seen, _ in read]:
            raise UserError(f"config {path}: is its own base; take one `base` out")


def _change(run: RunSettings, table: str, changes: dict[str, Any], where: str) -> RunSettings:
    return dataclasses.replace(run, **{table: override(getattr(run, table), changes, where)})
