"""The one picture scaling: training, calibration and the robot call this function, so they cannot differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def scale(image: NDArray[np.uint8], size: int = 224) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] → uint8 [size, size, 3], squashed (no letterbox: the mask's map to the picture stays affine).

    A side at least twice too long is first reduced by whole pixels (area mean), so that nothing aliases; the rest
    is bilinear. ValueError for anything but a picture.
    """
    import cv2

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"scale: asked uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    height, width = image.shape[:2]
    reduced = (width // max(width // size, 1), height // max(height // size, 1))
    if reduced != (width, height):
        image = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if reduced != (size, size):
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return image if image.flags.owndata else image.copy()
