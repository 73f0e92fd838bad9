"""AVSBench as on disk: tiny copies of S4, MS3 and AVSS, with their oddities, read frame by frame."""

from __future__ import annotations

import csv
import json
import pickle
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rt_avsac.errors import UserError
from rt_avsac.model.checkpoint import load
from train.avsbench import AvsBench, palette, read_classes, read_color_mask
from train.bench_samples import BenchSamples
from train.log_mel_file import read_log_mel
from train.losses import sounding_target
from train.run import main as train
from train.samples import collate

NAMES = ["background", *(f"class{number}" for number in range(1, 68)), "horse", "man", "dog"]


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_picture(path: Path, value: int, side: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side + 4, 3), value, np.uint8)).save(path)


def half(side: int = 16) -> np.ndarray:
    """The left half is the object."""
    mask = np.zeros((side, side + 4), np.uint8)
    mask[:, : (side + 4) // 2] = 1
    return mask


def write_binary_mask(path: Path, mode: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(half() * 255)
    if mode == "P":
        image = Image.frombytes("P", image.size, (half() * 255).tobytes())
        image.putpalette([0, 0, 0] * 255 + [128, 0, 0])  # the number 255 is what counts, not its colour
    elif mode in ("1", "RGB"):
        image = image.convert(mode)
    image.save(path)


def write_wav(path: Path, seconds: float, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    """A ramp: its value tells the time; -0.5 at the start, +0.1 a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = -0.5 + 0.1 * np.arange(int(seconds * rate)) / rate
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(np.round(ramp * 32767).astype("<i2"), channels).tobytes())
    return ramp


def write_patches(path: Path) -> torch.Tensor:
    """As the authors made them: a pickled tensor that still wants a gradient."""
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = torch.randn(5, 96, 64, requires_grad=True)[:, None].float()
    path.write_bytes(pickle.dumps(patches))
    return patches.detach()


@pytest.fixture
def s4(tmp_path: Path) -> Path:
    rows = []
    for split in ("train", "val", "test"):
        for category in ("dog_barking", "playing_piano"):
            name = f"{category[:4]}_{split}_1"
            rows.append({"name": name, "start": 3, "category": category, "split": split})
            data = tmp_path / "Single-source" / "s4_data"
            for k in range(1, 6):
                write_picture(data / "visual_frames" / split / category / name / f"{name}_{k}.png", 10 * k)
                if split != "train" or k == 1:
                    write_binary_mask(data / "gt_masks" / split / category / name / f"{name}_{k}.png", "1")
            write_wav(data / "audio_wav" / split / category / f"{name}.wav", 5.0)
            write_patches(data / "audio_log_mel" / split / category / f"{name}.pkl")
    write_table(tmp_path / "Single-source" / "s4_meta_data.csv", rows)
    return tmp_path


@pytest.fixture
def ms3(tmp_path: Path) -> Path:
    rows = [{"video_id": f"{split}_clip_1", "split": split} for split in ("train", "val", "test")]
    write_table(tmp_path / "Multi-sources" / "ms3_meta_data.csv", rows)
    data = tmp_path / "Multi-sources" / "ms3_data"
    for row in rows:
        name, split = row["video_id"], row["split"]
        for k in range(1, 6):
            write_picture(data / "visual_frames" / name / f"{name}.mp4_{k}.png", 10 * k)
            write_binary_mask(data / "gt_masks" / split / name / f"{name}_{k}.png", "P")
        write_patches(data / "audio_log_mel" / split / f"{name}.pkl")
    return tmp_path


@pytest.fixture
def avss(tmp_path: Path) -> Path:
    root = tmp_path / "AVSS"
    rows = []
    clips = [
        ("one", "v1s", "train", "man", 5, 1),
        ("two", "v1s", "val", "dog", 5, 5),
        ("three", "v1m", "train", "dog_man", 5, 5),
        ("four", "v2", "train", "h orse", 10, 10),
        ("five", "v2", "train", "off-the-screen", 10, 10),
        ("six", "v2", "train", "background", 10, 10),
    ]
    for uid, subset, split, objects, num_frames, num_masks in clips:
        row = {"vid": uid, "uid": uid, "s_min": 0, "s_sec": 5, "a_obj": objects, "split": split, "label": subset}
        rows.append(row)
        for i in range(num_frames):
            write_picture(root / subset / uid / "frames" / f"{i}.jpg", 10 * i)
            if i < num_masks:
                path = root / subset / uid / "labels_rgb" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                shown = 0 if objects in ("off-the-screen", "background") else NAMES.index("dog")
                Image.fromarray(palette()[half() * shown]).save(path)
        rate, channels = (48_000, 2) if uid == "five" else (16_000, 1)
        write_wav(root / subset / uid / "audio.wav", float(num_frames), rate, channels)
    write_table(root / "metadata.csv", rows)
    (root / "label2idx.json").write_text(json.dumps({name: number for number, name in enumerate(NAMES)}))
    return tmp_path


def test_s4(s4: Path) -> None:
    train, val = AvsBench("s4", s4, "train"), AvsBench("s4", s4, "val")
    assert len(train) == len(val) == 2 * 5
    assert train.labelled == (0, 5)  # only the first frame of each training clip
    assert len(val.labelled) == 10
    samples = list(train)
    assert [(s.clip, s.index) for s in samples[3:7]] == [
        ("dog__train_1", 3),
        ("dog__train_1", 4),
        ("play_train_1", 0),
        ("play_train_1", 1),
    ]
    assert [s.mask is not None for s in samples] == [True, False, False, False, False] * 2
    assert samples[0].labels == ("dog_barking",)
    assert [int(s.image[0, 0, 0]) for s in samples[:5]] == [10, 20, 30, 40, 50]
    assert samples[0].image.shape == (16, 20, 3)
    assert np.array_equal(samples[0].mask, half())  # type: ignore[arg-type]


def test_the_sound_is_what_ends_at_the_frame(s4: Path) -> None:
    for sample in list(AvsBench("s4", s4, "train"))[:5]:
        assert sample.audio.shape == (15_600,)
        assert sample.audio.dtype == np.float32
        end_s = sample.index + 1 - 0.0625
        assert sample.audio[-1] == pytest.approx(-0.5 + 0.1 * (end_s - 1 / 16_000), abs=1e-4)
        time_s = end_s - 0.975 + np.arange(15_600) / 16_000
        want = np.where(time_s < 0, 0.0, -0.5 + 0.1 * time_s)
        np.testing.assert_allclose(sample.audio, want, atol=1e-4)
    assert (AvsBench("s4", s4, "train")[0].audio[:600] == 0).all()  # before the clip begins


def test_a_short_sound_ends_in_silence(s4: Path) -> None:
    bench = AvsBench("s4", s4, "val")
    write_wav(bench.clips[0].audio, 4.5)
    assert (bench[4].audio[-7000:] == 0).all()
    assert (bench[4].audio[:8000] != 0).all()


def test_ms3_with_palette_masks_and_log_mel(ms3: Path) -> None:
    bench = AvsBench("ms3", ms3, "train")
    samples = list(bench)
    assert len(samples) == 5
    assert all(np.array_equal(s.mask, half()) for s in samples)  # type: ignore[arg-type]
    want = read_log_mel(bench.clips[0].audio)
    assert want.shape == (5, 1, 96, 64)
    for sample, patch in zip(samples, want, strict=True):
        assert np.array_equal(sample.audio, patch)
    assert [int(s.image[0, 0, 0]) for s in samples] == [10, 20, 30, 40, 50]


def test_waveforms_are_taken_where_there_are_any(ms3: Path) -> None:
    write_wav(ms3 / "Multi-sources" / "ms3_data" / "audio_wav" / "train" / "train_clip_1.wav", 5.0)
    assert AvsBench("ms3", ms3, "train")[2].audio.shape == (15_600,)
    assert AvsBench("ms3", ms3, "val")[2].audio.shape == (1, 96, 64)
    (ms3 / "Multi-sources" / "ms3_data" / "audio_wav" / "train" / "train_clip_1.wav").unlink()
    with pytest.raises(UserError, match=r"train_clip_1\.wav: no such file"):
        AvsBench("ms3", ms3, "train")[2]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_binary_masks_of_any_kind(ms3: Path, mode: str) -> None:
    bench = AvsBench("ms3", ms3, "val")
    path = bench.clips[0].masks[0]
    assert path is not None
    write_binary_mask(path, mode)
    assert np.array_equal(bench[0].mask, half())  # type: ignore[arg-type]


def test_avss(avss: Path) -> None:
    train = AvsBench("avss", avss, "train")
    assert train.classes == tuple(NAMES)
    assert [len(clip.frames) for clip in train.clips] == [5, 5, 10, 10, 10]
    assert [sum(mask is not None for mask in clip.masks) for clip in train.clips] == [1, 5, 10, 10, 10]
    assert [clip.labels for clip in train.clips] == [("man",), ("dog", "man"), ("horse",), (), ()]
    dog = NAMES.index("dog")
    assert np.array_equal(train[0].mask, half() * dog)  # type: ignore[arg-type]
    assert train[1].mask is None
    off_screen = train.places.index((3, 7))
    assert train[off_screen].mask is not None
    assert not train[off_screen].mask.any()  # type: ignore[union-attr]
    assert (train[off_screen].clip, train[off_screen].index) == ("five", 7)
    time_s = 8 - 0.0625 - 0.975 + np.arange(15_600) / 16_000  # 48 kHz stereo, resampled
    np.testing.assert_allclose(train[off_screen].audio, -0.5 + 0.1 * time_s, atol=2e-3)
    assert len(AvsBench("avss", avss, "val").labelled) == 5


def test_labels_that_count_from_one(avss: Path) -> None:
    path = avss / "AVSS" / "label2idx.json"
    path.write_text(json.dumps({name: number + 1 for number, name in enumerate(NAMES)}))
    assert read_classes(path) == tuple(NAMES)
    path.write_text(json.dumps({name: number for number, name in enumerate(NAMES[:70])}))
    with pytest.raises(UserError, match="asked 71 classes in a row, got 70"):
        read_classes(path)
    path.write_text("[1, 2]")
    with pytest.raises(UserError, match="asked a table"):
        read_classes(path)


def test_palette_is_pascal_vocs(tmp_path: Path) -> None:
    colors = palette()
    assert colors.shape == (71, 3)
    assert len({tuple(color) for color in colors.tolist()}) == 71
    # aeroplane 1, bicycle 2, bird 3, boat 4, person 15, tv 20 of PASCAL VOC
    known = {1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 15: (192, 128, 128), 20: (0, 64, 128)}
    assert all(tuple(colors[number].tolist()) == color for number, color in known.items())
    path = tmp_path / "mask.png"
    values = colors[np.arange(71).reshape(1, 71)].copy()
    values[0, 70] = (1, 2, 3)  # no colour of the palette: background
    Image.fromarray(values).save(path)
    assert read_color_mask(path)[0].tolist() == [*range(70), 0]
    Image.fromarray(np.full((4, 4, 3), 7, np.uint8)).save(path)
    with pytest.raises(UserError, match="no colour of the palette"):
        read_color_mask(path)


def test_a_root_that_is_the_set_itself(s4: Path) -> None:
    assert len(AvsBench("s4", s4 / "Single-source", "test")) == 10


def spoil_image(bench: AvsBench) -> Path:
    bench.clips[0].frames[0].write_bytes(b"\x89PNG nothing")
    return bench.clips[0].frames[0]


def lose_image(bench: AvsBench) -> Path:
    bench.clips[0].frames[0].unlink()
    return bench.clips[0].frames[0]


def cut_image(bench: AvsBench) -> Path:
    path = bench.clips[0].frames[0]
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def lose_mask(bench: AvsBench) -> Path:
    path = bench.clips[0].masks[0]
    assert path is not None
    path.unlink()
    return path


def spoil_sound(bench: AvsBench) -> Path:
    bench.clips[0].audio.write_bytes(b"RIFFnothing")
    return bench.clips[0].audio


def lose_sound(bench: AvsBench) -> Path:
    bench.clips[0].audio.unlink()
    return bench.clips[0].audio


@pytest.mark.parametrize("spoil", [spoil_image, lose_image, cut_image, lose_mask, spoil_sound, lose_sound])
@pytest.mark.parametrize("kind", ["s4", "ms3", "avss"])
def test_a_bad_file_is_named(kind: Any, spoil: Callable[[AvsBench], Path], request: pytest.FixtureRequest) -> None:
    bench = AvsBench(kind, request.getfixturevalue(kind), "train")
    path = spoil(bench)
    with pytest.raises(UserError) as caught:
        bench[0]
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_avsbench(tmp_path: Path, s4: Path) -> None:
    with pytest.raises(UserError, match=r"asked AVSS/metadata\.csv in it, found none"):
        AvsBench("avss", tmp_path, "train")
    with pytest.raises(UserError, match="no clip of split 'dev'"):
        AvsBench("s4", s4, "dev")
    write_table(s4 / "Single-source" / "s4_meta_data.csv", [{"name": "x", "split": "train"}])
    with pytest.raises(UserError, match="asked columns category"):
        AvsBench("s4", s4, "train")


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("evil"),)


def test_pickles_are_read_without_running_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "patches.pkl"
    want = torch.randn(5, 1, 96, 64)
    for protocol in (2, 4, 5):
        for value in (want, want.numpy()):
            path.write_bytes(pickle.dumps(value, protocol))
            assert np.array_equal(read_log_mel(path), want.numpy())
    torch.save(want, path)
    assert np.array_equal(read_log_mel(path), want.numpy())
    path.write_bytes(pickle.dumps([want, Evil()]))
    with pytest.raises(UserError, match=r"patches\.pkl: refused or damaged: it asks for"):
        read_log_mel(path)
    assert not (tmp_path / "evil").exists()
    path.write_bytes(pickle.dumps(want[:, 0]))
    with pytest.raises(UserError, match=r"asked patches \[n, 1, 96, 64\], got \[5, 96, 64\]"):
        read_log_mel(path)


@pytest.mark.parametrize("kind", ["s4", "ms3", "avss"])
def test_a_small_network_trains_on_it(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    root = request.getfixturevalue(kind)
    out = tmp_path / "run"
    small = ["image_size=64", "small_size=0", "batch_size=2", "num_workers=0", "epochs=0.5", "num_threads=1"]
    own = ["backbone=efficientnet_lite0", "pixel_encoder_layers=1"]
    if kind != "ms3":  # there it is log-mel patches, which only VGGish hears; its weights take their time to write
        own += ["audio_encoder=yamnet", "audio_tokens=6"]
    dims = ["dim=32", "mask_dim=32", "num_layers=1", "num_queries=24", "mlp_dim=32", "ffn_dim=32", "dropout=0"]
    often = ["validate_every=100", "num_validation_scenes=2", f"out={out}", f"root={root}"]
    config = Path(__file__).parent.parent / "configs" / f"avsac_pvt_{kind}.toml"
    assert train([str(config), *small, *own, *dims, *often]) == 0
    _, header = load(out / "last.safetensors")
    assert header["step"] >= 1
    assert header["classes"][0] == "background"


def test_training_samples_come_once_an_epoch(avss: Path) -> None:
    bench = AvsBench("avss", avss, "train")
    epochs = [[BenchSamples(bench, 0, 71)[(i, 32)] for i in range(start, start + 36)] for start in (0, 36)]
    names = [[str(sample["ids"]) for sample in epoch] for epoch in epochs]
    assert len(bench.labelled) == len(set(names[0])) == 1 + 5 + 30
    assert sorted(names[0]) == sorted(names[1])
    assert names[0] != names[1]
    assert [str(BenchSamples(bench, 0, 71)[(i, 32)]["ids"]) for i in range(3)] == names[0][:3]
    batch = collate(epochs[0])
    assert batch.image.shape == (36, 32, 32, 3)
    assert batch.audio is not None
    assert batch.audio.shape == (36, 1, 15_600)
    target, _ = sounding_target(batch.label, batch.heard)
    assert torch.equal(target > 0, batch.label > 0)
    assert set(batch.label.unique().tolist()) == {0, NAMES.index("dog")}
    assert (batch.label.flatten(1).amax(1) == 0).sum() == 20  # sounds from elsewhere


def test_binary_training_samples_with_log_mel(ms3: Path) -> None:
    samples = BenchSamples(AvsBench("ms3", ms3, "train"), 0, 1)
    batch = collate([samples[(i, 32)] for i in range(5)])
    assert batch.audio is not None
    assert batch.audio.shape == (5, 1, 1, 96, 64)
    target, _ = sounding_target(batch.label, batch.heard)
    assert (target[:, :, :16] == 1).all()
    assert (target[:, :, 16:] == 0).all()
