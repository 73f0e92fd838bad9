"""`python -m train.evaluate` on made data: a random checkpoint, its compiled bundle, models that hear or do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from rt_avsac.engines import Outputs
from rt_avsac.model import checkpoint
from rt_avsac.model.avsac import Avsac
from rt_avsac.model.settings import ModelSettings
from tests.small_set import make_small_set
from tests.tiny_model import make_tiny
from train.classes import CLASSES, IGNORE
from train.compose import evaluation_items
from train.evaluate import EvalSet, judge, main
from train.items import ORIGINAL, EvalItem
from train.metrics import SemanticScore
from train.page import Examples
from train.predictor import About, open_predictor
from train.scores import Scores
from train.shares import ShareResult

SMALL = ModelSettings(name="small", image_size=64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_set(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    torch.manual_seed(0)
    checkpoint.save(path, Avsac(SMALL), list(CLASSES), {})
    return path


@pytest.fixture(scope="module")
def items(data: Path) -> list[EvalItem]:
    return list(evaluation_items(data, seed=1, num=8, split="val", size=64))


def evaluate(*words: str | Path) -> int:
    """One thread: on a busy machine several wait for each other."""
    return main([*map(str, words), "--threads", "1"])


def made_set(items: list[EvalItem]) -> EvalSet:
    return EvalSet(iter(items), len(items), CLASSES)


def last_json(text: str) -> dict[str, object]:
    return json.loads(text.strip().splitlines()[-1])


def test_everything_is_written(data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--num", "6", "--shares", "2", "--examples", "4", "--out", tmp_path)
    assert evaluate(model, "--data", data, *words) == 0
    out = capsys.readouterr().out
    line = last_json(out)
    assert line["num_items"] == 6
    assert {"miou", "miou_human", "f_official", "swap_accuracy", "class_accuracy", "g", "audio_share"} <= line.keys()
    assert {"alarm_muted", "alarm_noise", "alarm_off_screen"} <= line.keys()
    for title in ("Masks under the original sound", "Does it listen?", "By the class that sounds", "AVSS measures"):
        assert title in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["groups"]["all"]["masks"]["miou"] == line["miou"]
    assert set(report["by_class"]) <= {"dog", "cat", "piano"}
    assert len(report["about"]["gates"]) == SMALL.num_layers
    assert sum(each["num_frames"] for each in report["strangers"].values()) == 6
    page = (tmp_path / "index.html").read_text()
    assert "http" not in page  # self-contained
    shown = sorted(path.name for path in (tmp_path / "examples").iterdir())
    assert len(shown) >= 4
    assert all(f"examples/{name}" in page for name in shown)
    for name in ("by_class.png", "listening.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert name in page
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_same_seed_gives_the_same_numbers(data: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    for seed in ("5", "5", "6"):
        assert evaluate(model, "--data", data, "--num", "3", "--shares", "1", "--seed", seed) == 0
        lines.append(last_json(capsys.readouterr().out) | {"wall_s": 0, "seed": 0})
    assert lines[0] == lines[1]
    assert lines[0] != lines[2]


def test_a_compiled_engine_scores_as_its_checkpoint(items: list[EvalItem], tmp_path: Path) -> None:
    from rt_avsac.compile import Request, build

    model = make_tiny(tmp_path / "tiny.safetensors")
    build(Request(model, "torch", "fp32"), tmp_path / "bundle", lambda text: None)
    found = []
    for path in (model, tmp_path / "bundle"):
        predictor = open_predictor(str(path), "cpu", 1)
        try:
            scores, shares = judge(predictor, made_set(items[:3]), 1, Examples(CLASSES, 0, 0), lambda text: None)
            assert predictor.about.name == "tiny"
        finally:
            predictor.close()
        found.append((scores.results()[0]["all"], shares.result()))
    (first, first_share), (second, second_share) = found
    assert 0.0 < first.masks.miou < 1.0
    assert second.masks.f_set == pytest.approx(first.masks.f_set, abs=1e-3)
    assert second.masks.miou == pytest.approx(first.masks.miou, abs=1e-3)
    assert second_share.margin == pytest.approx(first_share.margin, abs=1e-3)


def test_a_semantic_model_is_judged_by_its_own_classes(items: list[EvalItem], tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = ModelSettings(name="semantic", image_size=64, output="semantic", class_match=False)
    checkpoint.save(tmp_path / "semantic.safetensors", Avsac(settings), list(CLASSES), {})
    predictor = open_predictor(str(tmp_path / "semantic.safetensors"), "cpu", 1)
    item = items[0]
    (outputs,) = predictor(item.image, [item.conditions[ORIGINAL]])
    assert outputs.audio_probability is None
    assert outputs.class_probability is not None
    scores, _ = judge(predictor, made_set([item]), 0, Examples(CLASSES, 0, 0), lambda text: None)
    predictor.close()
    semantic = scores.results()[2]
    assert semantic is not None
    expected = SemanticScore(len(CLASSES))
    best = outputs.class_probability.argmax(axis=0).astype(np.uint8)
    truth = item.mask_by_condition[ORIGINAL]
    expected.add(best.repeat(64 // len(best), axis=0).repeat(64 // len(best), axis=1), truth, truth != IGNORE)
    assert semantic.miou == expected.result().miou


def about() -> About:
    return About("made", "made", "", "made", "fp32", CLASSES, 64, 15_600, 0, ())


class Known:
    """A predictor that gives each sound of the items the mask that `choose` picks for it."""

    def __init__(self, items: list[EvalItem], choose: Callable[[EvalItem, str], np.ndarray]) -> None:
        self.about = about()
        self.answers = {
            sound.tobytes() + item.image.tobytes(): choose(item, name)
            for item in items
            for name, sound in item.conditions.items()
        }

    def __call__(self, image: np.ndarray, audios: Sequence[np.ndarray]) -> list[Outputs]:
        found = []
        for audio in audios:
            mask = self.answers[audio.tobytes() + image.tobytes()]
            of_class = np.zeros((len(CLASSES), 64, 64), np.float32)
            np.put_along_axis(of_class, mask[None].astype(int), 1.0, axis=0)
            found.append(Outputs((mask != 0).astype(np.float32), of_class, np.ones(len(CLASSES), np.float32)))
        return found

    def close(self) -> None: ...


def scores_of(predictor: Known, items: list[EvalItem]) -> Scores:
    scores, _ = judge(predictor, made_set(items), 0, Examples(CLASSES, 0, 0), lambda text: None)
    return scores


def without_ignored(mask: np.ndarray) -> np.ndarray:
    return np.where(mask == IGNORE, 0, mask)


def test_a_model_that_hears_reaches_every_goal(items: list[EvalItem]) -> None:
    from train.report import Report, goals_of

    predictor = Known(items, lambda item, name: without_ignored(item.mask_by_condition[name]))
    groups, by_class, semantic = scores_of(predictor, items).results()
    assert groups["all"].masks.miou == groups["all"].listening.g == 1.0
    assert groups["two or more"].masks.num_frames == groups["one object"].masks.num_frames == 4
    assert groups["two or more"].listening.num_swaps == 4
    assert semantic is not None
    assert semantic.miou == 1.0
    share = ShareResult(0, 0.0, 0.0, 0.0, 0.0)
    goals = goals_of(Report(about(), {"kind": "composed"}, groups, by_class, semantic, share))
    assert len(goals) == 7
    assert all(goal["met"] for goal in goals)


def test_a_deaf_model_fails_the_protocol(items: list[EvalItem]) -> None:
    predictor = Known(items, lambda item, name: without_ignored(item.mask_by_condition[ORIGINAL]))
    groups, _, _ = scores_of(predictor, items).results()
    result = groups["all"].listening
    assert result.miou_original == 1.0
    assert result.swap_accuracy == result.g == 0.0
    assert all(each.frame_false_alarm == 1.0 for each in result.negatives.values())


def test_check_fails_below_the_goals(data: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(model, "--data", data, "--num", "2", "--shares", "0", "--check") == 1
    assert "must" in capsys.readouterr().out


def test_contact_sheets_of_the_demo_clip(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    import cv2

    from rt_avsac.demo import clip_path

    clips = tmp_path / "clips"
    clips.mkdir()
    shutil.copy(clip_path(), clips / "demo.mp4")
    assert evaluate(model, "--videos", clips, "--frames", "3", "--out", tmp_path / "out") == 0
    (clip,) = last_json(capsys.readouterr().out)["clips"]  # type: ignore[misc]
    assert clip["num_frames"] == 3
    sheet = cv2.imread(str(tmp_path / "out/clips/demo.png"))
    assert sheet is not None
    assert sheet.shape[1] >= 3 * 224


def test_clip_windows_end_at_the_frame() -> None:
    from train.sheets import window

    samples = np.arange(1, 11, dtype=np.float32)
    assert window(samples, 7, 4).tolist() == [4, 5, 6, 7]
    assert window(samples, 2, 4).tolist() == [0, 0, 1, 2]
    assert window(samples, 12, 4).tolist() == [9, 10, 0, 0]
    assert window(samples, 20, 4).tolist() == window(samples, -1, 4).tolist() == [0, 0, 0, 0]


def test_errors_are_one_line(data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    cases: list[tuple[tuple[str | Path, ...], int, str]] = [
        ((model,), 2, "nothing to judge"),
        ((tmp_path / "gone.safetensors", "--data", data), 2, "no such file"),
        ((model, "--data", tmp_path / "gone"), 2, "no such folder"),
        ((model, "--data", data, "--split", "tset"), 2, "tset"),
        ((model, "--dta", data), 2, "did you mean '--data'"),
        ((model, "--videos", tmp_path), 2, "--out"),
        ((model, "--data", data, "--kind", "avsbench_s4", "--check"), 2, "composed"),
        ((model, "--data", data, "--kind", "avsbench_s4"), 2, "AVSBench"),
        ((model, "--videos", tmp_path, "--out", tmp_path / "o"), 3, "no video file"),
        ((model, "--data", data, "--num", "1", "--shares", "0", "--out", tmp_path / "file"), 5, "file"),
    ]
    for words, code, says in cases:
        assert evaluate(*words) == code
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("evaluate: ")]
        assert len(lines) == 1
        assert lines[0].startswith("python -m train.evaluate: ")
        assert says in lines[0]
