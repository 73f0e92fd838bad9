"""Regions of one class each, from probability maps."""

from __future__ import annotations

import numpy as np
import pytest

from rt_avsac.config import LiveSettings
from rt_avsac.flow import Region
from rt_avsac.objects import find_objects

CLASSES = ("background", "dog", "piano")
SETTINGS = LiveSettings(min_area_px=4, threshold=0.5)


def maps(size: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nothing sounds; everything is certainly background; dog and piano are heard alike."""
    sounding = np.zeros((size, size), np.float32)
    seen = np.zeros((3, size // 4, size // 4), np.float32)
    seen[0] = 0.9
    seen[1] = 0.06
    seen[2] = 0.04
    return sounding, seen, np.array([0.1, 0.5, 0.5], np.float32)


def objects(
    *arrays: np.ndarray | None, settings: LiveSettings = SETTINGS, width: int = 32, height: int = 16
) -> tuple[Region, ...]:
    return find_objects(*arrays, CLASSES, settings, width, height)  # type: ignore[arg-type]


def test_nothing_sounds_gives_nothing() -> None:
    assert objects(*maps()) == ()


def test_box_centroid_and_area() -> None:
    sounding, seen, heard = maps()
    sounding[2:6, 4:8] = 0.8
    (found,) = objects(sounding, seen, heard)
    assert found.label == "dog"
    assert found.class_id == 1
    assert found.bbox == (8, 2, 8, 4)  # the picture is twice as wide as the mask, and as high
    assert found.centroid == pytest.approx((12.0, 4.0))
    assert found.area_px == 16
    assert found.mask.dtype == bool
    assert found.mask.sum() == 16
    assert found.score == pytest.approx(0.8 * 0.6, rel=1e-5)
    assert not found.mask.flags.writeable


def test_what_is_heard_decides_between_what_is_seen() -> None:
    sounding, seen, heard = maps()
    sounding[0:8, 0:8] = 0.9
    heard[:] = [0.0, 0.1, 0.9]
    (found,) = objects(sounding, seen, heard)
    assert found.label == "piano"


def test_classes_split_a_blob_and_blobs_of_a_class_are_apart() -> None:
    sounding, seen, heard = maps()
    sounding[0:4, :] = 0.9
    seen[:, :, 2:] = np.array([0.1, 0.1, 0.8], np.float32)[:, None, None]
    sounding[12:16, 0:4] = 0.6
    found = objects(sounding, seen, heard)
    assert [(each.label, each.area_px) for each in found] == [("piano", 32), ("dog", 32), ("dog", 16)]
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert not (found[0].mask & found[1].mask).any()


def test_diagonal_neighbours_are_one_region() -> None:
    sounding, seen, heard = maps()
    sounding[0:4, 0:4] = sounding[4:8, 4:8] = 0.9
    assert len(objects(sounding, seen, heard)) == 1


def test_small_regions_are_dropped() -> None:
    sounding, seen, heard = maps()
    sounding[0, 0:3] = 0.9
    sounding[8:12, 8:12] = 0.9
    assert [each.area_px for each in objects(sounding, seen, heard)] == [16]


def test_threshold_is_inclusive() -> None:
    sounding, seen, heard = maps()
    sounding[0:4, 0:4] = 0.5
    assert len(objects(sounding, seen, heard)) == 1
    assert objects(sounding, seen, heard, settings=LiveSettings(min_area_px=4, threshold=0.51)) == ()


def test_binary_and_semantic_networks() -> None:
    sounding, seen, _ = maps()
    sounding[0:4, 0:4] = 0.9
    (binary,) = find_objects(sounding, None, None, ("background",), SETTINGS, 16, 16)
    assert (binary.class_id, binary.label) == (1, "sounding")
    assert binary.score == pytest.approx(0.9, rel=1e-5)
    (semantic,) = objects(sounding, seen, None)
    assert semantic.label == "dog"


def test_box_stays_inside_a_smaller_picture() -> None:
    sounding, seen, heard = maps()
    sounding[:, :] = 0.9
    (found,) = objects(sounding, seen, heard, width=7, height=5)
    assert found.bbox == (0, 0, 7, 5)


def test_same_maps_same_objects() -> None:
    random = np.random.default_rng(0)
    sounding = random.random((64, 64), dtype=np.float32)
    seen = random.random((3, 16, 16), dtype=np.float32)
    heard = random.random(3, dtype=np.float32)
    first, second = (objects(sounding, seen, heard) for _ in range(2))
    assert first
    assert [(a.bbox, a.score, a.class_id) for a in first] == [(a.bbox, a.score, a.class_id) for a in second]
