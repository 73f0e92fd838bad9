"""EvalItem: one picture, the sounds it is judged with, and what should light up under each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from train.classes import IGNORE

ORIGINAL, MUTED, NOISE, OFF_SCREEN, SWAP = "original", "muted", "noise", "off-screen", "swap"
NEGATIVES = (MUTED, NOISE, OFF_SCREEN)
CONDITIONS = (ORIGINAL, *NEGATIVES, SWAP)


@dataclass(frozen=True, eq=False)
class EvalItem:
    """image uint8 [H, W, 3] RGB; per condition a sound, float32 [n] mono 16 kHz (or AVSBench's
    log-mel patch [1, 96, 64]), and a mask, uint8 [h, w].

    A mask holds the class of each *sounding* pixel, 0 elsewhere, 255 where nothing counts; a set without classes
    uses 1, and may name what sounds in `label`. Masks under muted, noise and off-screen are empty. "original" is always
    there; the others when the picture allows ("swap" needs a second object that can sound). `clip`: items of one clip
    are one batch of the official F. `sources`: ids of the pictures and recordings inside.
    """

    id: str
    image: NDArray[np.uint8]
    conditions: Mapping[str, NDArray[np.float32]]
    mask_by_condition: Mapping[str, NDArray[np.uint8]]
    class_ids: tuple[int, ...]  # of the objects in the picture that can sound
    mask_quality: str = "human"
    clip: str = ""  # "" = a clip of its own
    sources: tuple[str, ...] = ()
    label: str = ""
    sound_ids: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by condition, the main one first

    def __post_init__(self) -> None:
        assert ORIGINAL in self.conditions
        assert set(self.conditions) == set(self.mask_by_condition), "a mask for each sound"

    def sounding(self, condition: str = ORIGINAL) -> tuple[int, ...]:
        """The classes that sound, by their pixels."""
        present = np.unique(self.mask_by_condition[condition]).tolist()
        return tuple(class_id for class_id in present if class_id not in (0, IGNORE))
