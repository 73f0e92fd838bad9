"""AVSBench S4, MS3 and AVSS as their authors pack them: one sample a frame, with the sound that ends at it.

`root` holds `Single-source/`, `Multi-sources/` and `AVSS/` (or is that folder itself). Frames lie 62.5 ms before each
full second; the sound of a frame is the 0.975 s that end there, zeros before the clip's start, as a live camera has
it. S4 and MS3 come with log-mel patches (.pkl) and, mostly, with waveforms: the waveforms are taken where the folder
`audio_wav` exists, else the patches, which only a VGGish model can hear. AVSS always has waveforms.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rt_avsac.errors import UserError
from rt_avsac.model.settings import NUM_AUDIO_SAMPLES, SAMPLE_RATE_HZ
from train.audio_file import read_samples
from train.classes import BINARY
from train.log_mel_file import read_log_mel

Kind = Literal["s4", "ms3", "avss"]
FRAME_LEAD_S = 0.0625  # frame k (from 1) was taken at k - 0.0625 s
NUM_AVSS_CLASSES = 71
COLOR_WEIGHTS = np.array([1 << 16, 1 << 8, 1])
UNKNOWN = 255
NEGATIVE_LABELS = ("off-the-screen", "background")  # AVSS: nothing in the picture makes the sound
SPELLING = {"h orse": "horse"}


@dataclass(frozen=True, slots=True, eq=False)
class FrameSample:
    """One frame. image uint8 [H, W, 3] RGB; mask uint8 [h, w]: class of each sounding pixel, 0 none (S4, MS3: 0 or 1);
    None where the data set has no mask. audio: float32 [15600] at 16 kHz, or a log-mel patch [1, 96, 64].

    `index` counts from 0. `labels`: what the data set says sounds; empty for a sound from outside the picture.
    """

    image: NDArray[np.uint8]
    audio: NDArray[np.float32]
    mask: NDArray[np.uint8] | None
    clip: str
    index: int
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Clip:
    """Where the files of one clip lie; `masks` None for frames without one."""

    id: str
    frames: tuple[Path, ...]
    masks: tuple[Path | None, ...]
    audio: Path
    labels: tuple[str, ...]


class AvsBench:
    """The clips of one split. UserError for a folder that is not AVSBench's; of single files, when they are read."""

    def __init__(self, kind: Kind, root: str | Path, split: str) -> None:
        self.kind: Kind = kind
        self.split = split
        self.classes: tuple[str, ...] = BINARY
        folder, table = _find(kind, Path(root))
        rows = [row for row in _read_rows(table) if row["split"] == split]
        if not rows:
            raise UserError(f"AVSBench {table}: no clip of split {split!r}; the splits are train, val and test")
        if kind == "avss":
            self.classes = read_classes(folder / "label2idx.json")
            self.clips = tuple(avss_clip(folder, row) for row in rows)
        else:
            make = s4_clip if kind == "s4" else ms3_clip
            self.clips = tuple(make(folder, row) for row in rows)

    def __len__(self) -> int:
        """Number of frames, with a mask or without."""
        return len(self.places)

    def __iter__(self) -> Iterator[FrameSample]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """(clip, frame) of each sample, clip by clip."""
        return tuple((number, frame) for number, clip in enumerate(self.clips) for frame in range(len(clip.frames)))

    @cached_property
    def labelled(self) -> tuple[int, ...]:
        """The samples that have a mask."""
        return tuple(i for i, (clip, frame) in enumerate(self.places) if self.clips[clip].masks[frame] is not None)

    def __getitem__(self, index: int) -> FrameSample:
        number, frame = self.places[index]
        clip = self.clips[number]
        mask = clip.masks[frame]
        read = read_color_mask if self.kind == "avss" else read_binary_mask
        return FrameSample(
            read_image(clip.frames[frame]),
            read_audio(clip.audio, frame),
            None if mask is None else read(mask),
            clip.id,
            frame,
            clip.labels,
        )


