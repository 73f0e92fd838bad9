"""Contact sheets of real clips: frames over time, the masks under the clip's own sound, and the same in silence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_avsac.config import LiveSettings
from rt_avsac.errors import SourceError, UserError
from rt_avsac.model.settings import SAMPLE_RATE_HZ
from rt_avsac.objects import find_objects
from rt_avsac.scale import scale
from rt_avsac.tracks import open_av
from train.audio_file import read_samples
from train.overlay import Image, beside, encode, overlay
from train.predictor import Predictor
from train.report import write
from train.scores import class_of_pixels, resized

VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".mov", ".avi")
WIDTH = 224  # of one frame in the sheet
COLUMNS = 6
LINE = 15  # height of a line of text


@dataclass(frozen=True)
class Moment:
    """One frame of a clip with the sound that ends at it."""

    time_s: float
    image: Image
    audio: NDArray[np.float32]


@dataclass(frozen=True)
class ClipResult:
    """Over the sampled frames: share of the picture that sounds, in silence too, and what was heard most."""

    clip: str
    num_frames: int
    area: float
    area_muted: float
    heard: dict[str, float]  # mean probability of the five likeliest classes
    objects: dict[str, int]  # in how many of the frames a region of this class was found


def moments(path: Path, num: int, num_samples: int) -> Iterator[Moment]:
    """`num` frames evenly over the clip, each with the `num_samples` that end at its time (zeros before the start).

    SourceError for a file without picture or sound.
    """
    import av

    try:
        samples = read_samples(path)
    except UserError as error:
        raise SourceError(f"clip {path}: its sound cannot be had ({error})") from None
    try:
        with open_av(str(path)) as container:
            if not container.streams.video:
                raise SourceError(f"clip {path}: no video stream inside")
            sound, video = container.streams.audio[0], container.streams.video[0]
            sound_start_s = float((sound.start_time or 0) * (sound.time_base or 0))
            count = sum(1 for frame in container.decode(video) if frame.time is not None)
            wanted = set(np.linspace(0, count - 1, num + 2).astype(int)[1:-1].tolist())
            container.seek(0)
            timed = ((frame.time, frame) for frame in container.decode(video) if frame.time is not None)
            for index, (time_s, frame) in enumerate(timed):
                if index in wanted:
                    end = round((time_s - sound_start_s) * SAMPLE_RATE_HZ)
                    image = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
                    yield Moment(time_s, image, window(samples, end, num_samples))
    except av.FFmpegError as error:
        raise SourceError(f"clip {path}: cannot be decoded: {error.strerror or error}") from None


def window(samples: NDArray[np.float32], end: int, num_samples: int) -> NDArray[np.float32]:
    """samples[end - num_samples : end], zeros where there are none."""
    cut = np.zeros(num_samples, np.float32)
    start = end - num_samples
    first, last = max(start, 0), min(end, len(samples))
    if first < last:
        cut[first - start : last - start] = samples[first:last]
    return cut


def sheet(predictor: Predictor, path: Path, num: int = 12) -> tuple[Image, ClipResult]:
    """The sheet of one clip, and its numbers."""
    about, columns = predictor.about, []
    settings = LiveSettings()
    areas, muted_areas, objects = [], [], dict[str, int]()
    heard = np.zeros(len(about.classes))
    found = list(moments(path, num, about.num_audio_samples))
    for moment in found:
        image = scale(moment.image, about.image_size)
        own, silent = predictor(image, [moment.audio, np.zeros_like(moment.audio)])
        areas.append(float((own.sounding > 0.5).mean()))
        muted_areas.append(float((silent.sounding > 0.5).mean()))
        height, width = moment.image.shape[:2]
        regions = find_objects(*own, about.classes, settings, width, height)
        for label in {region.label for region in regions}:
            objects[label] = objects.get(label, 0) + 1
        best = {region.label: region.score for region in reversed(regions)}  # best first comes last, and stays
        said = [f"{label} {best[label]:.2f}" for label in sorted(best, key=lambda label: -best[label])[:2]]
        lines = [f"{moment.time_s:.2f} s"]
        if own.audio_probability is not None:
            heard += own.audio_probability / len(found)
            top = np.argsort(-own.audio_probability[1:])[:2] + 1
            lines.append("hears " + ", ".join(f"{about.classes[i]} {own.audio_probability[i]:.2f}" for i in top))
        cells = [_fitted(moment.image)]
        for outputs in (own, silent):
            rows, across = cells[0].shape[:2]
            classes = None if outputs.class_probability is None else class_of_pixels(outputs, rows, across)
            cells.append(overlay(cells[0], resized(outputs.sounding, rows, across) > 0.5, classes))
        columns.append(
            np.concatenate([_words(lines), *cells[:2], _words(["mask: " + (", ".join(said) or "nothing")]), cells[2]])
        )
    if not columns:
        raise SourceError(f"clip {path}: no frames inside")
    blank = np.full_like(columns[0], 255)
    columns += [blank] * (-len(columns) % COLUMNS)
    title = _words(
        [f"{path.stem}: picture, mask under its own sound, mask in silence"], WIDTH * min(COLUMNS, len(columns))
    )
    rows_of = [beside(columns[start : start + COLUMNS]) for start in range(0, len(columns), COLUMNS)]
    title = np.pad(title, ((0, 0), (0, rows_of[0].shape[1] - title.shape[1]), (0, 0)), constant_values=255)
    order: list[int] = np.argsort(-heard)[:6].tolist()
    likeliest = {about.classes[i]: float(heard[i]) for i in order if i > 0 and heard[i] > 0}
    result = ClipResult(path.stem, len(found), float(np.mean(areas)), float(np.mean(muted_areas)), likeliest, objects)
    return np.concatenate([title, *rows_of]), result


def write_sheets(predictor: Predictor, folder: Path, out: Path, num: int = 12) -> Iterator[ClipResult]:
    """A PNG for each clip of `folder` into `out`; SourceError when there is none."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in VIDEO_ENDINGS)
    if not paths:
        raise SourceError(f"clips {folder}: no video file inside ({', '.join(VIDEO_ENDINGS)})")
    for path in paths:
        image, result = sheet(predictor, path, num)
        write(out / f"{path.stem}.png", encode(image, ".png"))
        yield result


def _fitted(image: Image) -> Image:
    import cv2

    height = round(image.shape[0] * WIDTH / image.shape[1])
    return cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _words(lines: list[str], width: int = WIDTH) -> Image:
    import cv2

    paper = np.full((LINE * len(lines) + 4, width, 3), 255, np.uint8)
    for index, line in enumerate(lines):
        place = (2, LINE * (index + 1) - 3)
        cv2.putText(paper, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return paper
