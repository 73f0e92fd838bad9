"""Data sets by mapping: any class-PNG or COCO picture set, any folder of sounds → PictureItem and SoundItem.

`load_pictures(data, split)` and `load_sounds(data, split)` take a folder with `images.json` and `audio.json`, or a
TOML mapping file with [[pictures]] and [[sounds]] tables (`configs/data_example.toml` explains each key).
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from rt_avsac.config import override, read_file
from rt_avsac.errors import UserError
from train.audio_file import read_samples
from train.classes import CLASSES, IGNORE, OFF_SCREEN, class_id_of, class_of_label
from train.label_map import CocoLabels, PngLabels, read_coco

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
SOUND_ENDINGS = (".ogg", ".wav", ".flac", ".mp3", ".opus", ".m4a")
WORDS = {"background": 0, "ignore": IGNORE}


@dataclass(frozen=True)
class PictureItem:
    """One picture with its class map; files are read when asked for. `known_area`: class id → share, if stated."""

    id: str
    split: str
    path: Path
    labels: PngLabels | CocoLabels
    source: str
    licence: str
    quality: str
    known_area: dict[int, float] | None = None

    def image(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] RGB; UserError for a corrupt file."""
        import cv2

        try:
            data = np.fromfile(self.path, np.uint8)
        except OSError as error:
            raise UserError(f"picture {self.path}: cannot be read: {error.strerror}") from None
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
        if image is None:
            raise UserError(f"picture {self.path}: not a readable picture; take it out of the set")
        return np.ascontiguousarray(image[:, :, ::-1])

    def label_map(self) -> NDArray[np.uint8]:
        """uint8 [H, W] class ids, 255 = ignore."""
        return self.labels.read()

    @functools.cached_property
    def areas(self) -> dict[int, float]:
        """Class id → share of the picture, without background and ignore; read from the labels unless stated."""
        if self.known_area is not None:
            return self.known_area
        labels = self.label_map()
        ids, counts = np.unique(labels, return_counts=True)
        shares = zip(ids.tolist(), (counts / labels.size).tolist(), strict=True)
        return {class_id: share for class_id, share in shares if class_id not in (0, IGNORE)}


@dataclass(frozen=True)
class SoundItem:
    """One sound file. `class_id` 0: no picture class makes it. Items of one `recording` lie in one split."""

    id: str
    split: str
    path: Path
    label: str
    class_id: int
    recording: str
    source: str
    licence: str

    def samples(self) -> NDArray[np.float32]:
        """float32 [n] mono 16 kHz; UserError for a corrupt file."""
        return read_samples(self.path)


@dataclass(frozen=True)
class PictureSet:
    """One [[pictures]] table."""

    format: Literal["index", "png", "coco"] = "index"
    path: str = "images.json"  # index: its file; png: folder of label PNGs; coco: annotation file
    images: str = ""  # png, coco: folder of the pictures
    names: str = ""  # png: text file with the names to take, one a line; "" = every label
    split: str = ""  # "train" or "val"; "" = val_share of them, by a hash of the name
    val_share: float = 0.1
    source: str = ""
    licence: str = "not stated"
    quality: str = "human"
    others: Literal["background", "ignore"] = "background"  # what a class without a line becomes


@dataclass(frozen=True)
class SoundSet:
    """One [[sounds]] table."""

    format: Literal["index", "folders"] = "index"
    path: str = "audio.json"  # index: its file; folders: <path>/<label>/<file>
    recording: str = ""  # regular expression on the file name; its first group is the recording; "" = each file
    split: str = ""
    val_share: float = 0.1
    source: str = ""
    licence: str = "not stated"
    others: Literal["off-screen", "left-out"] = "off-screen"  # what a label without a line becomes


SetT = TypeVar("SetT", PictureSet, SoundSet)
ItemT = TypeVar("ItemT", PictureItem, SoundItem)


def load_pictures(data: str | Path, split: str | None = None) -> list[PictureItem]:
    """Pictures of `split` (None = all), in a fixed order. UserError for what is missing or does not fit."""
    items: list[PictureItem] = []
    for root, table, classes in _tables(data, "pictures", PictureSet()):
        reader = {"index": _index_pictures, "png": _png_pictures, "coco": _coco_pictures}[table.format]
        items += reader(root, table, classes)
    return _checked(data, "pictures", items, split)


def load_sounds(data: str | Path, split: str | None = None) -> list[SoundItem]:
    """Sounds of `split` (None = all), in a fixed order. UserError for what is missing or does not fit."""
    items: list[SoundItem] = []
    for root, table, classes in _tables(data, "sounds", SoundSet()):
        class_of = class_of_label(classes, f"{data} [sounds.classes]")
        for row in _sound_rows(root, table):
            if (class_id := class_of.get(row["label"], OFF_SCREEN if table.others == "off-screen" else None)) is None:
                continue
            path = root / row["path"]
            item_id = str(Path(row["path"]).with_suffix(""))
            recording = row.get("recording", item_id)
            home = row.get("split") or table.split or _draw_split(recording, table.val_share)
            source = row.get("source", table.source or root.name)
            items.append(
                SoundItem(
                    item_id, home, path, row["label"], class_id, recording, source, row.get("licence", table.licence)
                )
            )
    return _checked(data, "sounds", items, split)


