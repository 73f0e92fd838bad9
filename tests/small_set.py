"""A data set of coloured shapes and tones in the index layout, made by the tests in a second."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy.io import wavfile

from train.classes import CLASSES

ROOT = Path(__file__).parent.parent
SMALL = ("image_size=64", "small_size=0", "batch_size=2", "num_audios=2", "num_workers=0", "lr=1e-3", "warmup_steps=1")
OFTEN = ("num_validation_scenes=2", "validate_every=100", "checkpoint_every=1", "num_threads=1")
SHAPES = {"dog": ((220, 40, 40), 440.0), "cat": ((40, 220, 40), 1200.0), "piano": ((40, 40, 220), 3000.0)}
SHAPES |= {name: ((30 * n, 90, 200), 300.0 * n) for n, name in enumerate(("car", "bird", "violin", "cow"), 1)}
NAMES = ("dog", "cat", "piano")


def make_small_set(folder: Path, per_class: int = 3, names: Sequence[str] = NAMES) -> Path:
    """`per_class` training and as many validation pictures and sounds of each class, and off-screen noise."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "audio").mkdir()
    pictures, sounds = [], []
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in names:
            color, pitch = SHAPES[name]
            for number in range(per_class):
                key = f"{split}-{name}-{number}"
                image = np.full((90, 120, 3), 128, np.uint8) + rng.integers(0, 30, (90, 120, 3), np.uint8)
                label = np.zeros((90, 120), np.uint8)
                center, radius = (int(rng.integers(35, 85)), int(rng.integers(30, 60))), int(rng.integers(18, 28))
                cv2.circle(image, center, radius, color[::-1], -1)
                cv2.circle(label, center, radius, CLASSES.index(name), -1)
                cv2.imwrite(str(folder / "images" / f"{key}.png"), image)
                cv2.imwrite(str(folder / "labels" / f"{key}.png"), label)
                area = {name: float((label > 0).mean())}
                paths = {"image": f"images/{key}.png", "label": f"labels/{key}.png", "width": 120, "height": 90}
                rights = {"source": "made by the tests", "licence": "CC0", "mask_quality": "human"}
                pictures.append({"id": key, "split": split, "area": area, **paths, **rights})
                tone = 0.3 * np.sin(2 * np.pi * pitch * np.arange(24_000) / 16_000)
                sounds.append(_sound(folder, f"audio/{key}.wav", name, split, tone))
        hiss = 0.1 * rng.standard_normal(24_000)
        sounds.append(_sound(folder, f"audio/{split}-rain.wav", "rain", split, hiss))
    (folder / "images.json").write_text(json.dumps({"classes": list(CLASSES), "ignore": 255, "items": pictures}))
    (folder / "audio.json").write_text(json.dumps(sounds))
    return folder


def _sound(folder: Path, path: str, label: str, split: str, samples: np.ndarray) -> dict[str, str]:
    wavfile.write(folder / path, 16_000, samples.astype(np.float32))
    rights = {"source": "made by the tests", "licence": "CC0"}
    return {"path": path, "label": label, "split": split, "recording": path, **rights}


def arguments(data: Path, out: Path, steps: int, *more: str) -> list[str]:
    epochs = steps * 2 / 9  # 9 pictures, 2 a step
    config = str(ROOT / "configs" / "avsac_edge.toml")
    return [config, f"root={data}", f"out={out}", f"epochs={epochs + 0.01}", "audio_bank=0", *SMALL, *OFTEN, *more]
