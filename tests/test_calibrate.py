"""Calibration on a small set: ranges, the measured sweep, the verdict, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibrate import run
from calibrate.compare import Budget, Row, over_budget, paired_errors, verdict
from calibrate.modelopt_ranges import by_modelopt, import_modelopt
from calibrate.ranges import Observer, entropy_limit, observe, ranges_of, smoothing
from calibrate.samples import Choice, collect
from calibrate.sensitivity import CUTS, Sweep, cheapest, mask_iou
from rt_avsac import quantize
from rt_avsac.compile import Request
from rt_avsac.compile import build as build_bundle
from rt_avsac.errors import ModelError
from rt_avsac.model import checkpoint as checkpoints
from rt_avsac.model.avsac import Deployed
from rt_avsac.quantize import Calibration, Range, quantized, read_calibration
from tests.tiny_model import make_tiny


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
    assert len(calibration.ranges) + len(calibration.float_layers) == 107
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


@pytest.mark.parametrize("miou", [0.0004, float("nan")])
def test_a_model_that_finds_nothing_has_nothing_to_lose(miou: float) -> None:
    found = [dataclasses.replace(row, miou=miou) for row in rows(int8={})]
    warning, *_ = verdict(found, over_budget(found, Budget())).splitlines()
    assert warning.startswith(f"fp32 has {100 * miou:.1f} points of mIoU itself")


@pytest.mark.parametrize(
    ("int8", "signed", "code", "verdicts"),
    [(0.6, 0.6, 0, ("within", "within")), (0.5, 0.6, 1, ("over", "within")), (0.6, 0.5, 1, ("within", "over"))],
)
def test_what_costs_too_much_is_the_exit_code_and_written_down(
    int8: float,
    signed: float,
    code: int,
    verdicts: tuple[str, str],
    calibrated: tuple[Path, Path],
    calibration: Calibration,
    small_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`compile` takes int8 by itself only where the calibration says that it was within the budget."""
    made = dataclasses.replace(calibration, measured={})
    monkeypatch.setattr(run, "calibrated", lambda *_: (made, Sweep({"head": 0.1}, {0: 1.0}, []), {}))
    monkeypatch.setattr(run, "compared", lambda *_: rows(int8={"miou": int8}, signed={"miou": signed}))
    words = ["--data", str(small_set), "--out", str(tmp_path), "--precisions", "signed", "--no-export"]
    assert run.main([str(calibrated[0]), *words]) == code
    measured = read_calibration(tmp_path / "tiny.calibration.json").measured
    assert (measured["verdict"], measured["signed_verdict"]) == verdicts


def test_the_error_of_a_difference_is_paired() -> None:
    before = [(0.1 * n, n % 2) for n in range(10)]
    assert paired_errors([(iou + 0.05, alarm) for iou, alarm in before], before) == pytest.approx([0.0, 0.0])
    errors = paired_errors([(iou + 0.1 * (n % 2), 0.0) for n, (iou, _) in enumerate(before)], before)
    assert errors == pytest.approx([0.1 * 0.527 / 10**0.5, 0.527 / 10**0.5], rel=0.01)
    assert np.isnan(paired_errors(before[:1], before[:1])).all()


def test_the_cheapest_that_is_good_enough_is_taken() -> None:
    assert cheapest({0: 0.90, 1: 0.95, 2: 0.97, 4: 0.972, 8: 0.974}) == 4
    assert cheapest({"percentile": 0.9801, "percentile+smooth": 0.9802, "entropy": 0.97}) == "percentile"


def test_mask_iou_of_windows() -> None:
    a = np.zeros((2, 4, 4), np.float32)
    b = a.copy()
    b[0, 0, :2] = a[0, 0, :1] = 1.0
    assert mask_iou(a, b) == pytest.approx((0.5 + 1.0) / 2)
    silent, speck, spot = (np.zeros((1, 40, 40), np.float32) for _ in range(3))
    speck[0, 0, :8] = spot[0, 0, :9] = 1.0
    assert (mask_iou(speck, silent), mask_iou(spot, silent)) == (1.0, 0.0)


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
