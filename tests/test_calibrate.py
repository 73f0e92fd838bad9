"""Calibration on a small set: windows, ranges, the measured sweep, comparison, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibrate.compare import Budget, Row, over_budget, paired_errors, verdict
from calibrate.modelopt_ranges import by_modelopt, import_modelopt
from calibrate.ranges import Observer, entropy_limit, observe, ranges_of, smoothing
from calibrate.run import main, workplace
from calibrate.samples import NEGATIVE_STRATA, Choice, Sample, collect, stratified
from calibrate.sensitivity import CUTS, choose_cut, mask_iou
from rt_avsac import quantize
from rt_avsac.compile import Request
from rt_avsac.compile import build as build_bundle
from rt_avsac.config import LiveSettings
from rt_avsac.errors import DiskError, ModelError
from rt_avsac.flow import Frame, Prediction, Window
from rt_avsac.infer import ModelInfo
from rt_avsac.model import checkpoint as checkpoints
from rt_avsac.model.avsac import Deployed
from rt_avsac.quantize import Calibration, Range, quantized, read_calibration
from rt_avsac.record import Recorder
from tests.small_set import ROOT, SHAPES, make_small_set
from tests.tiny_model import make_tiny
from tests.wire_samples import masks


@pytest.fixture(scope="module")
def many_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven classes that can sound, by the alphabet and not."""
    SHAPES.update({name: ((30 * n, 90, 200), 300.0 * n) for n, name in enumerate(("car", "bird", "violin", "cow"), 1)})
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


def test_a_recording_gives_windows_whatever_its_folder_is_called(tmp_path: Path) -> None:
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


def test_windows_are_drawn_again_and_compared(
    calibrated: tuple[Path, Path], small_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "windows.json"
    written = (calibrated[1] / "windows.json").read_text()
    sets = json.loads(written)["sets"]
    assert {use: (len(each["windows"]), each["num"], each["seed"]) for use, each in sets.items()} == {
        "ranges": (6, 6, 0),
        "probes": (1, 1, 1),
    }
    path.write_text(written)
    words = ["--verify", str(path), "--data", str(small_set)]
    assert main(words) == 0
    was = sets["probes"]["windows"][0]["sha256"]
    path.write_text(written.replace(was, "0" * 64))
    assert main(words) == 1
    assert "probes: 0 of 1 windows are as listed, the first" in capsys.readouterr().out
    for wrong in (
        "",
        "[]",
        '{"sets": {"a": {}}}',
        written.replace('"seed": 0', '"seed": "x"'),
        written.replace('"image_size": 64', '"image_size": 0'),
    ):
        path.write_text(wrong)
        assert main(words) == 2
        assert "windows.json" in capsys.readouterr().err


def test_an_observer_sees_the_same_in_any_pieces() -> None:
    values = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 5, 4096)
    whole, pieces = Observer(), Observer()
    whole.see(values.view(64, 64), -1)
    for piece in values.view(64, 64).split(8):
        pieces.see(piece, -1)
    assert whole.amax == pieces.amax == float(values.abs().max())
    assert pieces.counts.sum() == 4096
    assert whole.limit("percentile") == pytest.approx(pieces.limit("percentile"), rel=0.02)
    assert 0 < pieces.limit("entropy") <= pieces.amax
    assert pieces.low < 0


def test_entropy_cuts_a_lone_outlier_and_keeps_a_flat_range() -> None:
    counts = np.floor(1e5 * np.exp(-((np.arange(2048) / 30) ** 2)))
    counts[2040] = 1
    assert entropy_limit(counts, 1.0) < 0.2
    assert entropy_limit(np.full(2048, 1000.0), 1.0) > 0.9


def test_smoothquant_keeps_the_product() -> None:
    layer = torch.nn.Linear(16, 8)
    x = torch.randn(4, 16) * torch.logspace(-2, 2, 16)
    divisors = smoothing(layer, x.abs().amax(dim=0))
    wanted = layer(x)
    amax = float((x / torch.tensor(divisors)).abs().max())
    rounded = quantize.Rounded(layer, Range(amax, False, divisors))
    error = (rounded(x) - wanted).abs().max() / wanted.abs().max()
    plain = quantize.Rounded(torch.nn.Linear(16, 8), Range(float(x.abs().max()), False))
    assert error < 0.05
    assert plain(x).shape == wanted.shape


