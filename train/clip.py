"""Composed clips: a scene under a moving view (pan and zoom), its sounds beginning and ending, and the truth per frame.

`python -m train.clip DATA --out FOLDER` writes some to look at, with the sources and licences of each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_avsac.errors import UserError
from rt_avsac.model.settings import NUM_AUDIO_SAMPLES, SAMPLE_RATE_HZ
from train.compose import sounding_mask
from train.mapping import PictureItem, SoundItem, load_pictures, load_sounds
from train.scene import Pictures, compose
from train.settings import DataSettings
from train.sound import SOURCE_DBFS, Sounds, ambience, between, from_db, level_of, set_level

CANVAS = 1.5  # the scene's side, in sides of the view that moves over it


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """images uint8 [T, S, S, 3]; masks uint8 [T, S, S]: class of each sounding pixel, 0, 255 = ignore.

    `audio` float32 [n] begins `lead_s` before the first frame, so that every frame has its window. `intervals`:
    class → when it sounds, seconds of the clip.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    audio: NDArray[np.float32]
    fps: float
    lead_s: float
    intervals: Mapping[int, tuple[float, float]]
    sources: tuple[str, ...]

    def window(self, frame: int) -> NDArray[np.float32]:
        """The sound that ends at this frame, float32 [15600]."""
        end = round((self.lead_s + frame / self.fps) * SAMPLE_RATE_HZ)
        return self.audio[end - NUM_AUDIO_SAMPLES : end]


def compose_clip(
    rng: np.random.Generator,
    pictures: Pictures,
    sounds: Sounds,
    settings: DataSettings,
    size: int = 224,
    num_frames: int = 5,
    fps: float = 1.0,
) -> Clip:
    """One to three objects of the scene sound, each from its own onset to its own end, in front of an ambience."""
    scene = compose(rng, pictures, settings, round(size * CANVAS))
    able = [c for c in scene.classes if c in sounds.classes]
    sounding = [int(c) for c in rng.permutation(able)[: rng.integers(1, 4)]] if able else []
    lead_s = NUM_AUDIO_SAMPLES / SAMPLE_RATE_HZ
    length_s = (num_frames - 1) / fps
    audio = np.zeros(round((lead_s + length_s) * SAMPLE_RATE_HZ), np.float32)
    sources, intervals = list(scene.sources), {}
    for class_id in sounding:
        item = sounds.draw(rng, class_id)
        begin_s, end_s = sorted(rng.uniform(-lead_s, length_s, size=2))
        end_s = min(max(end_s, begin_s + settings.min_audible_s), length_s)
        track = _repeated(sounds.samples(item), round((end_s - begin_s) * SAMPLE_RATE_HZ))
        gain_db = SOURCE_DBFS - level_of(track) + rng.uniform(-settings.gain_db, settings.gain_db)
        first = round((begin_s + lead_s) * SAMPLE_RATE_HZ)
        audio[first : first + len(track)] += (track * np.float32(from_db(gain_db)))[: len(audio) - first]
        intervals[class_id] = (begin_s, begin_s + len(track) / SAMPLE_RATE_HZ)
        sources.append(item.id)
    if rng.random() < settings.ambience_share:
        under, name = ambience(rng, sounds, settings)
        snr_db = between(rng, settings.ambience_snr_db)
        audio += _repeated(under, len(audio)) * np.float32(from_db(SOURCE_DBFS - snr_db))
        sources.append(name)
    if audio.any():
        audio = set_level(audio, between(rng, settings.level_dbfs))
    images, labels = _moving_view(rng, scene.image, scene.label, size, num_frames)
    masks = []
    for frame, label in enumerate(labels):
        time_s = frame / fps
        heard = frozenset(
            class_id
            for class_id, (begin_s, end_s) in intervals.items()
            if min(end_s, time_s) - max(begin_s, time_s - lead_s) >= 0.999 * settings.min_audible_s
        )
        masks.append(sounding_mask(label, heard))
    return Clip(images, np.stack(masks), audio, fps, lead_s, intervals, tuple(sources))


def _repeated(sound: NDArray[np.float32], num_samples: int) -> NDArray[np.float32]:
    return np.tile(sound, -(-num_samples // max(len(sound), 1)))[:num_samples]


def _moving_view(
    rng: np.random.Generator, image: NDArray[np.uint8], label: NDArray[np.uint8], size: int, num_frames: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A square that glides from one place and width to another."""
    side = image.shape[0]
    widths = rng.uniform(0.65, 1.0, size=2) * side
    corners = [(rng.uniform(0, side - width), rng.uniform(0, side - width)) for width in widths]
    images: list[NDArray[Any]] = []
    labels: list[NDArray[Any]] = []
    for share in np.linspace(0.0, 1.0, num_frames):
        width = (1 - share) * widths[0] + share * widths[1]
        x, y = ((1 - share) * np.array(corners[0]) + share * np.array(corners[1])).tolist()
        zoom = size / width
        move = np.array([[zoom, 0.0, -x * zoom], [0.0, zoom, -y * zoom]])
        images.append(
            cv2.warpAffine(image, move, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        )
        labels.append(
            cv2.warpAffine(label, move, (size, size), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        )
    return np.stack(images), np.stack(labels)


def trace(clip: Clip, items: Mapping[str, PictureItem | SoundItem]) -> list[dict[str, str]]:
    """Id, source and licence of everything in the clip."""
    known = [(name, items.get(name)) for name in clip.sources]
    return [
        {"id": name, "source": item.source if item else "made here", "licence": item.licence if item else "none needed"}
        for name, item in known
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.clip", description=__doc__)
    parser.add_argument("data", help="folder or mapping file")
    parser.add_argument("--out", type=Path, required=True, help="folder for clip-N.png, clip-N.wav and trace.json")
    parser.add_argument("--num", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="train", choices=("train", "val"))
    arguments = parser.parse_args(argv)
    try:
        write_clips(arguments.data, arguments.split, arguments.out, arguments.num, arguments.seed)
    except UserError as error:
        print(f"python -m train.clip: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def write_clips(data: str, split: str, out: Path, num: int, seed: int) -> None:
    """A strip of frames (sounding pixels red), the sound, and where all of it comes from."""
    from scipy.io import wavfile

    settings = DataSettings()
    heard, shown = load_sounds(data, split), load_pictures(data, split)
    sounds = Sounds(heard, settings)
    pictures = Pictures(shown, sounds.classes, settings)
    items: dict[str, PictureItem | SoundItem] = {item.id: item for item in heard}
    items |= {item.id: item for item in shown}
    out.mkdir(parents=True, exist_ok=True)
    traces = {}
    for number in range(num):
        clip = compose_clip(np.random.default_rng((seed, number)), pictures, sounds, settings)
        sounds_here = np.isin(clip.masks, (0, 255), invert=True)[..., None]
        strip = np.concatenate(list(np.where(sounds_here, 0.5 * clip.images + [127.0, 0.0, 0.0], clip.images)), axis=1)
        _, data_png = cv2.imencode(".png", strip.astype(np.uint8)[:, :, ::-1])
        (out / f"clip-{number}.png").write_bytes(data_png.tobytes())
        wavfile.write(out / f"clip-{number}.wav", SAMPLE_RATE_HZ, clip.audio)
        traces[f"clip-{number}"] = trace(clip, items)
    (out / "trace.json").write_text(json.dumps({"seed": seed, "split": split, "clips": traces}, indent=1))


if __name__ == "__main__":
    raise SystemExit(main())
