"""What a GPU does around the network, in torch on the CPU: scaling as cv2 does it, masks packed to bits and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rt_avsac.config import LiveSettings
from rt_avsac.engines import Packed as PackedArrays
from rt_avsac.model.on_device import Packed, Scale
from rt_avsac.objects import find_objects, regions_of, unpacked
from rt_avsac.scale import scale

CLASSES = ("background", "dog", "piano", "cow")


@pytest.mark.parametrize(
    ("height", "width"), [(480, 640), (720, 1280), (1080, 1920), (240, 320), (223, 449), (64, 96), (224, 224)]
)
def test_scaling_is_the_hosts_within_a_step(height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    got = Scale(height, width, 224)(torch.from_numpy(frame)[None])[0].numpy()
    wanted = scale(frame, 224)
    assert got.dtype == np.uint8
    difference = np.abs(got.astype(int) - wanted)
    assert difference.max() <= 2  # the host rounds twice
    assert difference.mean() < 0.3


class Fixed(torch.nn.Module):
    """A network that says the same of every window."""

    def __init__(self, *outputs: torch.Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, image: torch.Tensor, audio: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.outputs


def blobs(seed: int, size: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, size // 16, size // 16, generator=generator)
    sounding = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")[0]
    seen = torch.rand(1, len(CLASSES), size // 16, size // 16, generator=generator) * 6
    seen = torch.nn.functional.interpolate(seen, size=(size // 4, size // 4), mode="bilinear").softmax(1)
    return sounding, seen, torch.rand(1, len(CLASSES), generator=generator)


@pytest.mark.parametrize("num_outputs", [1, 2, 3])
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_packed_objects_are_those_of_the_maps(num_outputs: int, threshold: float) -> None:
    """Masks, classes and boxes to the pixel, scores to the rounding of a cell; fewer outputs: semantic and binary."""
    settings, found = LiveSettings(min_area_px=16, threshold=threshold), 0
    for seed in range(12):
        outputs = blobs(seed)[:num_outputs]
        at = torch.tensor([threshold])
        packed = Packed(Fixed(*outputs))(torch.zeros(1), torch.zeros(1), at)[num_outputs:]
        arrays = [each[0].numpy() for each in packed]
        assert sum(array.nbytes for array in arrays) < 0.1 * sum(each.numel() * 4 for each in outputs)
        maps = [each[0].numpy() for each in outputs] + [None] * (3 - num_outputs)
        wanted = find_objects(*maps, CLASSES, settings, 640, 480)
        got = regions_of(*unpacked(*PackedArrays(*arrays)), CLASSES, settings, 640, 480)
        by_place = {(region.class_id, region.bbox): region for region in got}
        assert len(got) == len(wanted)
        for region in wanted:
            same = by_place[region.class_id, region.bbox]
            assert np.array_equal(same.mask, region.mask)
            assert same.label == region.label
            assert same.score == pytest.approx(region.score, abs=0.02)
        found += len(wanted)
    assert found >= 12