def _find(kind: Kind, root: Path) -> tuple[Path, Path]:
    """The folder of the data and the table of its clips."""
    names = {
        "s4": (("Single-source", ""), "s4_meta_data.csv", "s4_data"),
        "ms3": (("Multi-sources", ""), "ms3_meta_data.csv", "ms3_data"),
        "avss": (("AVSS", "AVSBench_semantic", ""), "metadata.csv", ""),
    }
    folders, table, inner = names[kind]
    for name in folders:
        if (root / name / table).is_file():
            folder = root / name
            return (folder / inner if (folder / inner).is_dir() else folder), folder / table
    raise UserError(
        f"AVSBench {root}: asked {Path(folders[0]) / table} in it, found none; root is the folder of AVSBench"
    )


def _read_rows(table: Path) -> list[dict[str, str]]:
    wanted = {"s4_meta_data.csv": {"name", "category", "split"}, "ms3_meta_data.csv": {"video_id", "split"}}
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = [{str(k).strip(): (v or "").strip() for k, v in row.items()} for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"AVSBench {table}: cannot be read: {error}") from None
    missing = wanted.get(table.name, {"uid", "a_obj", "split", "label"}) - set(rows[0] if rows else ())
    if missing:
        raise UserError(f"AVSBench {table}: asked columns {', '.join(sorted(missing))}, which are not there")
    return rows


def s4_clip(folder: Path, row: dict[str, str]) -> Clip:
    """In the training split only the first frame has a mask."""
    name, category, split = row["name"], row["category"], row["split"]
    place = Path(split) / category
    names = [f"{name}_{k}.png" for k in range(1, 6)]
    num_masks = 1 if split == "train" else 5
    masks = [folder / "gt_masks" / place / name / n if k < num_masks else None for k, n in enumerate(names)]
    return Clip(
        name,
        tuple(folder / "visual_frames" / place / name / n for n in names),
        tuple(masks),
        _sound(folder, place, name),
        (category,),
    )


def ms3_clip(folder: Path, row: dict[str, str]) -> Clip:
    name, split = row["video_id"], row["split"]
    return Clip(
        name,
        tuple(folder / "visual_frames" / name / f"{name}.mp4_{k}.png" for k in range(1, 6)),
        tuple(folder / "gt_masks" / split / name / f"{name}_{k}.png" for k in range(1, 6)),
        _sound(folder, Path(split), name),
        (),
    )


def _sound(folder: Path, place: Path, name: str) -> Path:
    if (folder / "audio_wav" / place).is_dir():
        return folder / "audio_wav" / place / f"{name}.wav"
    return folder / "audio_log_mel" / place / f"{name}.pkl"


def avss_clip(folder: Path, row: dict[str, str]) -> Clip:
    """v2: ten frames; v1s and v1m: five, and in v1s' training split only the first has a mask."""
    subset = row["label"]
    if subset not in ("v1s", "v1m", "v2"):
        raise UserError(f"AVSBench {folder / 'metadata.csv'}: clip {row['uid']}: asked v1s, v1m or v2, got {subset!r}")
    place = folder / subset / row["uid"]
    num_frames = 10 if subset == "v2" else 5
    num_masks = 1 if (subset, row["split"]) == ("v1s", "train") else num_frames
    labels = [SPELLING.get(label, label) for label in row["a_obj"].split("_")]
    masks = [place / "labels_rgb" / f"{i}.png" if i < num_masks else None for i in range(num_frames)]
    return Clip(
        row["uid"],
        tuple(place / "frames" / f"{i}.jpg" for i in range(num_frames)),
        tuple(masks),
        place / "audio.wav",
        tuple(label for label in labels if label and label not in NEGATIVE_LABELS),
    )


