"""Training samples: scene i of a run, with the sounds it is decoded with; the same for the same seed and i."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from rt_avsac.errors import UserError
from train.bank import Bank
from train.scene import Pictures, Scene, compose
from train.settings import DataSettings
from train.sound import Mixture, Sounds, mix, mute, only_noise, stranger


@dataclass
class Batch:
    """image uint8 [B, S, S, 3]; label uint8 [B, S, S]; K sounds each: heard bool [B, K, C] and either
    audio float32 [B, K, n] or bank rows int64 [B, K]. `ids` name the sources."""

    image: Tensor
    label: Tensor
    heard: Tensor
    audio: Tensor | None
    rows: Tensor | None
    ids: list[str]

    def to(self, device: torch.device) -> Batch:
        """On that device, but for `rows`, which stay with the bank."""
        audio = None if self.audio is None else self.audio.to(device)
        return replace(
            self, image=self.image.to(device), label=self.label.to(device), heard=self.heard.to(device), audio=audio
        )


Wanted = frozenset[int] | str


def choose_heard(rng: np.random.Generator, classes: tuple[int, ...], settings: DataSettings) -> list[Wanted]:
    """What the scene's K sounds hold: a subset of its classes, another one, and negatives ("mute", "noise", "off")."""
    wanted: list[Wanted] = []
    subsets = [frozenset(s) for n in (1, 2, 3) for s in combinations(classes, n)]
    single = [s for s in subsets if len(s) == 1]
    several = [s for s in subsets if len(s) > 1]
    for _ in range(settings.num_audios):
        if not subsets or rng.random() < settings.negative_share:
            wanted.append(("mute", "noise", "off", "off", "off")[rng.integers(5)])
        else:
            pool = several if several and rng.random() < settings.mixture_share else single
            fresh = [s for s in pool if s not in wanted] or pool  # the mask has to move with the sound
            wanted.append(fresh[rng.integers(len(fresh))])
    return wanted


class Composed(Dataset[dict[str, object]]):
    """Scene i and its sounds, made on demand; any number of workers."""

    def __init__(
        self, pictures: Pictures, sounds: Sounds, settings: DataSettings, seed: int, num_classes: int, bank: Bank | None
    ) -> None:
        self.pictures, self.sounds, self.settings = pictures, sounds, settings
        self.seed, self.num_classes = seed, num_classes
        self.rows = None if bank is None else dict(bank.rows)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, object]:
        """`key` = (index of the scene, picture side)."""
        index, size = key
        rng = np.random.default_rng((self.seed, index))
        scene = compose(rng, self.pictures, self.settings, size)
        present = frozenset(int(c) for c in np.unique(scene.label))
        classes = tuple(c for c in scene.classes if c in self.sounds.classes)
        wanted = choose_heard(rng, classes, self.settings)
        sample: dict[str, object] = {"image": scene.image, "label": scene.label, "ids": [",".join(scene.sources)]}
        if self.rows is not None:
            picked = [self._row(rng, what, present) for what in wanted]
            return sample | {"rows": np.array(picked)}
        mixtures = [self._mixture(rng, what, present) for what in wanted]
        heard = np.zeros((len(mixtures), self.num_classes), bool)
        for k, mixture in enumerate(mixtures):
            heard[k, list(mixture.heard)] = True
        sample["ids"] = [",".join((*scene.sources, *(s for m in mixtures for s in m.sources)))]
        return sample | {"audio": np.stack([m.samples for m in mixtures]), "heard": heard}

    def _mixture(self, rng: np.random.Generator, what: Wanted, present: frozenset[int]) -> Mixture:
        if what == "mute":
            return mute(rng)
        if what == "noise":
            return only_noise(rng, self.settings)
        outside = stranger(rng, self.sounds, present)
        if outside is None and what == "off":
            return only_noise(rng, self.settings)
        if isinstance(what, str):
            return mix(rng, self.sounds, [outside or 0], self.settings)
        classes = sorted(what)
        if outside is not None and rng.random() < 0.15:  # a sound from outside the picture on top
            classes.append(outside)
        return mix(rng, self.sounds, classes, self.settings)

    def _row(self, rng: np.random.Generator, what: Wanted, present: frozenset[int]) -> int:
        """The bank's row: by what is heard, not how it was made ("mute" and "noise" are rows that hear nothing)."""
        assert self.rows is not None
        absent = [c for c in self.sounds.classes if c not in present]
        if isinstance(what, str):
            key = frozenset[int]()
            if what == "off" and absent and rng.random() < 0.6:
                number = min(int(rng.integers(1, 3)), len(absent))
                key = frozenset(int(c) for c in rng.choice(absent, size=number, replace=False))
        else:
            key = what
            if absent and rng.random() < 0.15:
                key = what | {int(rng.choice(absent))}
        rows = self.rows.get(key)
        if rows is None:  # a rare combination: one of its classes alone
            rows = self.rows.get(frozenset([int(rng.choice(sorted(key)))])) if key else None
        if rows is None:
            raise UserError("training: the audio bank is too small for this data; raise audio_bank or set it to 0")
        return int(rows[rng.integers(len(rows))])


class Steps(Sampler[list[tuple[int, int]]]):
    """The (index, size) keys of each step from `first` on, for this process's part of the batch."""

    def __init__(self, first: int, last: int, batch_size: int, sizes: list[int], rank: int, world: int) -> None:
        if batch_size % world:
            raise UserError(f"training: batch_size {batch_size} must divide by the {world} processes")
        self.first, self.last, self.batch_size, self.sizes = first, last, batch_size, sizes
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        part = self.batch_size // self.world
        for step in range(self.first, self.last):
            start = step * self.batch_size + self.rank * part
            yield [(index, self.sizes[step]) for index in range(start, start + part)]


def collate(samples: list[dict[str, object]]) -> Batch:
    def stack(name: str) -> Tensor | None:
        if name not in samples[0]:
            return None
        return torch.from_numpy(np.stack([sample[name] for sample in samples]))  # type: ignore[misc]

    image, label, heard = stack("image"), stack("label"), stack("heard")
    assert image is not None
    assert label is not None
    ids = [name for sample in samples for name in sample["ids"]]  # type: ignore[attr-defined]
    heard = torch.zeros(0) if heard is None else heard
    return Batch(image, label, heard, stack("audio"), stack("rows"), ids)


__all__ = ["Batch", "Composed", "Scene", "Steps", "choose_heard", "collate"]
