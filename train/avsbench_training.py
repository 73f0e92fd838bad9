"""AVSBench's labelled frames as training samples: each once an epoch, in an order of its own every epoch."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from rt_avsac.scale import scale
from train.avsbench import AvsBench, Kind
from train.settings import RunSettings
from train.sources import Data

LICENCE = "AVSBench: research use, by agreement with its authors; weights trained on it likewise"


class TrainingFrames(Dataset[dict[str, object]]):
    """Sample i of a run, the same for the same seed and i: picture, class map of what sounds, and its one sound.

    Frames are drawn singly, not clip by clip (choice): those of one clip are nearly the same picture.
    """

    def __init__(self, bench: AvsBench, seed: int, num_classes: int) -> None:
        self.bench, self.seed, self.num_classes = bench, seed, num_classes

    def __len__(self) -> int:
        return len(self.bench.labelled)

    def place(self, index: int) -> int:
        """Which of the split's frames sample `index` of the run is."""
        epoch, number = divmod(index, len(self))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self))
        return self.bench.labelled[order[number]]

    def __getitem__(self, key: tuple[int, int]) -> dict[str, object]:
        """`key` = (index of the sample in the run, picture side)."""
        index, size = key
        sample = self.bench[self.place(index)]
        assert sample.mask is not None
        label = cv2.resize(sample.mask, (size, size), interpolation=cv2.INTER_NEAREST)
        heard = np.zeros((1, self.num_classes), bool)
        heard[0, [c for c in np.unique(sample.mask) if 0 < c < self.num_classes]] = True
        return {
            "image": scale(sample.image, size),
            "label": label,
            "sounding": (label > 0).astype(np.uint8)[None],
            "heard": heard,
            "audio": sample.audio[None],
            "ids": [f"{sample.clip}/{sample.index}"],
        }


def open_avsbench(run: RunSettings) -> Data:
    """The training split that `data.kind` and `data.root` name. UserError for a folder that is not AVSBench's."""
    kind: Kind = run.data.kind.removeprefix("avsbench_")  # type: ignore[assignment]
    bench = AvsBench(kind, Path(run.data.root), "train")
    samples = TrainingFrames(bench, run.train.seed, run.model.num_classes)
    return Data(samples, len(samples), bench.classes, LICENCE)