def read_classes(path: Path) -> tuple[str, ...]:
    """The 71 names of AVSS, background first; one circulating file counts from 1."""
    try:
        table = {str(name): int(number) for name, number in json.loads(path.read_text(encoding="utf-8")).items()}
    except OSError as error:
        raise UserError(f"AVSBench {path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"AVSBench {path}: asked a table of names and numbers, got something else") from None
    first = min(table.values(), default=0)
    names = {number - first: name for name, number in table.items()}
    if sorted(names) != list(range(NUM_AVSS_CLASSES)) or len(table) != NUM_AVSS_CLASSES:
        raise UserError(f"AVSBench {path}: asked {NUM_AVSS_CLASSES} classes in a row, got {len(table)}")
    return tuple(names[number] for number in range(NUM_AVSS_CLASSES))


def read_audio(path: Path, frame: int) -> NDArray[np.float32]:
    """The sound that ends at frame `frame` (from 0): float32 [15600], or the log-mel patch [1, 96, 64] of a .pkl."""
    if path.suffix == ".pkl":
        patches = read_log_mel(path)
        return patches[min(frame, len(patches) - 1)]  # the authors repeat the last patch of a short clip
    if not path.is_file():
        raise UserError(f"AVSBench sound {path}: no such file; get the clip again, or take its row out of the table")
    samples = _samples(path)
    end = round((frame + 1 - FRAME_LEAD_S) * SAMPLE_RATE_HZ)
    window = np.zeros(NUM_AUDIO_SAMPLES, np.float32)
    heard = samples[max(end - NUM_AUDIO_SAMPLES, 0) : end]
    start = max(NUM_AUDIO_SAMPLES - end, 0)
    window[start : start + len(heard)] = heard
    return window


@lru_cache(maxsize=4)
def _samples(path: Path) -> NDArray[np.float32]:
    """A clip's frames are mostly read one after the other."""
    return read_samples(path)


def _open(path: Path, what: str) -> Image.Image:
    try:
        with Image.open(path) as file:
            file.load()
            return file.copy()
    except (OSError, SyntaxError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a readable picture"
        raise UserError(
            f"AVSBench {what} {path}: {reason}; get the clip again, or take its row out of the table"
        ) from None


def read_image(path: Path) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB."""
    return np.array(_open(path, "picture").convert("RGB"), np.uint8)


def read_binary_mask(path: Path) -> NDArray[np.uint8]:
    """uint8 [h, w], 1 where it sounds; files hold 0 and 255: palette numbers, grey or colours."""
    image = _open(path, "mask")
    if image.mode == "P":
        return (np.array(image) > 0).astype(np.uint8)
    return (np.array(image.convert("L")) > 127).astype(np.uint8)


def palette() -> NDArray[np.uint8]:
    """uint8 [71, 3]: PASCAL VOC's colours, by taking the number's bits in turn to red, green and blue."""
    colors = np.zeros((NUM_AVSS_CLASSES, 3), np.uint8)
    for number in range(NUM_AVSS_CLASSES):
        for bit in range(8):
            for channel in range(3):
                colors[number, channel] |= ((number >> (3 * bit + channel)) & 1) << (7 - bit)
    return colors


@cache
def _class_of_color() -> NDArray[np.uint8]:
    """uint8 [2^24]: class of each colour, 255 for those outside the palette."""
    table = np.full(1 << 24, UNKNOWN, np.uint8)
    table[palette().astype(np.int64) @ COLOR_WEIGHTS] = np.arange(NUM_AVSS_CLASSES)
    return table


def read_color_mask(path: Path) -> NDArray[np.uint8]:
    """uint8 [h, w]: AVSS class of each pixel; a colour outside the palette is background, as in the authors' code."""
    values = np.array(_open(path, "mask").convert("RGB"))
    classes = _class_of_color()[values.astype(np.int64) @ COLOR_WEIGHTS]
    unknown = classes == UNKNOWN
    if unknown.mean() > 0.5:
        raise UserError(f"AVSBench mask {path}: most pixels have no colour of the palette; is it a mask of AVSS?")
    return np.where(unknown, 0, classes).astype(np.uint8)
