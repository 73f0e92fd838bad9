"""Calibration windows: seeded, listed and hashed; every class that can sound, silence, noise and off-screen sounds."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_avsac.errors import UserError
from rt_avsac.infer import fit_audio
from rt_avsac.model.settings import NUM_AUDIO_SAMPLES
from rt_avsac.record import HEAD
from rt_avsac.scale import scale

SCENES_PER_SAMPLE = 6  # so many scenes are looked at for each window asked for: rare classes get their turn
NEGATIVE_STRATA = ("muted", "noise", "off-screen")


@dataclass(frozen=True, eq=False)
class Sample:
    """What enters the network: image uint8 [S, S, 3], audio float32 [15600]; `stratum`: what it stands for."""

    id: str
    stratum: str
    image: NDArray[np.uint8]
    audio: NDArray[np.float32]
    sha256: str = field(default="")

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.image.tobytes() + self.audio.tobytes()).hexdigest()
        object.__setattr__(self, "sha256", digest)

    def listing(self) -> dict[str, str]:
        return {"id": self.id, "stratum": self.stratum, "sha256": self.sha256}


def make(name: str, stratum: str, image: NDArray[np.uint8], audio: NDArray[np.float32], size: int) -> Sample:
    return Sample(name, stratum, scale(image, size), np.ascontiguousarray(fit_audio(audio, NUM_AUDIO_SAMPLES)))


def collect(data: str | Path, num: int, seed: int, size: int, split: str = "train") -> list[Sample]:
    """`num` windows of a data folder or mapping (as for training), or of a recording of `rt-avsac record`.

    The same seed gives the same windows. UserError when the data give none.
    """
    if num < 1:
        raise UserError(f"calibration: asked {num} windows; ask at least 1")
    path = Path(data)
    found = of_recording(path, size) if (path / HEAD).is_file() else of_scenes(path, num, seed, size, split)
    chosen = stratified(list(found), num, seed)
    if not chosen:
        raise UserError(f"calibration data {data}: no windows in it (split {split!r})")
    return chosen


def of_scenes(data: Path, num: int, seed: int, size: int, split: str) -> Iterator[Sample]:
    """Composed scenes under each of their sounds; stratum = the class that sounds, or the kind of nothing."""
    from train.classes import CLASSES
    from train.compose import evaluation_items

    for item in evaluation_items(data, seed, num * SCENES_PER_SAMPLE, split):
        for condition, audio in item.conditions.items():
            classes = item.sounding(condition)
            stratum = condition if condition in NEGATIVE_STRATA else "+".join(CLASSES[class_id] for class_id in classes)
            yield make(f"{item.id}/{condition}", stratum, item.image, audio, size)


def of_recording(folder: Path, size: int) -> Iterator[Sample]:
    """The windows of an own recording; stratum = quiet, or a fifth of the time that it covers."""
    from rt_avsac.infer import rms_dbfs
    from rt_avsac.replay import Recording

    with Recording(folder, realtime=False) as recording:
        quiet = recording.settings.silence_dbfs
        windows = []
        while (window := recording.next(0.0)) is not None:
            silent = window.status == "missing" or rms_dbfs(window.audio) < quiet
            name = f"{folder.name}/{window.frame.index}"
            windows.append(make(name, "muted" if silent else "heard", window.frame.image, window.audio, size))
    for index, sample in enumerate(windows):
        part = f"part{index * 5 // len(windows)}"
        yield sample if sample.stratum == "muted" else Sample(sample.id, part, sample.image, sample.audio)


def stratified(samples: list[Sample], num: int, seed: int) -> list[Sample]:
    """Up to `num`, taking one of each stratum in turn, in an order that only the seed decides; no window twice."""
    random = np.random.default_rng(seed)
    strata: dict[str, list[Sample]] = defaultdict(list)
    seen: set[str] = set()
    for sample in samples:
        if sample.sha256 not in seen:
            seen.add(sample.sha256)
            strata[sample.stratum].append(sample)
    queues = [[group[index] for index in random.permutation(len(group))] for _, group in sorted(strata.items())]
    chosen: list[Sample] = []
    while queues and len(chosen) < num:
        for queue in queues:
            if len(chosen) < num:
                chosen.append(queue.pop())
        queues = [queue for queue in queues if queue]
    return chosen
