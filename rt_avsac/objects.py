"""From probability maps to objects: connected regions of one class each, with score, box and centroid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rt_avsac.config import LiveSettings
from rt_avsac.flow import Region

BINARY_LABEL = "sounding"


def find_objects(
    sounding: NDArray[np.float32],
    class_probability: NDArray[np.float32] | None,
    audio_probability: NDArray[np.float32] | None,
    classes: tuple[str, ...],
    settings: LiveSettings,
    image_width: int,
    image_height: int,
) -> tuple[Region, ...]:
    """sounding [h, w], class_probability [C, h/k, w/k], audio_probability [C] → regions, best score first.

    A pixel sounds from `settings.threshold` on, and is of the foreground class with the greatest
    P(pixel is c) x P(c is heard): what is seen, weighted with what is heard. Regions are 8-connected, of one class;
    smaller than `settings.min_area_px` they are dropped. Score = mean sounding probability of the region x mean share
    of its class in that product. A binary model (no class
    maps) gives regions of class 1; a semantic one (no audio_probability) is taken at its word. Ties keep reading order.
    """
    mask = sounding >= settings.threshold
    if np.count_nonzero(mask) < max(settings.min_area_px, 1):
        return ()
    height, width = sounding.shape
    if class_probability is None:
        class_map = np.ones((height, width), np.uint8)
        share = np.ones((height, width), np.float32)
    else:
        heard = np.ones(len(class_probability), np.float32) if audio_probability is None else audio_probability
        class_map, share = name_pixels(class_probability, heard, height, width)
    return regions_of(mask, class_map, sounding, share, classes, settings, image_width, image_height)


def unpacked(
    bits: NDArray[np.uint8], class_map: NDArray[np.uint8], confidence: NDArray[np.uint8], share: NDArray[np.uint8]
) -> tuple[NDArray[np.bool_], NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """What a GPU has thresholded, named and packed (`rt_avsac.engines.Packed`) → the maps of `regions_of`."""
    mask = np.unpackbits(bits, axis=1).view(np.bool_)
    cell_y, cell_x = mask.shape[0] // class_map.shape[0], mask.shape[1] // class_map.shape[1]
    of_pixels = [cells.repeat(cell_y, axis=0).repeat(cell_x, axis=1) for cells in (class_map, confidence, share)]
    sounding, named = (values.astype(np.float32) / np.float32(255.0) for values in of_pixels[1:])
    return mask, of_pixels[0], sounding, named


def regions_of(
    mask: NDArray[np.bool_],
    class_map: NDArray[np.uint8],
    sounding: NDArray[np.float32],
    share: NDArray[np.float32],
    classes: tuple[str, ...],
    settings: LiveSettings,
    image_width: int,
    image_height: int,
) -> tuple[Region, ...]:
    """Regions of the pixels in `mask`; everything [h, w]. None when it has fewer pixels than an object needs."""
    import cv2

    if np.count_nonzero(mask) < max(settings.min_area_px, 1):
        return ()
    height, width = mask.shape
    x_scale, y_scale = image_width / width, image_height / height
    regions = []
    class_area = np.bincount(class_map[mask])  # a class with fewer pixels than an object needs has no object
    for class_id in np.flatnonzero(class_area >= settings.min_area_px).tolist():
        of_class = (mask & (class_map == class_id)).view(np.uint8)
        # searched, and averaged, where the class is, not in the whole picture: three times faster
        x0, y0, w, h = cv2.boundingRect(of_class)
        found = of_class[y0 : y0 + h, x0 : x0 + w]
        count, label_map, stats, centroids = cv2.connectedComponentsWithStats(found, connectivity=8)
        for label in range(1, count):
            x, y, w, h, area = stats[label].tolist()
            if area < settings.min_area_px:
                continue
            region = np.zeros((height, width), np.bool_)
            inside = label_map[y : y + h, x : x + w] == label
            x, y = x + x0, y + y0
            box = np.s_[y : y + h, x : x + w]
            region[box] = inside
            region.flags.writeable = False
            score = float(sounding[box][inside].mean() * share[box][inside].mean())
            left, top = int(x * x_scale), int(y * y_scale)
            right = min(int(np.ceil((x + w) * x_scale)), image_width)
            bottom = min(int(np.ceil((y + h) * y_scale)), image_height)
            center_x, center_y = (centroids[label] + (x0, y0)).tolist()
            regions.append(
                Region(
                    class_id=class_id,
                    label=classes[class_id] if class_id < len(classes) else BINARY_LABEL,
                    score=min(max(score, 0.0), 1.0),
                    bbox=(left, top, right - left, bottom - top),
                    centroid=((center_x + 0.5) * x_scale, (center_y + 0.5) * y_scale),
                    area_px=area,
                    mask=region,
                )
            )
    regions.sort(key=lambda region: (-region.score, region.class_id, region.bbox))
    return tuple(regions)


def name_pixels(
    class_probability: NDArray[np.float32], audio_probability: NDArray[np.float32], height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Class of each pixel, uint8 [height, width] (never 0, the background), and its share of the product."""
    product = class_probability[1:] * audio_probability[1:, None, None]
    best = product.argmax(axis=0)
    share = product.max(axis=0) / np.maximum(product.sum(axis=0), 1e-12)
    rows, columns = best.shape
    assert (height % rows, width % columns) == (0, 0), "class maps are a whole fraction of the mask"
    repeat_y, repeat_x = height // rows, width // columns
    class_map = (best + 1).astype(np.uint8).repeat(repeat_y, axis=0).repeat(repeat_x, axis=1)
    return class_map, share.astype(np.float32).repeat(repeat_y, axis=0).repeat(repeat_x, axis=1)
