"""What surrounds a training run: the audio encoder first, parts of other runs, the ablation table, shipping."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_set import arguments, make_small_set

from rt_avsac.errors import UserError
from rt_avsac.model import checkpoint
from rt_avsac.model.avsac import Avsac
from rt_avsac.model.settings import ModelSettings
from rt_avsac.model.yamnet import YamNet
from train import device, hear
from train.ablate import main as ablate
from train.average import main as average
from train.run import main
from train.samples import Batch
from train.ship import main as ship
from train.state import freeze_early_layers


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_set(tmp_path_factory.mktemp("set") / "data")


def test_ablation_table_has_a_spread_and_resumes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, *assignments = arguments(data, tmp_path / "unused", 1, "audio_bank=24", "num_validation_scenes=1")
    asked = [
        config,
        "--out",
        str(tmp_path),
        "--seeds",
        "2",
        "--num",
        "2",
        "--only",
        "BAVD + AVFS",
        "one-way, no AVFS",
        "--",
    ]
    assert ablate(asked + assignments) == 0
    table = (tmp_path / "ablation.md").read_text()
    assert table.count("±") == 16
    assert "| BAVD + AVFS | 2 |" in table
    capsys.readouterr()
    assert ablate(asked + assignments) == 0
    assert "seed 0" not in capsys.readouterr().err, "what is done is not done again"


def test_parts_of_another_run_start_frozen(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(data, tmp_path / "first", 1)) == 0
    start = ["start_from=" + str(tmp_path / "first" / "last.safetensors"), "start_parts=backbone,pixel_encoder"]
    more = [*start, "freeze_parts=backbone,pixel_encoder", "num_layers=1"]
    assert main(arguments(data, tmp_path / "second", 1, *more)) == 0
    first = checkpoint.load(tmp_path / "first" / "last.safetensors")[0].pixel_encoder.state_dict()
    second = checkpoint.load(tmp_path / "second" / "last.safetensors")[0].pixel_encoder.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert main(arguments(data, tmp_path / "third", 1, "start_from=x", "freeze_parts=spine")) == 2
    assert main(arguments(data, tmp_path / "third", 1, *start[:1], "num_layers=1")) == 2
    assert "do not fit" in capsys.readouterr().err.splitlines()[-1]


def test_encoder_tuned_on_sounds_starts_a_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hear, "POOL", 12)
    monkeypatch.setattr(hear, "NUM_CHECKS", 6)
    out = tmp_path / "ear"
    assert hear.main([*arguments(data, out, 1), "epochs=0.4", "audio_lr=1e-4"]) == 0
    tuned = out / "encoder.safetensors"
    assert main(arguments(data, tmp_path / "run", 1, f"audio_weights={tuned}")) == 0
    encoder = checkpoint.load(tmp_path / "run" / "last.safetensors")[0].audio_encoder.state_dict()
    assert all(torch.equal(value, encoder[key]) for key, value in load_file(tuned).items())
    assert hear.main([*arguments(data, out, 1), "audio_weights=nowhere.safetensors"]) == 2


def test_a_teacher_keeps_what_was_known(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The published classes count in tuning, a file without them is refused; `start_from` goes on from a checkpoint."""
    monkeypatch.setattr(hear, "POOL", 16)
    monkeypatch.setattr(hear, "NUM_CHECKS", 6)
    torch.manual_seed(0)
    body, classes = YamNet().state_dict(), torch.nn.Linear(1024, 521).state_dict()
    save_file(body | {f"fc.{key}": value for key, value in classes.items()}, tmp_path / "published.safetensors")
    save_file(body, tmp_path / "body.safetensors")
    words = ["audio_weights=" + str(tmp_path / "published.safetensors"), "epochs=2", "audio_lr=1e-3", "ema_decay=0"]

    def moved(out: Path, *more: str) -> float:
        assert hear.main([*arguments(data, out, 1), *words, *more]) == 0
        tuned = load_file(out / "encoder.safetensors")
        return sum(float((tuned[key] - value).square().sum()) for key, value in body.items())

    teacher = "teacher_weights=" + str(tmp_path / "published.safetensors")
    alone = moved(tmp_path / "alone")
    assert alone > 0.0
    assert moved(tmp_path / "taught", teacher, "distill_weight=10") != alone
    assert main(arguments(data, tmp_path / "run", 1)) == 0
    start = "start_from=" + str(tmp_path / "run" / "last.safetensors")
    assert hear.main([*arguments(data, tmp_path / "on", 1), "epochs=0.5", "audio_lr=1e-4", start, teacher]) == 0
    capsys.readouterr()
    bare = "teacher_weights=" + str(tmp_path / "body.safetensors")
    assert hear.main([*arguments(data, tmp_path / "x", 1), bare]) == 2
    assert "no class layer" in capsys.readouterr().err