@pytest.mark.parametrize("smooth", [False, True])
def test_modelopt_sees_what_we_see(calibrated: tuple[Path, Path], small_set: Path, smooth: bool) -> None:
    """NVIDIA's own calibration, as a second opinion: without SmoothQuant each range is ours to the bit."""
    net, _ = checkpoints.load(calibrated[0])
    samples = collect(small_set, Choice("train", 3, 0, 64))
    observers = observe(net, samples, print)
    ours = ranges_of(net, observers, "minmax", smooth)
    theirs = by_modelopt(net, samples, smooth, observers)
    assert theirs.keys() == ours.keys()
    smoothed = {name for name, measured in theirs.items() if measured.smooth}
    assert smoothed == {name for name, measured in ours.items() if measured.smooth}
    assert bool(smoothed) is smooth
    plain = [name for name in ours if name not in smoothed]
    assert [theirs[name] for name in plain] == [ours[name] for name in plain]
    inputs = [torch.from_numpy(array)[None] for array in (samples[0].image, samples[0].audio)]
    with torch.inference_mode():
        exact = Deployed(net).eval()(*inputs)[0].numpy()
        rounded = quantized(net, Calibration("", "modelopt", theirs, []))(*inputs)[0].numpy()
    assert np.abs(rounded - exact).max() > 1e-6
    assert np.corrcoef(rounded.ravel(), exact.ravel())[0, 1] > 0.9


