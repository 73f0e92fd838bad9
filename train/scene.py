"""Composed scenes (after VPO): a picture, further objects pasted in or set beside it, and the class of every pixel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_avsac.scale import scale
from train.mapping import PictureItem
from train.settings import DataSettings

IGNORE = 255
Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """image uint8 [S, S, 3] RGB, label uint8 [S, S] (class of each pixel, 0 background, 255 ignore).

    `classes`: those present and large enough to be the sounding one. `sources`: ids of the pictures.
    `quality`: "human" when every picture's mask was drawn by people, else "made".
    """

    image: Image
    label: Image
    classes: tuple[int, ...]
    sources: tuple[str, ...]
    quality: str


class Pictures:
    """Picture items by the classes they show well."""

    def __init__(self, items: Sequence[PictureItem], sounding_classes: Sequence[int], settings: DataSettings) -> None:
        self.items = list(items)
        self.by_class: dict[int, list[PictureItem]] = defaultdict(list)
        self.silent: list[PictureItem] = []  # nothing in them can sound
        for item in self.items:
            shown = [c for c, share in item.areas.items() if share >= settings.min_object_share]
            for class_id in shown:
                self.by_class[class_id].append(item)
            if not set(shown) & set(sounding_classes):
                self.silent.append(item)
        self.sounding = tuple(c for c in sounding_classes if c in self.by_class)
        self.others = tuple(c for c in self.by_class if c not in sounding_classes)
        counts = np.array([len(self.by_class[c]) for c in self.sounding], float)
        self.weight = counts**0.5 / (counts**0.5).sum()  # rare classes more often than they occur

    def draw(self, rng: np.random.Generator, besides: Sequence[int] = ()) -> tuple[PictureItem, int] | None:
        """A picture of a sounding class that is not in `besides`, and that class; None when no class is left."""
        weight = np.where(np.isin(self.sounding, list(besides)), 0.0, self.weight)
        if not weight.any():
            return None
        class_id = int(rng.choice(self.sounding, p=weight / weight.sum()))
        items = self.by_class[class_id]
        return items[rng.integers(len(items))], class_id


def compose(rng: np.random.Generator, pictures: Pictures, settings: DataSettings, size: int) -> Scene:
    """One scene of a random kind: a picture as it is, two side by side, or with one or two objects pasted in."""
    kind = rng.random()
    if kind < settings.collage_share:
        return collage(rng, pictures, settings, size)
    if rng.random() < 0.05 and pictures.silent:
        item = pictures.silent[rng.integers(len(pictures.silent))]
    else:
        item, _ = drawn(rng, pictures)
    image, label = view(rng, item, size, size)
    if kind < settings.collage_share + settings.paste_share:
        return paste(rng, pictures, settings, image, label, [item])
    return finish(rng, image, label, [item], settings)


def drawn(rng: np.random.Generator, pictures: Pictures) -> tuple[PictureItem, int]:
    found = pictures.draw(rng)
    assert found is not None, "who opens the data asks for a class that sounds"
    return found


def collage(rng: np.random.Generator, pictures: Pictures, settings: DataSettings, size: int) -> Scene:
    """Two pictures of different sounding classes, left and right or above and below; one that shows all stays alone."""
    first, class_id = drawn(rng, pictures)
    other = pictures.draw(rng, besides=[*first.areas, class_id])
    if other is None:
        return finish(rng, *view(rng, first, size, size), [first], settings)
    second, _ = other
    cut = int(size * rng.uniform(0.38, 0.62))
    if rng.random() < 0.7:
        views = view(rng, first, cut, size), view(rng, second, size - cut, size)
        axis = 1
    else:
        views = view(rng, first, size, cut), view(rng, second, size, size - cut)
        axis = 0
    image = np.concatenate([views[0][0], views[1][0]], axis=axis)
    label = np.concatenate([views[0][1], views[1][1]], axis=axis)
    return finish(rng, image, label, [first, second], settings)


def paste(
    rng: np.random.Generator,
    pictures: Pictures,
    settings: DataSettings,
    image: Image,
    label: Image,
    items: list[PictureItem],
) -> Scene:
    """Up to two objects of classes not yet there, cut out and set into the picture with soft edges."""
    image, label, items = image.copy(), label.copy(), list(items)
    for _ in range(2 if rng.random() < 0.3 else 1):
        there = [int(c) for c in np.unique(label) if c not in (0, IGNORE)]
        if pictures.others and rng.random() < 0.15:  # a silent distractor
            class_id = int(rng.choice(pictures.others))
            item = pictures.by_class[class_id][rng.integers(len(pictures.by_class[class_id]))]
        elif (found := pictures.draw(rng, besides=there)) is not None:
            item, class_id = found
        else:
            continue  # every class is there
        if class_id not in there and paste_object(rng, image, label, item, class_id):
            items.append(item)
    return finish(rng, image, label, items, settings)


def paste_object(rng: np.random.Generator, image: Image, label: Image, item: PictureItem, class_id: int) -> bool:
    """Sets the largest object of this class into `image` and `label` in place; False if it would hide too much."""
    picture, classes = item.image(), item.label_map()
    _, regions, stats, _ = cv2.connectedComponentsWithStats((classes == class_id).astype(np.uint8))
    if len(stats) < 2:
        return False
    region = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    x, y, width, height, area = (int(value) for value in stats[region])
    if area < 200:
        return False
    cut, mask = picture[y : y + height, x : x + width], (regions[y : y + height, x : x + width] == region)
    side = image.shape[0]
    for _ in range(4):
        share = rng.uniform(0.06, 0.30)  # of the scene's area
        zoom = min(np.sqrt(share * side * side / area), 0.95 * side / width, 0.95 * side / height)
        new_width, new_height = max(int(width * zoom), 4), max(int(height * zoom), 4)
        how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
        left, top = int(rng.integers(side - new_width + 1)), int(rng.integers(side - new_height + 1))
        alpha = cv2.resize(
            mask.astype(np.float32),
            (new_width, new_height),
            interpolation=how,
        )
        below = label[top : top + new_height, left : left + new_width]
        if hides_too_much(label, below, alpha > 0.5):
            continue
        patch = resized(cut, new_width, new_height, how)
        if rng.random() < 0.5:
            patch, alpha = patch[:, ::-1], alpha[:, ::-1]
        soft = cv2.GaussianBlur(np.ascontiguousarray(alpha), (0, 0), rng.uniform(0.4, 1.4))[..., None]
        area_of = image[top : top + new_height, left : left + new_width]
        area_of[:] = np.rint(soft * recolor(rng, patch) + (1.0 - soft) * area_of).astype(np.uint8)
        below[alpha > 0.5] = class_id
        return True
    return False


def hides_too_much(label: Image, below: Image, mask: NDArray[np.bool_]) -> bool:
    """More than 40 % of some object of `label` would lie under the mask."""
    hidden = np.bincount(below[mask], minlength=256)
    total = np.bincount(label.ravel(), minlength=256)
    hidden[[0, IGNORE]] = 0
    return bool(np.any(hidden > 0.4 * np.maximum(total, 1)))


def view(rng: np.random.Generator, item: PictureItem, width: int, height: int) -> tuple[Image, Image]:
    """A random part of the picture at this size, perhaps mirrored, and its classes (pan and zoom)."""
    image, label = item.image(), item.label_map()
    rows, columns = label.shape
    if rng.random() < 0.75:
        share = rng.uniform(0.45, 1.0)  # of the area
        aspect = np.exp(rng.uniform(-0.25, 0.25))
        crop_w = min(int(columns * np.sqrt(share * aspect)), columns)
        crop_h = min(int(rows * np.sqrt(share / aspect)), rows)
        x, y = int(rng.integers(columns - crop_w + 1)), int(rng.integers(rows - crop_h + 1))
        kept = np.isin(label[y : y + crop_h, x : x + crop_w], (0, IGNORE), invert=True).sum()
        if kept >= 0.5 * np.isin(label, (0, IGNORE), invert=True).sum():
            image, label = image[y : y + crop_h, x : x + crop_w], label[y : y + crop_h, x : x + crop_w]
    if rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    image, label = np.ascontiguousarray(image), np.ascontiguousarray(label)
    image = scale(image, width) if width == height else resized(image, width, height, cv2.INTER_AREA)
    return recolor(rng, image), resized(label, width, height, cv2.INTER_NEAREST)


def resized(image: Image, width: int, height: int, how: int) -> Image:
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def recolor(rng: np.random.Generator, image: Image) -> Image:
    """Brightness, contrast and saturation a little off; sometimes grey."""
    gain, bias = rng.uniform(0.75, 1.25), rng.uniform(-20.0, 20.0)
    out = np.asarray(cv2.addWeighted(image, gain, image, 0.0, bias), np.uint8)  # saturates
    if rng.random() < 0.5:
        grey = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        weight = 1.0 if rng.random() < 0.06 else rng.uniform(0.0, 0.5)
        out = np.asarray(cv2.addWeighted(out, 1.0 - weight, grey, weight, 0.0), np.uint8)
    return out


def finish(
    rng: np.random.Generator, image: Image, label: Image, items: Sequence[PictureItem], settings: DataSettings
) -> Scene:
    if rng.random() < 0.15:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2)), np.uint8)
    counts = np.bincount(label.ravel(), minlength=256)
    large = np.flatnonzero(counts >= settings.min_object_share * label.size)
    classes = tuple(int(c) for c in large if c not in (0, IGNORE))
    human = all(item.quality.startswith("human") for item in items)
    return Scene(image, label, classes, tuple(item.id for item in items), "human" if human else "made")
