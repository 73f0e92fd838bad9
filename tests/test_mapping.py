"""Mapping files: PNG, COCO and index pictures, folders of sounds, and their errors."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest

from rt_avsac.errors import UserError
from train.audio_file import read_samples
from train.classes import CLASSES
from train.label_map import decompress, draw
from train.mapping import load_pictures, load_sounds

DOG, CAT, SHEEP = CLASSES.index("dog"), CLASSES.index("cat"), CLASSES.index("sheep")


def write_picture(path: Path, red: int = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((6, 8, 3), np.uint8)
    image[:, :, 2] = red  # OpenCV writes BGR
    assert cv2.imwrite(str(path), image)


def write_labels(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), labels.astype(np.uint8))


def write_sound(path: Path, rate: int = 16_000, channels: int = 1, num: int = 1600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.full((num, channels), 8192, "<i2")
    samples[:, 1:] = 0
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


def test_class_pngs_are_recoded(tmp_path: Path) -> None:
    labels = np.zeros((6, 8))
    labels[0], labels[1], labels[2] = 12, 9, 255
    for name in ("a", "b"):
        write_picture(tmp_path / f"pictures/{name}.png")
        write_labels(tmp_path / f"masks/{name}.png", labels)
    (tmp_path / "names.txt").write_text("b\n")
    (tmp_path / "data.toml").write_text(
        '[[pictures]]\nformat = "png"\npath = "masks"\nimages = "pictures"\nnames = "names.txt"\nsplit = "val"\n'
        'licence = "CC0"\nsource = "mine"\nquality = "pseudo"\nclasses = { 12 = "dog" }\n'
    )
    (item,) = load_pictures(tmp_path / "data.toml", "val")
    assert (item.id, item.licence, item.source, item.quality) == ("b", "CC0", "mine", "pseudo")
    got = item.label_map()
    assert got.dtype == np.uint8
    assert [got[row, 0] for row in range(4)] == [DOG, 0, 255, 0]
    assert item.areas == {DOG: pytest.approx(1 / 6)}
    assert item.image()[0, 0].tolist() == [200, 0, 0]  # RGB
    with pytest.raises(UserError, match="none in split 'train'; there are: val"):
        load_pictures(tmp_path / "data.toml", "train")


def test_palette_pngs_keep_their_numbers(tmp_path: Path) -> None:
    from PIL import Image

    write_picture(tmp_path / "p/a.jpg")
    palette = Image.fromarray(np.full((6, 8), 3, np.uint8)).convert("P")
    palette.putpalette([value for index in range(256) for value in (255 - index, index, 0)])
    (tmp_path / "m").mkdir()
    palette.save(tmp_path / "m/a.png")
    (tmp_path / "d.toml").write_text(
        '[[pictures]]\nformat = "png"\npath = "m"\nimages = "p"\nclasses = { 3 = "cat" }\n'
    )
    (item,) = load_pictures(tmp_path / "d.toml")
    assert np.unique(item.label_map()).tolist() == [CAT]


def coco_set(folder: Path) -> Path:
    write_picture(folder / "pictures/one.png")
    square = [1, 1, 4, 1, 4, 3, 1, 3]  # columns 1 to 3, rows 1 and 2
    annotations = [
        {"image_id": 7, "category_id": 1, "area": 6, "segmentation": [square]},
        {"image_id": 7, "category_id": 2, "area": 2, "segmentation": {"size": [6, 8], "counts": [6, 2, 40]}},
        {"image_id": 7, "category_id": 3, "area": 1, "iscrowd": 1, "segmentation": {"size": [6, 8], "counts": [47, 1]}},
    ]
    images = [{"id": 7, "file_name": "one.png", "height": 6, "width": 8}]
    images.append({"id": 8, "file_name": "nothing_in_it.png", "height": 6, "width": 8})
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "kitten"}, {"id": 3, "name": "person"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    (folder / "d.toml").write_text(
        '[[pictures]]\nformat = "coco"\npath = "instances.json"\nimages = "pictures"\nsplit = "val"\n'
        '[pictures.classes]\nkitten = "cat"\n'
    )
    return folder / "d.toml"


def test_coco_polygons_runs_and_crowds(tmp_path: Path) -> None:
    (item,) = load_pictures(coco_set(tmp_path))
    labels = item.label_map()
    expected = np.zeros((6, 8), np.uint8)
    expected[1:3, 1:4] = DOG
    expected[0:2, 1] = CAT  # smaller, so in front
    expected[5, 7] = 255  # a crowd does not count
    np.testing.assert_array_equal(labels, expected)


def test_coco_compressed_runs() -> None:
    # pycocotools' text of the 6 x 8 mask whose rows 2-3 of columns 1-3 are set
    assert decompress("824000f0") == [8, 2, 4, 2, 4, 2, 26]
    mask = draw({"counts": "824000f0"}, 6, 8)
    assert np.argwhere(mask).tolist() == [[row, column] for row in (2, 3) for column in (1, 2, 3)]
    with pytest.raises(UserError, match="48"):
        draw({"counts": [5, 2]}, 6, 8)


def test_folders_of_sounds(tmp_path: Path) -> None:
    write_sound(tmp_path / "s/bark/r1-0.wav")
    write_sound(tmp_path / "s/bark/r1-1.wav", rate=8_000, channels=2)
    write_sound(tmp_path / "s/sheep/r2-0.wav")
    write_sound(tmp_path / "s/siren/r3-0.wav")
    write_sound(tmp_path / "s/chimes/r4-0.wav")
    (tmp_path / "s/siren/notes.txt").write_text("not a sound")
    (tmp_path / "d.toml").write_text(
        '[[sounds]]\nformat = "folders"\npath = "s"\nrecording = "^([^-]+)-"\nval_share = 0.5\nlicence = "CC0"\n'
        '[sounds.classes]\nbark = "dog"\nchimes = "left-out"\n'
    )
    items = {item.path.name: item for item in load_sounds(tmp_path / "d.toml")}
    assert {name: item.class_id for name, item in items.items()} == {
        "r1-0.wav": DOG, "r1-1.wav": DOG, "r2-0.wav": SHEEP, "r3-0.wav": 0,
    }  # fmt: skip
    assert items["r1-0.wav"].split == items["r1-1.wav"].split  # one recording, one split
    assert items["r1-0.wav"].recording == "r1"
    samples = items["r1-0.wav"].samples()
    assert samples.dtype == np.float32
    assert samples.shape == (1600,)
    assert samples[800] == pytest.approx(0.25)
    stereo = items["r1-1.wav"].samples()
    assert stereo.shape == (3200,)
    assert stereo[1600] == pytest.approx(0.125, abs=0.01)  # the mean of both channels


def test_index_layout(tmp_path: Path) -> None:
    write_picture(tmp_path / "images/a.jpg")
    write_labels(tmp_path / "labels/a.png", np.full((6, 8), DOG))
    write_sound(tmp_path / "audio/dog/1.wav")
    row = {"id": "a", "image": "images/a.jpg", "label": "labels/a.png", "split": "val", "mask_quality": "human"}
    row |= {"source": "s", "licence": "l", "area": {"dog": 1.0}}
    (tmp_path / "images.json").write_text(json.dumps({"classes": list(CLASSES), "items": [row]}))
    sound = {"path": "audio/dog/1.wav", "label": "dog", "split": "val", "recording": "r", "source": "s", "licence": "l"}
    (tmp_path / "audio.json").write_text(json.dumps([sound]))
    (picture,) = load_pictures(tmp_path, "val")
    assert picture.areas == {DOG: 1.0}
    assert picture.label_map()[0, 0] == DOG
    (heard,) = load_sounds(tmp_path, "val")
    assert (heard.label, heard.class_id, heard.recording) == ("dog", DOG, "r")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[pictures]]\nformat = 'png'\npath = 'nowhere'\nimages = 'nowhere'\n", "none found"),
        ("[[pictures]]\nformat = 'png'\nimage = 'p'\n", "did you mean 'images'"),
        ("[[pictures]]\nformat = 'voc'\n", "index, png, coco"),
        ("[[pictures]]\nformat = 'png'\nclasses = { 12 = 'dogg' }\n", "'dogg'"),
        ("[[pictures]]\nformat = 'coco'\npath = 'd.toml'\n", "not a COCO"),
        ("[[pictures]]\nformat = 'index'\npath = 'gone.json'\n", "No such file"),
        ("picture = 1\n", "unknown key 'picture'"),
        ("[[sounds]]\n", "no [[pictures]] table"),
    ],
)
def test_errors_are_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "d.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_pictures(tmp_path / "d.toml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_corrupt_files_are_named(tmp_path: Path) -> None:
    mapping = coco_set(tmp_path)
    (item,) = load_pictures(mapping)
    (tmp_path / "pictures/one.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"one\.png: not a readable picture"):
        item.image()
    (tmp_path / "pictures/one.png").unlink()
    with pytest.raises(UserError, match=r"1 of 1 files are missing.*one\.png"):
        load_pictures(mapping)
    (tmp_path / "s/dog").mkdir(parents=True)
    (tmp_path / "s/dog/a.wav").write_bytes(b"not a sound")
    (tmp_path / "s.toml").write_text('[[sounds]]\nformat = "folders"\npath = "s"\n')
    (sound,) = load_sounds(tmp_path / "s.toml")
    with pytest.raises(UserError, match=r"a\.wav: cannot be decoded"):
        sound.samples()


def test_sounds_with_tags_in_another_alphabet_are_read(tmp_path: Path) -> None:
    """A copyright sign in Latin-1, as old programs wrote it into WAV files."""
    path = tmp_path / "old.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.full(1600, 3277, "<i2").tobytes())
    tag = b"\xa9 1999 someone\0\0"
    info = b"INFOICOP" + len(tag).to_bytes(4, "little") + tag
    content = path.read_bytes() + b"LIST" + len(info).to_bytes(4, "little") + info
    path.write_bytes(content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:])
    np.testing.assert_allclose(read_samples(path), np.full(1600, 0.1, np.float32), atol=1e-4)


def test_the_example_parses() -> None:
    with pytest.raises(UserError, match=r"names .*trainval"):  # its data is not here, but every key of it is known
        load_pictures(Path(__file__).parents[1] / "configs/data_example.toml")
