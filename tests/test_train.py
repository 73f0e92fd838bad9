"""Training for real, on a small set: resume, two processes, damaged input, losses that teach silence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_set import ROOT, arguments, make_small_set

from rt_avsac.model import checkpoint
from train import log
from train.bank import Bank, build
from train.clip import compose_clip
from train.compose import evaluation_items
from train.items import CONDITIONS, MUTED, NOISE, ORIGINAL
from train.losses import bce, dice, sounding_target
from train.mapping import load_pictures, load_sounds
from train.run import main
from train.samples import Composed, choose_heard
from train.scene import Pictures, compose
from train.settings import DataSettings, read_run
from train.sound import Sounds, mix, rms


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_set(tmp_path_factory.mktemp("set") / "data")


def state_of(out: Path) -> dict[str, torch.Tensor]:
    content = torch.load(out / "state.pt", weights_only=True)
    return {f"{part}.{key}": value for part in ("net", "ema") for key, value in content[part].items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_a_killed_run_resumes_bit_for_bit(data: Path, tmp_path: Path) -> None:
    more = ("audio_bank=24", "decay_share=0.5")
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert main(arguments(data, whole, 4, *more)) == 0
    command = [sys.executable, "-m", "train", *arguments(data, halves, 4, *more)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:  # the first step is written at once
        if line.startswith("step 1/"):
            break
    while not (halves / "state.pt").is_file():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert main(arguments(data, halves, 4, *more)) == 0
    assert_same(state_of(whole), state_of(halves))
    steps = [row["step"] for row in log.read_rows(halves / "log.csv")]
    assert steps == sorted(set(steps)), "no step is logged twice"
    assert (halves / "curves.png").read_bytes()[:4] == b"\x89PNG"
    net, header = checkpoint.load(halves / "best.safetensors")
    assert header["step"] == 4
    assert header["settings"]["image_size"] == net.settings.image_size == 64


def test_two_processes_train_as_one(data: Path, tmp_path: Path) -> None:
    more = ("frozen_batch_norm=all", "num_validation_scenes=1")
    assert main(arguments(data, tmp_path / "one", 3, *more)) == 0
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0", "-m", "train", *arguments(data, tmp_path / "two", 3, *more),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = state_of(tmp_path / "one"), state_of(tmp_path / "two")
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=2e-3, atol=2e-4, msg=key)
    first, second = (log.read_rows(tmp_path / name / "log.csv")[-1]["total"] for name in ("one", "two"))
    assert second == pytest.approx(first, rel=1e-3)


def test_corrupt_picture_is_named_and_nothing_is_lost(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = make_small_set(tmp_path / "bad")
    assert main(arguments(bad, tmp_path / "run", 1)) == 0
    before = (tmp_path / "run" / "state.pt").read_bytes()
    for path in (bad / "images").glob("train-*.png"):
        path.write_bytes(b"not a picture")
    assert main(arguments(bad, tmp_path / "run", 2, "num_workers=1")) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "train-" in last
    assert "not a readable picture" in last
    assert (tmp_path / "run" / "state.pt").read_bytes() == before


def test_dead_worker_is_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Composed, "__getitem__", die)
    assert main(arguments(data, tmp_path, 2, "num_workers=1")) == 2
    assert "data worker died" in capsys.readouterr().err.splitlines()[-1]


def test_loss_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(data, tmp_path, 1)) == 0
    before = (tmp_path / "state.pt").read_bytes()
    assert main(arguments(data, tmp_path, 3, "dice_weight=nan")) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "step 1: the loss is nan" in last
    assert (tmp_path / "state.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["lrr=1"], "did you mean 'lr'"),
        (["train.lrr=1"], "did you mean 'lr'"),
        (["audio_bank=8", "audio_lr=1e-4"], "audio_lr must be 0"),
        (["root=nowhere"], "nowhere"),
        (["start_from=nowhere.safetensors"], "no such file"),
        (["batch_size=0"], "must be positive"),
        (["num_classes=5"], "have 29 classes"),
    ],
)
def test_wrong_settings_are_one_line(
    data: Path, tmp_path: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(data, tmp_path, 1, *more)) == 2
    err = capsys.readouterr().err
    assert says in err.splitlines()[-1]
    assert "Traceback" not in err


def test_state_of_another_network_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(data, tmp_path, 1)) == 0
    assert main(arguments(data, tmp_path, 2, "num_layers=1")) == 2
    assert "cannot be resumed" in capsys.readouterr().err.splitlines()[-1]


def test_every_config_reads() -> None:
    for path in (ROOT / "configs").glob("avs*.toml"):
        assert read_run(path, {}).model.name


def test_scenes_and_sounds_are_the_same_for_the_same_seed(data: Path) -> None:
    settings = DataSettings(paste_share=0.7, collage_share=0.2)
    sounds = Sounds(load_sounds(data, "train"), settings)
    pictures = Pictures(load_pictures(data, "train"), sounds.classes, settings)
    composed = Composed(pictures, sounds, settings, 7, 29, None)
    first, second, other = composed[(3, 96)], composed[(3, 96)], composed[(4, 96)]
    assert all(np.array_equal(first[key], second[key]) for key in ("image", "label", "audio", "heard"))
    assert not np.array_equal(first["image"], other["image"])
    names = {item.id for item in (*pictures.items, *load_sounds(data, "train"))}
    for part in str(first["ids"][0]).split(","):  # type: ignore[index]
        assert part in names or part == "mute" or part.startswith("noise"), "every part is traceable"
    several = [compose(np.random.default_rng(i), pictures, settings, 96) for i in range(20)]
    assert max(len(scene.classes) for scene in several) >= 2, "objects are pasted in"


def test_two_classes_are_enough(tmp_path: Path) -> None:
    """Scenes in which both are there already have nothing left to paste or to set beside them."""
    data = make_small_set(tmp_path / "two", names=("dog", "cat"))
    items = list(evaluation_items(data, num=60, size=64))
    assert {item.class_ids for item in items} == {(2,), (3,), (2, 3), (3, 2)}
    both = Pictures(load_pictures(data, "train"), (2, 3), settings := DataSettings(collage_share=1.0))
    for item in both.items:
        item.known_area.update({2: 0.2, 3: 0.2})  # type: ignore[union-attr]
    assert len(compose(np.random.default_rng(0), both, settings, 64).sources) == 1, "a picture of both stays alone"


@pytest.mark.parametrize("bank", ["0", "20"])
def test_a_mask_alone_can_be_learnt_from_composed_scenes(bank: str, data: Path, tmp_path: Path) -> None:
    settings = ("num_classes=1", "class_match=false", f"audio_bank={bank}")
    assert main(arguments(data, tmp_path / "run", 1, *settings)) == 0
    header = checkpoint.read_header(tmp_path / "run" / "best.safetensors")
    assert header["classes"] == ["background", "sounding"]


def test_mixtures_hold_what_they_say(data: Path) -> None:
    settings = DataSettings(ambience_share=0.0, onset_share=0.0, pitch_share=0.0, gain_db=6.0)
    sounds = Sounds(load_sounds(data, "train"), settings)
    mixture = mix(np.random.default_rng(0), sounds, [2, 3], settings)
    spectrum = np.abs(np.fft.rfft(mixture.samples))
    at = {pitch: spectrum[round(pitch * 15_600 / 16_000)] for pitch in (440, 1200, 3000)}
    assert at[440] > 20 * at[3000]
    assert at[1200] > 20 * at[3000]
    assert 10 ** (-12 / 20) < at[440] / at[1200] < 10 ** (12 / 20), "gains within ±6 dB each"
    assert mixture.heard == {2, 3}
    low, high = settings.level_dbfs
    assert low - 0.5 < 20 * np.log10(rms(mixture.samples)) < high + 0.5


def test_share_of_negatives_and_swaps() -> None:
    settings = DataSettings(num_audios=2, negative_share=0.2)
    drawn = [choose_heard(np.random.default_rng(i), (2, 3), settings) for i in range(500)]
    negatives = np.mean([isinstance(what, str) for pair in drawn for what in pair])
    assert 0.15 < negatives < 0.25
    both = [pair for pair in drawn if not any(isinstance(what, str) for what in pair)]
    assert np.mean([first != second for first, second in both]) > 0.8, "the mask has to move with the sound"


def test_clips_move_begin_and_end(data: Path) -> None:
    settings = DataSettings(ambience_share=0.0)
    sounds = Sounds(load_sounds(data, "train"), settings)
    pictures = Pictures(load_pictures(data, "train"), sounds.classes, settings)
    begun = 0
    for seed in range(6):
        clip = compose_clip(np.random.default_rng(seed), pictures, sounds, settings, size=64, num_frames=6, fps=2.0)
        assert not np.array_equal(clip.images[0], clip.images[-1]), "stills move"
        for frame, mask in enumerate(clip.masks):
            if not any(begin < frame / 2.0 for begin, _ in clip.intervals.values()):
                assert not np.isin(mask, (0, 255), invert=True).any(), "nothing sounds before its onset"
                assert rms(clip.window(frame)[-400:]) < 1e-3
                begun += 1
    assert begun, "some frames lie before an onset"


def test_evaluation_items_are_what_the_protocol_asks(data: Path) -> None:
    items = list(evaluation_items(data, seed=1, num=8, size=96))
    again = list(evaluation_items(data, seed=1, num=8, size=96))
    assert [item.id for item in items] == [item.id for item in again]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(items, again, strict=True))
    assert sum(len(item.class_ids) > 1 for item in items) == 4, "half of them have two objects that can sound"
    for item in items:
        assert set(item.conditions) <= set(CONDITIONS)
        assert not item.conditions[MUTED].any()
        assert rms(item.conditions[NOISE]) == pytest.approx(rms(item.conditions[ORIGINAL]), rel=0.02)
        assert item.sounding(ORIGINAL)
        assert not item.sounding(NOISE)


def test_squared_dice_cannot_teach_silence_and_bce_can() -> None:
    logit = torch.full((1, 4, 4), -1.0, requires_grad=True)
    nothing, valid = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    dice(torch.zeros_like(logit) + logit.sigmoid() * 0, nothing, valid).backward()
    assert logit.grad is not None
    assert logit.grad.abs().max() == 0
    bce(logit, nothing, valid).backward()
    assert (logit.grad > 0).all()


def test_sounding_target_is_the_pixels_of_heard_classes() -> None:
    label = torch.tensor([[[0, 2], [3, 255]]], dtype=torch.uint8)
    heard = torch.zeros(1, 2, 29, dtype=torch.bool)
    heard[0, 0, 2] = heard[0, 1, 0] = True
    target, valid = sounding_target(label, heard)
    assert target.tolist() == [[[0, 1], [0, 0]], [[0, 0], [0, 0]]]
    assert valid[0].tolist() == [[1, 1], [1, 0]]


def test_bank_finds_rows_by_what_is_heard() -> None:
    heard = torch.tensor([[0, 1, 0], [0, 0, 0], [0, 1, 1], [0, 1, 0]], dtype=torch.bool)
    bank = Bank(torch.zeros(4, 2, 1, 1), heard)
    assert bank.rows[frozenset({1})] == [0, 3]
    assert bank.rows[frozenset()] == [1]
    assert bank.rows[frozenset({1, 2})] == [2]


def test_a_varied_bank_holds_the_same_sounds_recorded_elsewhere(data: Path) -> None:
    hears_itself = torch.nn.Identity()
    banks = []
    for times in (0, 2):
        settings = DataSettings(audio_bank=12, bank_variations=times)
        sounds = Sounds(load_sounds(data, "train"), settings)
        banks.append(build(hears_itself, sounds, settings, 29, say=print))
    plain, varied = banks
    assert torch.equal(plain.heard, varied.heard)
    changed = (plain.cells - varied.cells).abs().amax(dim=1) > 1e-3
    assert changed.float().mean() > 0.5, "two chances of four in five each"
    assert varied.cells.abs().max() <= 1.0