def test_the_mean_of_two_runs_is_a_checkpoint(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(tmp_path / name / "last.safetensors") for name in ("a", "b")]
    for seed, path in enumerate(paths):
        assert main([*arguments(data, Path(path).parent, 1), f"seed={seed}"]) == 0
    out = tmp_path / "mean.safetensors"
    assert average([*paths, "--out", str(out)]) == 0
    a, b, mean = (checkpoint.load(path)[0].state_dict() for path in (*paths, out))
    for key in ("head.weight", "audio_projection.weight"):
        torch.testing.assert_close(mean[key], (a[key] + b[key]) / 2)
    assert not torch.equal(mean["head.weight"], a["head.weight"])
    torch.save({}, tmp_path / "other.pt")
    capsys.readouterr()
    assert average([*paths, "--out", str(out), "--shares", "0.75", "0.25", "--keep", "head"]) == 0
    mean = checkpoint.load(out)[0].state_dict()
    torch.testing.assert_close(
        mean["audio_projection.weight"], 0.75 * a["audio_projection.weight"] + 0.25 * b["audio_projection.weight"]
    )
    assert torch.equal(mean["head.weight"], a["head.weight"])
    assert average([*paths, "--out", str(out), "--shares", "0.75"]) == 2
    assert average([*paths, "--out", str(out), "--keep", "tail"]) == 2
    assert average([paths[0], str(tmp_path / "other.pt"), "--out", str(out)]) == 2
    assert "not a safetensors file" in capsys.readouterr().err


def test_what_is_shipped_is_small_and_names_no_folder(data: Path, tmp_path: Path) -> None:
    assert main(arguments(data, tmp_path / "run", 1)) == 0
    source, target = tmp_path / "run" / "last.safetensors", tmp_path / "shipped" / "m.safetensors"
    assert ship([str(source), str(target)]) == 0
    assert target.stat().st_size < 0.51 * source.stat().st_size
    net, header = checkpoint.load(target)
    assert str(tmp_path) not in json.dumps(header)
    before = checkpoint.load(source)[0]
    picture, sound = torch.full((1, 3, 64, 64), 100.0), torch.zeros(1, 15_600)
    with torch.no_grad():
        first, second = (each(picture, sound).sounding_logit for each in (before, net))
    torch.testing.assert_close(first, second, rtol=0.02, atol=0.02)
    assert ship([str(source), str(target), "--margin", "0.5"]) == 0
    with torch.no_grad():
        third = checkpoint.load(target)[0](picture, sound).sounding_logit
    torch.testing.assert_close(third, second - 0.5, rtol=0.02, atol=0.02)
    assert ship([str(tmp_path / "nothing"), str(target)]) == 2


def test_frozen_parts_are_counted_from_the_first_with_weights() -> None:
    net = Avsac(ModelSettings())
    freeze_early_layers(net, 2)
    frozen = {name.rsplit(".", 2)[0] for name, weight in net.backbone.named_parameters() if not weight.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"stem", "stages"}
    assert {name.split(".")[1] for name in frozen if name.startswith("stages")} == {"0"}


def test_a_gpu_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert device.choose("auto") == device.choose("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="process 0 asked a GPU of its own, torch sees 0; use device=cpu"):
        device.choose("cuda")


def test_a_batch_moves_but_for_the_rows_of_the_bank() -> None:
    image, rows = torch.zeros(1, 8, 8, 3), torch.zeros(1, 2, dtype=torch.int64)
    moved = Batch(image, image[..., 0], torch.zeros(0), None, rows, ["a"]).to(torch.device("meta"))
    assert {moved.image.device.type, moved.label.device.type, moved.heard.device.type} == {"meta"}
    assert moved.rows is rows
    assert moved.audio is None
