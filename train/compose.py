"""Evaluation items composed of pictures and sounds: each with its sound, silence, noise, a stranger's, another's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_avsac.errors import UserError
from rt_avsac.model.settings import NUM_AUDIO_SAMPLES
from train.classes import IGNORE
from train.items import MUTED, NOISE, OFF_SCREEN, ORIGINAL, SWAP, EvalItem
from train.mapping import load_pictures, load_sounds
from train.scene import Pictures, Scene, compose
from train.settings import DataSettings
from train.sound import Mixture, Sounds, mix, noise, rms, set_level, stranger, to_db

MAX_SOUNDING = 3


def evaluation_items(
    data: str | Path,
    seed: int = 0,
    num: int = 500,
    split: str = "val",
    size: int = 320,
    settings: DataSettings | None = None,
) -> Iterator[EvalItem]:
    """`num` scenes of this split, the same for the same seed; every other one with two or more objects that can sound.

    size: picture side in pixels. UserError when pictures and sounds have no class in common.
    """
    settings = settings or DataSettings()
    sounds = Sounds(load_sounds(data, split), settings)
    pictures = Pictures(load_pictures(data, split), sounds.classes, settings)
    if len(pictures.sounding) < 2:
        raise UserError(
            f"evaluation data {data}: asked two classes with both pictures and sounds in split {split!r}, "
            f"got {len(pictures.sounding)}"
        )
    made, index = 0, 0
    while made < num:
        rng = np.random.default_rng((seed, index, 991))
        index += 1
        scene = compose(rng, pictures, settings, size)
        able = [c for c in scene.classes if c in sounds.classes]
        if able and (len(able) > 1) == (made % 2 == 0):
            yield item_of(rng, f"{split}-{seed}-{index}", scene, able, sounds, settings)
            made += 1


def item_of(
    rng: np.random.Generator, name: str, scene: Scene, able: Sequence[int], sounds: Sounds, settings: DataSettings
) -> EvalItem:
    """The scene under every condition it allows; in `mixture_share` of the richer ones several objects sound."""
    order = [int(c) for c in rng.permutation(list(able))]
    several = len(order) > 2 and rng.random() < settings.mixture_share
    sounding = order[: min(len(order) - 1, MAX_SOUNDING)] if several else order[:1]
    original = mix(rng, sounds, sounding, settings)
    outside = stranger(rng, sounds, set(np.unique(scene.label).tolist()))
    mixtures = {
        ORIGINAL: original,
        MUTED: Mixture(np.zeros(NUM_AUDIO_SAMPLES, np.float32), frozenset(), ()),
        NOISE: Mixture(set_level(noise(rng, 0.0), to_db(rms(original.samples))), frozenset(), ()),
    }
    if outside is not None:
        mixtures[OFF_SCREEN] = mix(rng, sounds, [outside], settings)
    if len(order) > len(sounding):
        mixtures[SWAP] = mix(rng, sounds, [order[len(sounding)]], settings)
    return EvalItem(
        id=name,
        image=scene.image,
        conditions={condition: mixture.samples for condition, mixture in mixtures.items()},
        mask_by_condition={
            condition: sounding_mask(scene.label, mixture.heard) for condition, mixture in mixtures.items()
        },
        class_ids=tuple(order),
        mask_quality=scene.quality,
        sources=(*scene.sources, *(source for mixture in mixtures.values() for source in mixture.sources)),
        sound_ids={condition: mixture.sources for condition, mixture in mixtures.items()},
    )


def sounding_mask(label: NDArray[np.uint8], heard: frozenset[int]) -> NDArray[np.uint8]:
    """Class of each pixel whose class is heard, 0 elsewhere, 255 where nothing counts."""
    return np.where(np.isin(label, [*heard, IGNORE]), label, 0).astype(np.uint8)
