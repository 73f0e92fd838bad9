"""The one picture scaling."""

from __future__ import annotations

import numpy as np
import pytest

from rt_avsac.scale import scale


@pytest.mark.parametrize(("height", "width"), [(480, 640), (224, 224), (1080, 1920), (100, 37), (225, 449), (1, 1)])
def test_any_picture_becomes_square(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    scaled = scale(image, 224)
    assert scaled.shape == (224, 224, 3)
    assert scaled.dtype == np.uint8


def test_whole_reductions_are_means_and_squash() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 0::2] = 200  # columns alternate: an even reduction must see their mean, bilinear sampling would alias
    np.testing.assert_array_equal(scale(image, 4), np.full((4, 4, 3), 100, np.uint8))


def test_corners_stay_corners() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    image[:240, :320] = 255
    scaled = scale(image, 224)
    assert (scaled[:111, :111] == 255).all()
    assert (scaled[113:] == 0).all()
    assert (scaled[:, 113:] == 0).all()


def test_input_is_not_written() -> None:
    image = np.full((300, 500, 3), 7, np.uint8)
    image.flags.writeable = False
    assert (scale(image, 64) == 7).all()
    view = image[:64, :64]
    assert scale(view, 64).flags.owndata


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="asked uint8"):
        scale(image)
