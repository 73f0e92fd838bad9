"""Pictures with the predicted masks drawn in, and the truth as a white outline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from train.classes import IGNORE
from train.items import CONDITIONS
from train.scores import Judged

Image = NDArray[np.uint8]
CELL = 192  # pixels, side of one picture in a strip
GAP = 4


def color_of(class_id: int) -> tuple[int, int, int]:
    from rt_avsac.palette import color

    red, green, blue = color(class_id)
    return int(red), int(green), int(blue)


def overlay(
    image: Image, predicted: NDArray[np.bool_], class_map: Image | None = None, truth: Image | None = None
) -> Image:
    """`image` uint8 [H, W, 3] with the predicted pixels in their class's colour; all masks [H, W]."""
    import cv2

    drawn = image.copy()
    classes = np.ones(predicted.shape, np.uint8) if class_map is None else class_map
    for class_id in np.unique(classes[predicted]).tolist():
        pixels = predicted & (classes == class_id)
        drawn[pixels] = (0.4 * drawn[pixels] + 0.6 * np.array(color_of(class_id))).astype(np.uint8)
    if truth is not None:
        shape = ((truth != 0) & (truth != IGNORE)).astype(np.uint8)
        outlines, _ = cv2.findContours(shape, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, (255, 255, 255), 1)
    return drawn


def cell(image: Image, width: int = CELL, height: int = CELL) -> Image:
    import cv2

    shrinks = image.shape[0] > height
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)  # type: ignore[return-value]


def strip(judged: Judged) -> Image:
    """The picture, then its mask under each condition that was judged (white where it has none): one row."""
    import cv2

    height, width = next(iter(judged.sounding.values())).shape
    picture: Image = cv2.resize(judged.item.image, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    cells = [cell(picture)]
    for name in CONDITIONS:
        if name in judged.sounding:
            classes = judged.class_map[name] if judged.class_map else None
            truth = judged.item.mask_by_condition[name]
            cells.append(cell(overlay(picture, judged.predicted(name), classes, truth)))
        else:
            cells.append(np.full((CELL, CELL, 3), 255, np.uint8))
    return beside(cells)


def beside(cells: list[Image]) -> Image:
    """One row with white gaps."""
    gap = np.full((cells[0].shape[0], GAP, 3), 255, np.uint8)
    parts = [cells[0]]
    for each in cells[1:]:
        parts += [gap, each]
    return np.concatenate(parts, axis=1)


def encode(image: Image, ending: str) -> bytes:
    """RGB → a JPEG (".jpg") or PNG (".png") file's bytes."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, 88] if ending == ".jpg" else []
    done, data = cv2.imencode(ending, np.ascontiguousarray(image[:, :, ::-1]), options)
    assert done
    return data.tobytes()
