"""Calibration windows: each kind of negative and each class among a few, the same for the same seed, drawn again."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from calibrate.run import main
from calibrate.samples import NEGATIVE_STRATA, Choice, Sample, collect, stratified
from rt_avsac.config import LiveSettings
from rt_avsac.flow import Frame, Prediction, Window
from rt_avsac.infer import ModelInfo
from rt_avsac.record import Recorder
from tests.small_set import SHAPES, make_small_set
from tests.wire_samples import masks


@pytest.fixture(scope="module")
def many_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven classes that can sound, by the alphabet and not."""
    return make_small_set(tmp_path_factory.mktemp("many") / "data", names=tuple(SHAPES))


def test_windows_are_the_same_for_the_same_seed_wherever_the_data_lie(small_set: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(small_set, tmp_path / "other name")
    first, again = (collect(data, Choice("train", 9, 0, 64)) for data in (small_set, elsewhere))
    other = collect(small_set, Choice("train", 9, 1, 64))
    assert [sample.listing() for sample in first] == [sample.listing() for sample in again]
    assert {sample.sha256 for sample in first}.isdisjoint(sample.sha256 for sample in other)
    assert len({sample.sha256 for sample in first}) == 9
    assert first[0].image.shape == (64, 64, 3)
    assert first[0].audio.shape == (15_600,)


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_a_few_windows_hold_each_negative_and_each_class(many_classes: Path, seed: int) -> None:
    """16 is the default of --probes: the methods and the sweep are judged on them alone."""
    probes = collect(many_classes, Choice("train", 16, seed, 64))
    assert Counter(each.stratum in NEGATIVE_STRATA for each in probes) == {True: 4, False: 12}
    assert {each.stratum for each in probes} >= set(NEGATIVE_STRATA)
    seen: Counter[str] = Counter()
    for each in probes:
        if each.stratum not in NEGATIVE_STRATA:
            seen.update(each.classes)
            assert max(seen.values()) == 1 or len(seen) == 7, f"{each.classes} before each class came once"
    assert len(seen) == 7


def sample(stratum: str, number: int) -> Sample:
    return Sample(f"{stratum}{number}", stratum, np.full((2, 2, 3), number, np.uint8), np.zeros(4, np.float32))


def test_classes_take_turns_and_a_window_counts_for_all_of_its() -> None:
    both, dogs, cats = (
        [sample(name, 40 * n + k) for k in range(40)] for n, name in enumerate(("cat+dog", "dog", "cat"))
    )
    for num, kinds in ((20, both + dogs), (20, both + dogs + cats)):
        times = Counter(name for each in stratified(kinds, num, 0) for name in each.classes)
        assert abs(times["cat"] - times["dog"]) <= 1, times
    for seed in range(40):
        first, second = stratified(both + dogs + cats, 2, seed)
        assert "+" in first.stratum or set(first.classes).isdisjoint(second.classes), "a dog, then no dog and cat"
    orders = {tuple(each.stratum for each in stratified(dogs + cats, 2, seed)) for seed in range(9)}
    assert orders == {("dog", "cat"), ("cat", "dog")}, "not by the alphabet"


@pytest.mark.parametrize(("num", "negative"), [(1, 0), (2, 1), (6, 3), (16, 4), (60, 15), (90, 30), (200, 30)])
def test_share_of_negatives(num: int, negative: int) -> None:
    """What one side lacks, the other gives; no window comes twice."""
    kinds = [
        sample(name, 60 * n + k) for n, name in enumerate(("dog", *NEGATIVE_STRATA)) for k in range(60 if not n else 10)
    ]
    chosen = stratified([*kinds, *kinds], num, 0)
    assert sum(each.stratum in NEGATIVE_STRATA for each in chosen) == negative
    assert len({each.sha256 for each in chosen}) == len(chosen) == min(num, 90)


def test_a_recording_gives_windows_whatever_its_folder_is_called(
    calibrated: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = ModelInfo("m", "0" * 64, "torch", "fp32", 0.5, ("background", "dog"), 224, 224, 15_600)
    prediction = Prediction(np.zeros((224, 224), np.float32), (), 0, 0, -20.0, False)
    listed = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        with Recorder(str(folder), LiveSettings(), info) as recorder:
            for index in range(12):
                audio = np.full(15_600, 0.0 if index % 2 else 0.3, np.float32)
                frame = Frame(np.full((48, 64, 3), 20 * index, np.uint8), (index + 1) * 10**9, index)
                recorder.write(Window(frame, audio, index * 10**9, (index + 1) * 10**9, "ok"), prediction, masks())
        listed.append([each.listing() for each in collect(folder, Choice("train", 6, 0, 64))])
    assert listed[0] == listed[1]
    assert Counter(each["stratum"] == "muted" for each in listed[0]) == {True: 2, False: 4}
    assert main([str(calibrated[0]), "--data", str(tmp_path / "a"), "--out", str(tmp_path / "o")]) == 2
    assert "add --eval-data" in capsys.readouterr().err


def test_windows_are_drawn_again_and_compared(
    calibrated: tuple[Path, Path], small_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "windows.json"
    written = (calibrated[1] / "windows.json").read_text()
    sets = json.loads(written)["sets"]
    assert {use: (len(each["windows"]), each["num"], each["seed"]) for use, each in sets.items()} == {
        "ranges": (6, 6, 0),
        "probes": (4, 4, 1),
    }
    path.write_text(written)
    words = ["--verify", str(path), "--data", str(small_set)]
    assert main(words) == 0
    was = sets["probes"]["windows"][0]["sha256"]
    for changed in (written.replace(was, "0" * 64), written.replace('"num": 4,', '"num": 5,')):
        path.write_text(changed)
        assert main(words) == 1
    assert "probes: 3 of 4 windows are as listed, 4 were drawn" in capsys.readouterr().out
    for wrong in (
        "",
        "[]",
        '{"sets": {}}',
        '{"sets": {"a": {}}}',
        written.replace('"seed": 0', '"seed": "x"'),
        written.replace('"image_size": 64', '"image_size": 0'),
    ):
        path.write_text(wrong)
        assert main(words) == 2
        assert "windows.json" in capsys.readouterr().err
