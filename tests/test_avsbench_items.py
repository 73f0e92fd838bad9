"""AVSBench in the evaluation: frames clip by clip, strangers' sounds, silence and noise of patches and waveforms."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.io import wavfile

from rt_avsac.model import checkpoint
from rt_avsac.model.avsac import Avsac
from rt_avsac.model.settings import ModelSettings
from train.avsbench import AvsBench
from train.avsbench_items import LOG_MEL_OFFSET, avsbench_items, noise_like, silence
from train.classes import CLASSES
from train.evaluate import main
from train.items import ORIGINAL


@pytest.fixture(scope="module")
def s4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories of two validation clips each, as AVSBench packs them: 5 frames, a disc that sounds."""
    root = tmp_path_factory.mktemp("avsbench") / "Single-source"
    rows = ["name,start,category,split"]
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 64), np.uint8)
    cv2.circle(mask, (30, 30), 15, 255, -1)
    for category in ("dog", "drum"):
        for number in range(2):
            name = f"{category}{number}"
            rows.append(f"{name},0,{category},val")
            sound = root / f"s4_data/audio_wav/val/{category}/{name}.wav"
            sound.parent.mkdir(parents=True, exist_ok=True)
            wavfile.write(sound, 16_000, (0.1 * rng.standard_normal(80_000)).astype(np.float32))
            for kind in ("visual_frames", "gt_masks"):
                folder = root / f"s4_data/{kind}/val/{category}/{name}"
                folder.mkdir(parents=True)
                for frame in range(1, 6):
                    picture = mask if kind == "gt_masks" else rng.integers(0, 255, (64, 64, 3), np.uint8)
                    cv2.imwrite(str(folder / f"{name}_{frame}.png"), picture)
    (root / "s4_meta_data.csv").write_text("\n".join(rows))
    return root.parent


def test_by_clip_and_category(s4: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "small.safetensors", Avsac(ModelSettings(image_size=64)), list(CLASSES), {})
    words = [str(tmp_path / "small.safetensors"), "--data", str(s4), "--kind", "avsbench_s4", "--threads", "1"]
    assert main([*words, "--num", "0", "--shares", "1"]) == 0
    captured = capsys.readouterr()
    line = json.loads(captured.out.strip().splitlines()[-1])
    assert line["num_items"] == 20
    assert line["swap_accuracy"] is None  # nothing says what else could sound
    assert line["alarm_off_screen"] is not None
    assert "only its masks are judged" in captured.err  # 29 classes, and a set of one
    rows = [row.split()[:2] for row in captured.out.splitlines()]
    assert ["dog", "10"] in rows
    assert ["drum", "10"] in rows
    assert "What the edge model must reach" not in captured.out


def test_items_stay_in_their_clips(s4: Path) -> None:
    items = list(avsbench_items(AvsBench("s4", s4, "val"), num=10, seed=3, size=64))
    assert [item.clip for item in items] == [items[0].clip] * 5 + [items[5].clip] * 5
    for item in items:
        assert not item.conditions["muted"].any()
        loudness = [float(np.sqrt(np.mean(item.conditions[name] ** 2))) for name in (ORIGINAL, "noise")]
        assert loudness[0] == pytest.approx(loudness[1], rel=0.01)
        assert item.label not in item.sources[1]  # the stranger's category is another
        assert not item.mask_by_condition["off-screen"].any()


def test_noise_like_a_log_mel_patch() -> None:
    rng = np.random.default_rng(0)
    patch = np.log(rng.random((1, 96, 64)) + LOG_MEL_OFFSET).astype(np.float32)
    assert silence(patch) == pytest.approx(np.log(LOG_MEL_OFFSET))
    noise = noise_like(patch, rng)
    assert noise.shape == patch.shape
    power = [float(np.mean((np.exp(values) - LOG_MEL_OFFSET) ** 2)) for values in (patch, noise)]
    assert power[0] == pytest.approx(power[1], rel=1e-3)
