"""Class maps behind one picture: a class-index PNG, or the polygons and run lengths of a COCO file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_avsac.errors import UserError
from train.classes import IGNORE

FINE = 8  # parts of a pixel in which polygons are drawn


@dataclass(frozen=True)
class PngLabels:
    """A PNG of class numbers (grey or palette). `table` [256] turns file numbers into ours; None = they are ours."""

    path: Path
    table: tuple[int, ...] | None = None

    def read(self) -> NDArray[np.uint8]:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(self.path) as file:
                if file.mode not in ("L", "P"):
                    raise UserError(f"labels {self.path}: asked a PNG of class numbers, got mode {file.mode}")
                values = np.array(file, dtype=np.uint8)
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise UserError(f"labels {self.path}: cannot be read: {error}") from None
        return values if self.table is None else np.array(self.table, np.uint8)[values]


@dataclass(frozen=True)
class CocoLabels:
    """Objects of one COCO picture, drawn largest first, so that what is small and in front stays visible.

    `objects`: (class id, segmentation as in the file, share of the picture) each; crowds come as class IGNORE.
    """

    height: int
    width: int
    objects: tuple[tuple[int, Any, float], ...]

    def read(self) -> NDArray[np.uint8]:
        labels = np.zeros((self.height, self.width), np.uint8)
        for class_id, segmentation, _ in sorted(self.objects, key=lambda item: -item[2]):
            labels[draw(segmentation, self.height, self.width)] = class_id
        return labels


def draw(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """COCO polygons or run lengths (plain or compressed) → bool [height, width]."""
    import cv2

    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        runs = decompress(counts) if isinstance(counts, str) else counts
        flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)  # column by column, background first
        if flat.size != height * width:
            raise UserError(f"COCO mask: run lengths give {flat.size} pixels, the picture has {height * width}")
        return flat.reshape(width, height).T
    mask = np.zeros((height, width), bool)
    for polygon in segmentation:
        points = np.array(polygon, np.float64).reshape(-1, 2)
        left, top = np.clip(np.floor(points.min(axis=0)), 0, (width, height)).astype(int)
        right, bottom = np.clip(np.ceil(points.max(axis=0)), 0, (width, height)).astype(int)
        fine = np.zeros(((bottom - top) * FINE, (right - left) * FINE), np.uint8)
        if fine.size:  # OpenCV draws edges too: on a finer grid, only the pixels' centres are asked
            cv2.fillPoly(fine, [np.round((points - (left, top)) * FINE).astype(np.int32)], 1)
            mask[top:bottom, left:right] |= fine[FINE // 2 :: FINE, FINE // 2 :: FINE] > 0
    return mask


def decompress(text: str) -> list[int]:
    """COCO's text form of run lengths: 5 bits a character, least first; after the third, differences to two before."""
    runs: list[int] = []
    position = 0
    while position < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[position]) - 48
            value |= (bits & 0x1F) << shift
            more = bool(bits & 0x20)
            position += 1
            shift += 5
            if not more and bits & 0x10:
                value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def read_coco(path: Path, images: Path, table: dict[str, int], other: int) -> list[tuple[str, Path, CocoLabels]]:
    """(name, picture file, labels) of each picture with objects in a COCO file; `table`: category name → our class."""
    import json

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        categories = {row["id"]: row["name"] for row in content["categories"]}
        objects: dict[int, list[tuple[int, Any, float]]] = {}
        sizes = {row["id"]: row["height"] * row["width"] for row in content["images"]}
        for row in content["annotations"]:
            class_id = IGNORE if row.get("iscrowd") else table.get(categories[row["category_id"]], other)
            share = float(row["area"]) / sizes[row["image_id"]]
            objects.setdefault(row["image_id"], []).append((class_id, row["segmentation"], share))
        return [
            (
                Path(row["file_name"]).stem,
                images / row["file_name"],
                CocoLabels(row["height"], row["width"], tuple(objects[row["id"]])),
            )
            for row in content["images"]
            if row["id"] in objects
        ]
    except OSError as error:
        raise UserError(f"pictures {path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"pictures {path}: not a COCO instances file: {type(error).__name__} {error}") from None
