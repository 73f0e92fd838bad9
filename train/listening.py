"""Does the model listen? The protocol: the same picture under its own sound, silence, noise, a stranger's, another's.

Definitions (per frame; a pixel is predicted when its sounding probability > 0.5):
- false-positive area: share of the picture predicted under a negative (muted, noise, off-screen).
- frame false alarm: some 8-connected predicted region covers more than 0.5 % of the picture under a negative.
- swap accuracy: when another object sounds instead, the mask moves: its IoU with the newly sounding object is greater
  than its IoU with the one that sounded before (so it is not empty).
- class right: of frames where one class sounds, the class that most predicted pixels carry is that class; nothing
  predicted is wrong. A pixel's class is the product's: the greatest P(pixel is c) x P(c is heard).
- G = harmonic mean of the original mIoU and 1 - (mean over the negatives of the mean IoU with the original's mask).
  Our formula; the published G-mIoU prints none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.classes import IGNORE
from train.items import NEGATIVES, ORIGINAL, SWAP, EvalItem
from train.metrics import Mask, mask_iou

ALARM_SHARE = 0.005  # of the picture
NAN = float("nan")


@dataclass(frozen=True)
class NegativeResult:
    """Under one negative: `miou_original` is the IoU with the mask of what sounded in the original."""

    num_frames: int
    false_positive_area: float
    frame_false_alarm: float
    miou_original: float


@dataclass(frozen=True)
class ListeningResult:
    """nan where no frame could tell."""

    miou_original: float
    negatives: dict[str, NegativeResult]
    g: float
    num_swaps: int
    swap_accuracy: float
    swap_miou: float  # with the newly sounding object
    num_named: int
    class_accuracy: float


def raises_alarm(predicted: Mask) -> bool:
    """Some 8-connected region is larger than ALARM_SHARE of the picture."""
    import cv2

    if np.count_nonzero(predicted) <= ALARM_SHARE * predicted.size:
        return False
    _, _, stats, _ = cv2.connectedComponentsWithStats(predicted.astype(np.uint8), connectivity=8)
    return bool(stats[1:, cv2.CC_STAT_AREA].max() > ALARM_SHARE * predicted.size)


def has_moved(predicted: Mask, new: Mask, old: Mask, valid: Mask) -> bool:
    """The mask lies better on the newly sounding object than on the one before."""
    if not (predicted & valid).any():
        return False
    return mask_iou(predicted, new, valid) > mask_iou(predicted, old, valid)


def named_class(predicted: Mask, class_map: NDArray[np.uint8]) -> int:
    """The class that most predicted pixels carry; 0 when nothing is predicted."""
    votes = class_map[predicted]
    return int(np.bincount(votes).argmax()) if votes.size else 0


def harmonic_mean(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a > 0 and b > 0 else 0.0 if a == a and b == b else NAN


def measure(item: EvalItem, predicted: Mapping[str, Mask], class_map: NDArray[np.uint8] | None) -> dict[str, float]:
    """What one item says, by name; nothing when nothing sounded that could be mistaken.

    `predicted`: bool [h, w] for each of the item's conditions, at the size of its masks; `class_map` uint8 [h, w]:
    class of each pixel under the original sound, None for a model without classes.
    """
    truth = item.mask_by_condition[ORIGINAL]
    valid = truth != IGNORE
    old = (truth != 0) & valid
    if not old.any():
        return {}
    said = {ORIGINAL: mask_iou(predicted[ORIGINAL], old, valid)}
    for name in NEGATIVES:
        if name in predicted:
            mask = predicted[name]
            said[f"{name} area"] = float(mask.mean())
            said[f"{name} alarm"] = float(raises_alarm(mask))
            said[f"{name} iou"] = mask_iou(mask, old, valid)
    if SWAP in predicted:
        after = item.mask_by_condition[SWAP]
        both = valid & (after != IGNORE)
        new = (after != 0) & both
        said["moved"] = float(has_moved(predicted[SWAP], new, old & both, both))
        said["swap iou"] = mask_iou(predicted[SWAP], new, both)
    sounding = item.sounding()
    if class_map is not None and len(sounding) == 1:
        said["named"] = float(named_class(predicted[ORIGINAL], class_map) == sounding[0])
    return said


class ListeningScore:
    """Adds up the protocol over items."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, item: EvalItem, predicted: Mapping[str, Mask], class_map: NDArray[np.uint8] | None) -> None:
        self.note(measure(item, predicted, class_map))

    def note(self, said: Mapping[str, float]) -> None:
        """What `measure` gave, where it counts for several groups."""
        for name, value in said.items():
            self._values[name].append(value)

    def _mean(self, name: str) -> float:
        values = self._values.get(name)
        return float(np.mean(values)) if values else NAN

    def result(self) -> ListeningResult:
        negatives = {
            name: NegativeResult(
                num_frames=len(self._values[f"{name} area"]),
                false_positive_area=self._mean(f"{name} area"),
                frame_false_alarm=self._mean(f"{name} alarm"),
                miou_original=self._mean(f"{name} iou"),
            )
            for name in NEGATIVES
            if f"{name} area" in self._values
        }
        original = self._mean(ORIGINAL)
        mistaken = float(np.mean([each.miou_original for each in negatives.values()])) if negatives else NAN
        return ListeningResult(
            miou_original=original,
            negatives=negatives,
            g=harmonic_mean(original, 1.0 - mistaken),
            num_swaps=len(self._values.get("moved", ())),
            swap_accuracy=self._mean("moved"),
            swap_miou=self._mean("swap iou"),
            num_named=len(self._values.get("named", ())),
            class_accuracy=self._mean("named"),
        )
