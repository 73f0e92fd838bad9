"""Training samples from AVSBench: frame i of a shuffled run through the labelled frames, with its own sound."""

from __future__ import annotations

import cv2
import numpy as np
from torch.utils.data import Dataset

from rt_avsac.scale import scale
from train.avsbench import AvsBench


class BenchSamples(Dataset[dict[str, object]]):
    """Each epoch in another order, the same for the same seed; any number of workers."""

    def __init__(self, bench: AvsBench, seed: int, num_classes: int) -> None:
        self.bench, self.seed, self.num_classes = bench, seed, num_classes

    def __getitem__(self, key: tuple[int, int]) -> dict[str, object]:
        """`key` = (index of the sample, picture side). All classes of the mask are heard."""
        index, size = key
        labelled = self.bench.labelled
        epoch, place = divmod(index, len(labelled))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(labelled))
        frame = self.bench[labelled[order[place]]]
        assert frame.mask is not None
        label = cv2.resize(frame.mask, (size, size), interpolation=cv2.INTER_NEAREST)
        return {
            "image": scale(frame.image, size),
            "label": label,
            "audio": frame.audio[None],
            "heard": np.ones((1, max(self.num_classes, 2)), bool),
            "ids": [f"{frame.clip}/{frame.index}"],
        }