def _tables(data: str | Path, kind: str, default: SetT) -> Iterable[tuple[Path, SetT, dict[str, str]]]:
    """Each table of `kind`: the folder its paths start from, its settings, its class lines."""
    data = Path(data)
    if data.is_dir():
        yield data, default, {}
        return
    if not data.exists():
        raise UserError(f"data {data}: no such folder or mapping file")
    content = read_file(data)
    for key in content:
        if key not in ("root", "pictures", "sounds"):
            raise UserError(f"mapping {data}: unknown key {key!r}; known: root, [[pictures]], [[sounds]]")
    tables = content.get(kind, [])
    if not isinstance(tables, list) or not tables:
        raise UserError(f"mapping {data}: no [[{kind}]] table; see configs/data_example.toml")
    for table in tables:
        classes = table.pop("classes", {})
        yield data.parent / content.get("root", "."), override(default, table, f"mapping {data} [[{kind}]]"), classes


def _checked(data: str | Path, kind: str, items: list[ItemT], split: str | None) -> list[ItemT]:
    """The items of the split, whose files are all there."""
    if not items:
        raise UserError(f"{kind} of {data}: none found; check the paths and endings in the mapping")
    seen = {item.id for item in items}
    if len(seen) < len(items):
        raise UserError(f"{kind} of {data}: {len(items) - len(seen)} names occur twice; give each set its own folder")
    chosen = [item for item in items if split in (None, item.split)]
    if not chosen:
        there = ", ".join(sorted({item.split for item in items}))
        raise UserError(f"{kind} of {data}: none in split {split!r}; there are: {there}")
    missing = [item.path for item in chosen if not item.path.is_file()]
    if missing:
        raise UserError(f"{kind} of {data}: {len(missing)} of {len(chosen)} files are missing, the first {missing[0]}")
    return chosen


def _draw_split(name: str, val_share: float) -> str:
    """Steady whatever else is in the set: the name alone decides."""
    return "val" if int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) < val_share * 2**32 else "train"


def _read_index(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"data {path}: cannot be read: {error.strerror}; give --data a data folder or mapping"
        ) from None
    except ValueError as error:
        raise UserError(f"data {path}: not JSON: {error}") from None


def _index_pictures(root: Path, table: PictureSet, classes: dict[str, str]) -> list[PictureItem]:
    path = root / table.path
    content = _read_index(path)
    try:
        names = content["classes"]
        wanted = [class_id_of(classes.get(name, name), f"data {path}", WORDS) for name in names]
        recode = None
        if wanted != list(range(len(names))):
            recode = tuple(wanted + [IGNORE] * (256 - len(names)))
        return [
            PictureItem(
                row["id"],
                row["split"],
                path.parent / row["image"],
                PngLabels(path.parent / row["label"], recode),
                row["source"],
                row["licence"],
                row["mask_quality"],
                {wanted[names.index(name)]: share for name, share in row["area"].items()} if recode is None else None,
            )
            for row in content["items"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"data {path}: not a picture index: {type(error).__name__} {error}") from None


def _png_pictures(root: Path, table: PictureSet, classes: dict[str, str]) -> list[PictureItem]:
    recode = [WORDS[table.others]] * 256
    recode[0], recode[IGNORE] = 0, IGNORE
    for value, name in classes.items():
        if not value.isdigit() or int(value) > 255:
            raise UserError(f"mapping: [pictures.classes] of class PNGs asks numbers 0 to 255, got {value!r}")
        recode[int(value)] = class_id_of(name, "mapping [pictures.classes]", WORDS)
    folder, images = root / table.path, root / table.images
    if table.names:
        try:
            names = (root / table.names).read_text(encoding="utf-8").split()
        except OSError as error:
            raise UserError(f"mapping: names {root / table.names}: cannot be read: {error.strerror}") from None
    else:
        names = sorted(path.stem for path in folder.glob("*.png"))
    files = {path.stem: path for path in sorted(images.glob("*")) if path.suffix.lower() in PICTURE_ENDINGS}
    items = []
    for name in names:
        labels = folder / f"{name}.png"
        if name not in files or not labels.is_file():
            got = f"no picture in {images}" if name not in files else f"no {labels}"
            raise UserError(f"mapping: picture {name!r}: {got}")
        items.append(_picture(name, files[name], PngLabels(labels, tuple(recode)), root, table))
    return items


def _coco_pictures(root: Path, table: PictureSet, classes: dict[str, str]) -> list[PictureItem]:
    wanted = {name: index for index, name in enumerate(CLASSES)}
    wanted |= {theirs: class_id_of(ours, "mapping [pictures.classes]", WORDS) for theirs, ours in classes.items()}
    found = read_coco(root / table.path, root / table.images, wanted, WORDS[table.others])
    return [_picture(name, path, labels, root, table) for name, path, labels in found]


def _picture(name: str, path: Path, labels: PngLabels | CocoLabels, root: Path, table: PictureSet) -> PictureItem:
    split = table.split or _draw_split(name, table.val_share)
    return PictureItem(name, split, path, labels, table.source or root.resolve().name, table.licence, table.quality)


def _sound_rows(root: Path, table: SoundSet) -> list[dict[str, str]]:
    """Rows with at least path (from `root`) and label."""
    path = root / table.path
    if table.format == "index":
        rows = _read_index(path)
        if not isinstance(rows, list) or not all(
            isinstance(row, dict) and {"path", "label"} <= row.keys() for row in rows
        ):
            raise UserError(f"data {path}: not a sound index: asked a list of objects with path and label")
        return [{**row, "path": str((path.parent / row["path"]).relative_to(root))} for row in rows]
    rows = []
    for file in sorted(path.glob("*/*")):
        if file.suffix.lower() in SOUND_ENDINGS:
            row = {"path": str(file.relative_to(root)), "label": file.parent.name}
            if table.recording:
                match = re.search(table.recording, file.name)
                if match is None or not match.groups():
                    raise UserError(f"sound {file}: its name has no recording as {table.recording!r} asks it")
                row["recording"] = match.group(1)
            rows.append(row)
    return rows