def test_without_modelopt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    for name in [name for name in sys.modules if name.startswith("modelopt.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModelError, match=r"pip install 'rt-avsac\[modelopt\]'"):
        import_modelopt()


def test_what_is_written(calibrated: tuple[Path, Path], calibration: Calibration) -> None:
    checkpoint, out = calibrated
    names = {path.name for path in out.iterdir()}
    assert names == {
        "tiny.calibration.json",
        "tiny.int8.onnx",
        "tiny.int8.pt2",
        "layers.png",
        "report.json",
        "windows.json",
    }
    assert calibration.checkpoint_sha256 == checkpoints.sha256(checkpoint)
    assert len(calibration.windows) == 6
    assert not set(calibration.float_layers) & set(calibration.ranges)
    assert len(calibration.ranges) + len(calibration.float_layers) == 110
    assert len(calibration.float_layers) <= CUTS[-1]
    report = json.loads((out / "report.json").read_text())
    assert report["float_layers"] == calibration.float_layers
    assert set(report["alone"]) == set(calibration.ranges) | set(calibration.float_layers)


BASE: dict[str, Any] = {
    "backend": "torch", "num_items": 10, "miou": 0.6, "f": 0.7, "false_alarm": 0.05,
    "swap_accuracy": 0.8, "class_accuracy": 0.8, "agreement": 1.0, "p50_ms": 50.0,
    "miou_error": 0.002, "false_alarm_error": 0.003,
}  # fmt: skip


def rows(**changes: dict[str, float]) -> list[Row]:
    return [Row(precision="fp32", **BASE)] + [Row(precision=name, **(BASE | more)) for name, more in changes.items()]


@pytest.mark.parametrize(
    ("int8", "parts"),
    [
        ({"miou": 0.591}, []),
        ({"miou": 0.589}, ["mIoU fell by 1.10"]),
        ({"false_alarm": 0.061}, ["false alarms rose by 1.10"]),
        ({"miou": 0.5, "false_alarm": 0.2}, ["mIoU", "false alarms"]),
        ({"miou": 0.7, "false_alarm": 0.0}, []),
        ({"miou": float("nan")}, ["mIoU fell by nan"]),
        ({"false_alarm": float("nan")}, ["false alarms rose by nan"]),
    ],
)
def test_the_budget(int8: dict[str, float], parts: list[str]) -> None:
    found = over_budget(rows(int8=int8), Budget()).get("int8", [])
    assert len(found) == len(parts)
    assert all(part in text for part, text in zip(parts, found, strict=True))


def test_every_precision_is_judged_and_how_sure_that_is() -> None:
    found = rows(bf16={"miou": 0.58}, int8={"miou": 0.601, "num_items": 8})
    over = over_budget(found, Budget())
    assert list(over) == ["bf16"]
    bf16, int8 = verdict(found, over).splitlines()
    assert bf16.startswith("bf16 is over the budget: mIoU fell by 2.00")
    assert int8.startswith("int8 is within the budget (8 items")
    assert int8.endswith("mIoU +0.10 ± 0.20, false alarms +0.00 ± 0.30)")


def test_the_error_of_a_difference_is_paired() -> None:
    before = [(0.1 * n, n % 2) for n in range(10)]
    assert paired_errors([(iou + 0.05, alarm) for iou, alarm in before], before) == pytest.approx([0.0, 0.0])
    errors = paired_errors([(iou + 0.1 * (n % 2), 0.0) for n, (iou, _) in enumerate(before)], before)
    assert errors == pytest.approx([0.1 * 0.527 / 10**0.5, 0.527 / 10**0.5], rel=0.01)
    assert np.isnan(paired_errors(before[:1], before[:1])).all()


def test_the_fewest_layers_that_are_good_enough_are_left_out() -> None:
    assert choose_cut({0: 0.90, 1: 0.95, 2: 0.97, 4: 0.972, 8: 0.974}) == 2
    assert choose_cut({0: 0.99, 1: 0.99}) == 0


def test_mask_iou_of_windows() -> None:
    a = np.zeros((2, 4, 4), np.float32)
    b = a.copy()
    b[0, 0, :2] = a[0, 0, :1] = 1.0
    assert mask_iou(a, b) == pytest.approx((0.5 + 1.0) / 2)


def comparison(checkpoint: Path, out: Path, data: Path, *more: str) -> list[str]:
    few = ("--num", "4", "--probes", "1", "--eval-num", "1", "--method", "minmax", "--smooth", "off", "--no-export")
    return [str(checkpoint), "--data", str(data), "--out", str(out), "--precisions", "fp32", *few, *more]


def test_comparison_end_to_end(
    calibrated: tuple[Path, Path], small_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One item: no class need be right or wrong, nor any error known; the last line and the report are JSON anyhow."""
    code = main(comparison(calibrated[0], tmp_path, small_set, "--budget-miou", "100", "--budget-alarm", "100"))
    assert code == 0
    said = capsys.readouterr().out

    def refuse(value: str) -> None:
        raise AssertionError(f"{value} is not JSON")

    last = json.loads(said.strip().splitlines()[-1], parse_constant=refuse)
    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert {key: value for key, value in report.items() if key != "alone"} == last
    assert [each["precision"] for each in report["rows"]] == ["fp32", "int8"]
    assert report["rows"][0]["agreement"] == 1.0
    assert report["rows"][1]["miou_error"] is None, "one item has no spread"
    assert all(each["p50_ms"] > 0 and each["num_items"] == 1 for each in report["rows"])
    assert "int8 is within the budget (1 items" in said
    assert read_calibration(tmp_path / "tiny.calibration.json").measured["verdict"] == "within"


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_leaves_the_old_set_and_no_litter(
    calibrated: tuple[Path, Path], small_set: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """When it comes while engines are built: all files are there, and the comparison is to come."""
    out, temporary = tmp_path / "out", tmp_path / "tmp"
    shutil.copytree(calibrated[1], out)
    temporary.mkdir()
    before = snapshot(out)
    words = [sys.executable, "-m", "calibrate", *comparison(calibrated[0], out, small_set)]
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "compiling" in line:
                assert list(out.glob(".calibrate-*/*.calibration.json"))
                assert list(temporary.iterdir())
                process.send_signal(number)
                break
        process.stderr.read()
        assert process.wait(60) == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert snapshot(out) == before
    assert list(temporary.iterdir()) == []


def write(out: Path, *names: str) -> None:
    with workplace(out) as work:
        for name in names:
            if not name:
                raise ModelError("half way")
            (work / name).write_text("new")


def test_a_failure_leaves_no_folder_behind(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        write(tmp_path / "new", "report.json", "")
    assert list(tmp_path.iterdir()) == []


def test_the_calibration_is_the_last_file_to_change(tmp_path: Path) -> None:
    """A folder stands where a file is to go: what cannot be replaced is met before the calibration changes."""
    (tmp_path / "windows.json").mkdir()
    (tmp_path / "a.calibration.json").write_text("old")
    with pytest.raises(DiskError, match=r"windows\.json"):
        write(tmp_path, "a.calibration.json", "windows.json")
    assert {path.name for path in tmp_path.iterdir()} == {"windows.json", "a.calibration.json"}
    assert (tmp_path / "a.calibration.json").read_text() == "old"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "0.0", "-1.0"])
@pytest.mark.parametrize("key", ["amax", "smooth"])
def test_ranges_that_cannot_be(calibrated: tuple[Path, Path], tmp_path: Path, key: str, value: str) -> None:
    table = json.loads((calibrated[1] / "tiny.calibration.json").read_text())
    name, item = next(iter(table["ranges"].items()))
    item[key] = float(value) if key == "amax" else [1.0, float(value)]
    path = tmp_path / "c.json"
    path.write_text(json.dumps(table))
    with pytest.raises(ModelError, match=f"{name}.*calibrate again"):
        read_calibration(path)


def test_values_that_are_not_finite_end_the_calibration() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ModelError, match="not finite"):
            Observer().see(torch.tensor([[1.0, value]]), -1)


def test_a_layer_that_only_zeros_enter_has_a_range() -> None:
    observer = Observer()
    observer.see(torch.zeros(2, 3), -1)
    assert all(observer.limit(method) > 0 for method in ("minmax", "percentile", "entropy"))


FULL = """
import resource, sys
from pathlib import Path
import torch
import rt_avsac.quantize
from rt_avsac.errors import DiskError
from rt_avsac.export import write_pt2
program = torch.export.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    write_pt2(program, Path(sys.argv[2]))
except DiskError as error:
    sys.exit(f"{error.exit_code}: {error}")
"""


def test_a_disk_that_fills_up_while_the_graph_is_written(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    """In a process that may write no more than 64 KB a file; torch's own writer would abort it."""
    words = [sys.executable, "-c", FULL, str(calibrated[1] / "tiny.int8.pt2"), str(tmp_path / "x.pt2")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr.strip().splitlines()[-1][:8]) == (1, "5: expor"), ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["", "{}", "[]", '{"format": 9}', '{"format": 1, "ranges": {"a": {}}}', None])
def test_what_is_no_calibration(tmp_path: Path, change: str | None) -> None:
    path = tmp_path / "c.json"
    if change is not None:
        path.write_text(change)
    with pytest.raises(ModelError) as raised:
        read_calibration(path)
    assert "\n" not in str(raised.value)


def test_a_calibration_of_other_weights_is_refused(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_tiny(tmp_path / "other.safetensors", seed=1)
    request = Request(other, "openvino", "int8", str(calibrated[1] / "tiny.calibration.json"))
    with pytest.raises(ModelError, match="calibrate again"):
        build_bundle(request, tmp_path / "b", print)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--num 0", "at least 1"),
        ("--probes 0", "at least 1"),
        ("--eval-num 0", "at least 1"),
        ("--threads 0", "at least 1"),
        ("--threads -3", "at least 1"),
        ("--threads 9999999999", "at most 1024"),
        ("--seed -1", "at least 0"),
        ("--budget-miou nan", "at least 0"),
        ("--budget-miou -1", "at least 0"),
        ("--budget-alarm inf", "at most 100"),
        ("--kind bogus", "choose from composed"),
        ("--precisions fp64", "choose from fp32"),
        ("--eval-data /nonexist", "/nonexist"),
        ("--eval-split nosuch", "nosuch"),
        ("--data no-such-data", "no-such-data"),
        ("--split nosuch", "nosuch"),
    ],
)
def test_bad_options_are_found_before_the_work(
    words: str,
    part: str,
    calibrated: tuple[Path, Path],
    small_set: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert main([str(calibrated[0]), "--data", str(small_set), "--out", str(out), *words.split()]) == 2
    said = capsys.readouterr().err.splitlines()
    assert part in said[-1]
    assert not any("masks agree" in line for line in said)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "part", "code"),
    [
        (["no-such", "--data", "x", "--out", "y"], "no-such", 2),
        (["--data", "x"], "CHECKPOINT", 2),
        (["{model}", "--data", "{data}", "--out", ""], "--out is missing", 2),
        (["{model}", "--data", "{data}", "--out", "{model}/x"], "cannot be made", 5),
    ],
)
def test_bad_words(
    words: list[str],
    part: str,
    code: int,
    calibrated: tuple[Path, Path],
    small_set: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"{model}": str(calibrated[0]), "{data}": str(small_set), "{out}": str(tmp_path)}
    filled = [word.replace("{model}/", places["{model}"] + "/") for word in words]
    assert main([places.get(word, word) for word in filled]) == code
    assert part in capsys.readouterr().err
