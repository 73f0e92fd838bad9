"""Every measure of one evaluation, for all items and for each group of them: by mask quality, objects, class."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_avsac.engines import Outputs
from rt_avsac.objects import name_pixels
from train.classes import IGNORE
from train.items import OFF_SCREEN, ORIGINAL, EvalItem
from train.listening import ListeningResult, ListeningScore, measure
from train.metrics import MaskResult, MaskScore, SemanticResult, SemanticScore

ALL, HUMAN, MADE = "all", "human masks", "made masks"
ONE, MORE, SEVERAL = "one object", "two or more", "several sound"
GROUPS = (ALL, HUMAN, MADE, ONE, MORE, SEVERAL)


@dataclass(frozen=True, eq=False)
class Judged:
    """What the model said of one item, at the size of its masks."""

    item: EvalItem
    sounding: dict[str, NDArray[np.float32]]  # by condition: probability [h, w]
    class_map: dict[str, NDArray[np.uint8]] | None  # by condition: class of each pixel, were it to sound
    iou: float  # under the original sound

    def predicted(self, condition: str) -> NDArray[np.bool_]:
        return self.sounding[condition] > 0.5


@dataclass(frozen=True)
class GroupResult:
    """The published measures under the original sound, and the listening protocol."""

    masks: MaskResult
    listening: ListeningResult


class Group:
    def __init__(self) -> None:
        self.masks, self.listening = MaskScore(), ListeningScore()

    def result(self) -> GroupResult:
        return GroupResult(self.masks.result(), self.listening.result())


def resized(image: NDArray[Any], height: int, width: int, nearest: bool = False) -> NDArray[Any]:
    import cv2

    if image.shape == (height, width):
        return image
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=how)


class Scores:
    """`add` one item after the other; memory does not grow with the pictures.

    `classes`: of the data set's masks. `named`: the model's classes are the same, so its class maps are judged too.
    """

    def __init__(self, classes: tuple[str, ...], named: bool) -> None:
        self.classes, self.named = classes, named
        self.groups: dict[str, Group] = {}
        self.by_class: dict[str, Group] = {}
        self.semantic: SemanticScore | None = None
        self.strangers: dict[str, list[float]] = defaultdict(list)  # label of an off-screen sound → alarms

    def add(self, item: EvalItem, outputs: Mapping[str, Outputs]) -> Judged:
        """`outputs`: what the network said under each of the item's conditions."""
        truth = item.mask_by_condition[ORIGINAL]
        valid = truth != IGNORE
        foreground = (truth != 0) & valid
        height, width = truth.shape
        sounding = {name: resized(each.sounding, height, width) for name, each in outputs.items()}
        class_map = None
        if self.named and all(each.class_probability is not None for each in outputs.values()):
            class_map = {name: class_of_pixels(each, height, width) for name, each in outputs.items()}
        predicted = {name: probability > 0.5 for name, probability in sounding.items()}
        said = measure(item, predicted, class_map[ORIGINAL] if class_map else None)
        if f"{OFF_SCREEN} alarm" in said and item.sound_ids.get(OFF_SCREEN):
            label = PurePath(item.sound_ids[OFF_SCREEN][0]).parent.name  # files lie in folders by label
            self.strangers[label].append(said[f"{OFF_SCREEN} alarm"])
        iou = 0.0
        for group in self._groups_of(item):
            iou = group.masks.add(sounding[ORIGINAL], foreground, valid, item.clip or None)
            group.listening.note(said)
        if class_map:
            self.semantic = self.semantic or SemanticScore(len(self.classes))
            named = semantic_map(outputs[ORIGINAL], predicted[ORIGINAL], class_map[ORIGINAL])
            self.semantic.add(named, truth, valid)
        return Judged(item, sounding, class_map, iou)

    def _groups_of(self, item: EvalItem) -> list[Group]:
        names = [ALL, HUMAN if item.mask_quality.startswith("human") else MADE]
        if item.class_ids:
            names.append(ONE if len(item.class_ids) == 1 else MORE)
        sounding = item.sounding()
        if len(sounding) > 1:
            names.append(SEVERAL)
        groups = [self.groups.setdefault(name, Group()) for name in names]
        label = item.label if len(self.classes) == 2 else self.classes[sounding[0]] if len(sounding) == 1 else ""
        if label:
            groups.append(self.by_class.setdefault(label, Group()))
        return groups

    def results(self) -> tuple[dict[str, GroupResult], dict[str, GroupResult], SemanticResult | None]:
        """By group, by class (in the order of the class list), and the AVSS measures of a model with classes."""
        names = self.classes if len(self.classes) > 2 else sorted(self.by_class)
        by_class = {name: self.by_class[name].result() for name in names if name in self.by_class}
        semantic = self.semantic.result() if self.semantic else None
        return {name: self.groups[name].result() for name in GROUPS if name in self.groups}, by_class, semantic


def class_of_pixels(outputs: Outputs, height: int, width: int) -> NDArray[np.uint8]:
    """The product's class of each pixel, were it to sound (`rt_avsac.objects`): uint8 [height, width], never 0."""
    seen, heard = outputs.class_probability, outputs.audio_probability
    assert seen is not None
    if heard is None:  # a semantic model: its classes are those of sounding pixels already
        heard = np.ones(len(seen), np.float32)
    class_map, _ = name_pixels(seen, heard, *outputs.sounding.shape)
    return resized(class_map, height, width, nearest=True)


def semantic_map(outputs: Outputs, predicted: NDArray[np.bool_], class_map: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The AVSS prediction, 0 = background: a semantic model's own argmax, else the class where the mask is."""
    if outputs.audio_probability is None and outputs.class_probability is not None:
        best = outputs.class_probability.argmax(axis=0).astype(np.uint8)
        return resized(best, class_map.shape[0], class_map.shape[1], nearest=True)
    return np.where(predicted, class_map, 0).astype(np.uint8)


def plain(value: Any) -> Any:
    """Dataclasses and nan as JSON has them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
