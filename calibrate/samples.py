"""Calibration windows: seeded, listed and hashed; every class that can sound, silence, noise and off-screen sounds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_avsac.errors import UserError
from rt_avsac.infer import fit_audio
from rt_avsac.model.settings import NUM_AUDIO_SAMPLES
from rt_avsac.record import HEAD
from rt_avsac.scale import scale

SCENES_PER_SAMPLE = 6  # so many scenes are looked at for each window asked for: rare classes get their turn
NEGATIVE_STRATA = ("muted", "noise", "off-screen")
NEGATIVE_SHARE = 0.25


@dataclass(frozen=True)
class Choice:
    """What, beside the data, decides which windows are drawn."""

    split: str
    num: int
    seed: int
    image_size: int


@dataclass(frozen=True, eq=False)
class Sample:
    """What enters the network: image uint8 [S, S, 3], audio float32 [15600]; `stratum`: what it stands for."""

    id: str
    stratum: str
    image: NDArray[np.uint8]
    audio: NDArray[np.float32]
    sha256: str = field(default="")

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.image.tobytes() + self.audio.tobytes()).hexdigest()
        object.__setattr__(self, "sha256", digest)

    @property
    def classes(self) -> list[str]:
        return self.stratum.split("+")

    def listing(self) -> dict[str, str]:
        return {"id": self.id, "stratum": self.stratum, "sha256": self.sha256}


def make(name: str, stratum: str, image: NDArray[np.uint8], audio: NDArray[np.float32], size: int) -> Sample:
    return Sample(name, stratum, scale(image, size), np.ascontiguousarray(fit_audio(audio, NUM_AUDIO_SAMPLES)))


def collect(data: str | Path, choice: Choice) -> list[Sample]:
    """The windows of a data folder or mapping (as for training), or of a recording of `rt-avsac record`.

    The same choice gives the same windows. UserError when the data give none.
    """
    if choice.num < 1:
        raise UserError(f"calibration: asked {choice.num} windows; ask at least 1")
    path = Path(data)
    found = of_recording(path, choice.image_size) if (path / HEAD).is_file() else of_scenes(path, choice)
    chosen = stratified(list(found), choice.num, choice.seed)
    if not chosen:
        raise UserError(f"calibration data {data}: no windows in it (split {choice.split!r})")
    return chosen


def of_scenes(data: Path, choice: Choice) -> Iterator[Sample]:
    """Composed scenes under each of their sounds; stratum = the classes that sound, or the kind of nothing."""
    from train.classes import CLASSES
    from train.compose import evaluation_items

    for item in evaluation_items(data, choice.seed, choice.num * SCENES_PER_SAMPLE, choice.split):
        image = scale(item.image, choice.image_size)  # one for all of them, not one each
        for condition, audio in item.conditions.items():
            classes = item.sounding(condition)
            stratum = condition if condition in NEGATIVE_STRATA else "+".join(CLASSES[class_id] for class_id in classes)
            yield make(f"{item.id}/{condition}", stratum, image, audio, choice.image_size)


def of_recording(folder: Path, size: int) -> Iterator[Sample]:
    """The windows of an own recording; stratum = quiet, or a fifth of the time that it covers."""
    from rt_avsac.infer import rms_dbfs
    from rt_avsac.replay import Recording

    with Recording(folder, realtime=False) as recording:
        quiet = recording.settings.silence_dbfs
        windows = []
        while (window := recording.next(0.0)) is not None:
            silent = window.status == "missing" or rms_dbfs(window.audio) < quiet
            windows.append(
                make(
                    f"frame-{window.frame.index}",
                    "muted" if silent else "heard",
                    window.frame.image,
                    window.audio,
                    size,
                )
            )
    for index, sample in enumerate(windows):
        part = f"part{index * 5 // len(windows)}"
        yield sample if sample.stratum == "muted" else Sample(sample.id, part, sample.image, sample.audio)


def stratified(samples: list[Sample], num: int, seed: int) -> list[Sample]:
    """Up to `num`, in an order that only the seed decides; no window twice.

    A quarter, and at least one of each kind, are negatives; the rest goes round over the classes.
    """
    random = np.random.default_rng(seed)
    distinct = list({sample.sha256: sample for sample in samples}.values())
    shuffled = [distinct[index] for index in random.permutation(len(distinct))]
    negatives = in_turn([sample for sample in shuffled if sample.stratum in NEGATIVE_STRATA], random)
    sounding = in_turn([sample for sample in shuffled if sample.stratum not in NEGATIVE_STRATA], random)
    kinds = len({sample.stratum for sample in negatives})
    share = min(max(round(num * NEGATIVE_SHARE), kinds), num // 2)
    share = min(max(share, num - len(sounding)), len(negatives))  # what one side lacks, the other gives
    return [*negatives[:share], *sounding[: num - share]]


def in_turn(samples: list[Sample], random: np.random.Generator) -> list[Sample]:
    """All of them; up to any point each class has come about equally often, a window counting for all its classes.

    Next is a window of the class that came least so far: one whose other classes, too, came least.
    """
    waiting: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        for name in sample.classes:
            waiting[name].append(sample)
    names = sorted(waiting)
    turn = {names[index]: place for place, index in enumerate(random.permutation(len(names)))}
    times = dict.fromkeys(names, 0)
    chosen: list[Sample] = []
    while waiting:
        least = min(waiting, key=lambda name: (times[name], turn[name]))
        sample = min(waiting[least], key=lambda each: max(times[name] for name in each.classes))
        chosen.append(sample)
        for name in sample.classes:
            times[name] += 1
            waiting[name].remove(sample)
            if not waiting[name]:
                del waiting[name]
    return chosen


def listing(choice: Choice, samples: Sequence[Sample]) -> dict[str, Any]:
    return dataclasses.asdict(choice) | {"windows": [sample.listing() for sample in samples]}


def digest(samples: Sequence[Sample]) -> str:
    return hashlib.sha256("".join(sample.sha256 for sample in samples).encode()).hexdigest()


def verify(file: Path, data: str, say: Callable[[str], None]) -> bool:
    """Draws the windows of a windows.json once more; True when each is what is listed there, bit for bit."""
    names = [field.name for field in dataclasses.fields(Choice)]
    try:
        listed = json.loads(file.read_text("utf-8"))["sets"]
        choices = {use: Choice(**{name: table[name] for name in names}) for use, table in listed.items()}
        wanted = {use: [(row["id"], row["sha256"]) for row in table["windows"]] for use, table in listed.items()}
        if not choices or not all(
            type(n) is int and n >= 0 for c in choices.values() for n in (c.num, c.seed, c.image_size - 1)
        ):
            raise ValueError("no sets, or no numbers in them")
    except OSError as error:
        raise UserError(f"windows {file}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        kind = type(error).__name__
        raise UserError(f"windows {file}: not a windows.json of `python -m calibrate` ({kind}: {error})") from None
    all_same = True
    for use, choice in choices.items():
        again = [(sample.id, sample.sha256) for sample in collect(data, choice)]
        same = sum(one == other for one, other in zip(wanted[use], again, strict=False))
        all_same &= same == len(wanted[use]) == len(again)
        say(f"{use}: {same} of {len(wanted[use])} windows are as listed, {len(again)} were drawn")
    return all_same
