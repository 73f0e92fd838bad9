"""Calibration on a small set: windows, ranges, sweep, and one quantized graph for torch, OpenVINO and TensorRT."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibrate.compare import Budget, Row, over_budget
from calibrate.modelopt_ranges import by_modelopt, import_modelopt
from calibrate.ranges import Observer, entropy_limit, observe, ranges_of, smoothing
from calibrate.run import main
from calibrate.samples import collect, stratified
from calibrate.sensitivity import choose_cut, mask_iou
from rt_avsac import build as builders
from rt_avsac import quantize
from rt_avsac.build_gpu import graph_for_tensorrt
from rt_avsac.compile import Request, find_calibration
from rt_avsac.compile import build as build_bundle
from rt_avsac.config import LiveSettings
from rt_avsac.engines import open_engine
from rt_avsac.engines.tensorrt import PACKED
from rt_avsac.errors import ModelError
from rt_avsac.model import checkpoint as checkpoints
from rt_avsac.model.avsac import Deployed
from rt_avsac.model_path import find
from rt_avsac.probe import demo_windows, deviation, windows
from rt_avsac.quantize import Calibration, Range, WeightQdq, layers, quantized, read_calibration
from tests.rtx import build_onnx, build_pt2, needs_rtx, needs_torch_tensorrt
from tests.small_set import make_small_set
from tests.tiny_model import make_tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_set(tmp_path_factory.mktemp("set") / "data")


@pytest.fixture(scope="module")
def calibrated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint, folder of `python -m calibrate`)"""
    folder = tmp_path_factory.mktemp("calibrated")
    checkpoint = make_tiny(folder / "tiny.safetensors")
    words = [str(checkpoint), "--data", str(data), "--out", str(folder / "out"), "--num", "6", "--probes", "1"]
    assert main([*words, "--method", "minmax", "--smooth", "off", "--no-compare", "-v"]) == 0
    return checkpoint, folder / "out"


@pytest.fixture(scope="module")
def calibration(calibrated: tuple[Path, Path]) -> Calibration:
    return read_calibration(calibrated[1] / "tiny.calibration.json")


def test_windows_are_the_same_for_the_same_seed_and_cover_the_strata(data: Path) -> None:
    first, again, other = (collect(data, 9, seed, 64) for seed in (0, 0, 1))
    assert [sample.listing() for sample in first] == [sample.listing() for sample in again]
    assert [sample.sha256 for sample in first] != [sample.sha256 for sample in other]
    assert len({sample.sha256 for sample in first}) == 9
    strata = Counter(sample.stratum for sample in first)
    assert {"muted", "noise", "off-screen"} <= set(strata)
    assert set(strata) & {"dog", "cat", "piano"}
    assert first[0].image.shape == (64, 64, 3)
    assert first[0].audio.shape == (15_600,)


def test_strata_take_turns() -> None:
    from calibrate.samples import Sample

    def sample(stratum: str, number: int) -> Sample:
        return Sample(f"{stratum}{number}", stratum, np.full((2, 2, 3), number, np.uint8), np.zeros(4, np.float32))

    many = [sample("dog", number) for number in range(50)] + [
        sample("cat", 90),
        sample("muted", 91),
        sample("muted", 91),
    ]
    chosen = stratified(many, 6, 0)
    assert Counter(each.stratum for each in chosen) == {"dog": 4, "cat": 1, "muted": 1}


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
def test_modelopt_sees_what_we_see(calibrated: tuple[Path, Path], data: Path, smooth: bool) -> None:
    """NVIDIA's own calibration, as a second opinion: without SmoothQuant each range is ours to the bit."""
    net, _ = checkpoints.load(calibrated[0])
    samples = collect(data, 3, 0, 64)
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
    assert names == {"tiny.calibration.json", "tiny.int8.onnx", "tiny.int8.pt2", "layers.png", "report.json"}
    assert calibration.checkpoint_sha256 == checkpoints.sha256(checkpoint)
    assert len(calibration.windows) == 6
    assert not set(calibration.float_layers) & set(calibration.ranges)
    assert len(calibration.ranges) > 80
    report = json.loads((out / "report.json").read_text())
    assert report["float_layers"] == calibration.float_layers
    assert set(report["alone"]) == set(calibration.ranges) | set(calibration.float_layers)


def test_one_graph_for_torch_openvino_and_the_exports(calibrated: tuple[Path, Path], calibration: Calibration) -> None:
    checkpoint, out = calibrated
    net, _ = checkpoints.load(checkpoint)
    plain, rounded = Deployed(net).eval(), quantized(net, calibration)
    again = torch.export.load(out / "tiny.int8.pt2").module()
    bundle = out.parent / "openvino"
    manifest = build_bundle(Request(checkpoint, "openvino", "int8", str(out / "tiny.calibration.json")), bundle, print)
    assert manifest.precision == "int8"
    assert manifest.calibration["num_windows"] == 6
    import openvino

    core, fp32 = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
    from_onnx = core.compile_model(str(out / "tiny.int8.onnx"), "CPU", fp32)
    fewer = builders.gaining(net, calibration)
    assert len(fewer.ranges) == manifest.calibration["int8_layers"] < len(calibration.ranges)
    partly, converted = quantized(net, fewer), core.compile_model(builders.convert(net, fewer), "CPU", fp32)
    with open_engine(bundle, LiveSettings()) as engine:
        for image, audio in windows(64, 15_600, count=2, seed=3):
            inputs = (torch.from_numpy(image), torch.from_numpy(audio))
            with torch.inference_mode():
                exact, wanted = plain(*inputs)[0][0].numpy(), rounded(*inputs)[0][0].numpy()
                loaded, fewer_wanted = again(*inputs)[0][0].numpy(), partly(*inputs)[0][0].numpy()
            assert np.abs(wanted - exact).max() > 1e-6  # it is rounded
            np.testing.assert_allclose(loaded, wanted, atol=1e-5)
            # int8 kernels add up in another order: one step here or there. ONNX has no steps of half the size, and in
            # the bundle bf16, where it is faster, moves random weights' values over many a step
            for got, asked, limit in (
                (converted([image, audio])[0][0], fewer_wanted, 0.03),
                (from_onnx([image, audio])[0][0], wanted, 0.06),
                (engine.run(image[0], audio[0]).sounding, fewer_wanted, 0.12),
            ):
                assert np.abs(got - asked).mean() < limit
                assert np.corrcoef(got.ravel(), asked.ravel())[0, 1] > 0.9


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors add int8 products in 32 bits")
@pytest.mark.parametrize(("instructions", "found"), [("AVX2", "True"), ("DEFAULT", None)])
def test_sums_that_overflow_are_noticed(instructions: str, found: str | None) -> None:
    code = "from rt_avsac.engines.openvino import *; print(saturates(open_core()))"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": instructions},
        capture_output=True,
        text=True,
        check=True,
    )
    has_vnni = "vnni" in Path("/proc/cpuinfo").read_text()
    assert ran.stdout.strip() == (found or str(not has_vnni))


def test_where_sums_overflow_weights_get_half_their_range(
    calibrated: tuple[Path, Path], calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, out = calibrated
    net, _ = checkpoints.load(checkpoint)
    whole, half = (quantized(net, calibration, overflows) for overflows in (False, True))
    num_layers = {"unsigned": 0, "one channel": 0, "signed": 0}
    for name in calibration.ranges:
        before, after = whole.get_submodule(f"net.{name}"), half.get_submodule(f"net.{name}")
        assert isinstance(after, quantize.Rounded)
        (old,), (new,) = ([m for m in each.modules() if isinstance(m, WeightQdq)] for each in (before, after))
        group = (
            "one channel" if getattr(after.layer, "groups", 1) > 1 else "unsigned" if after.input.positive else "signed"
        )
        num_layers[group] += 1
        assert torch.allclose(new.scale, old.scale * (127 / 63 if group == "unsigned" else 1))
    assert all(num_layers.values())
    monkeypatch.setattr("rt_avsac.engines.openvino.saturates", lambda core: True)
    request = Request(checkpoint, "openvino", "int8", str(out / "tiny.calibration.json"))
    assert build_bundle(request, tmp_path / "half", print).calibration["half_range_weights"] is True


def test_auto_takes_int8_only_where_its_masks_are_those_of_fp32(
    calibrated: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a processor without bf16; kernels differ between processors, so it is measured where it will run."""
    checkpoint, out = calibrated
    table = json.loads((out / "tiny.calibration.json").read_text())
    table["measured"]["verdict"] = "within"
    approved = tmp_path / "c.json"
    approved.write_text(json.dumps(table))
    monkeypatch.setattr("rt_avsac.engines.openvino.capabilities", lambda core: ["INT8"])
    monkeypatch.setattr(builders, "demo_windows", windows)
    said: list[str] = []
    for agreement, precision in ((0.9, "int8"), (0.5, "fp32")):
        monkeypatch.setattr(builders, "deviation", lambda *_, agreement=agreement: {"mask_iou": agreement})
        manifest = build_bundle(Request(checkpoint, "openvino", "auto", str(approved)), tmp_path / "b", said.append)
        assert manifest.precision == precision
        assert bool(manifest.calibration) is (precision == "int8")
    assert any("agree 0.50 with fp32" in text for text in said)


def test_the_onnx_has_int8_weights(calibrated: tuple[Path, Path], calibration: Calibration) -> None:
    import onnx

    model = onnx.load(calibrated[1] / "tiny.int8.onnx")
    onnx.checker.check_model(model)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    kinds = Counter(node.op_type for node in model.graph.node)
    weights = [
        item for item in model.graph.initializer if item.data_type == onnx.TensorProto.INT8 and len(item.dims) > 1
    ]
    assert len(weights) == len(calibration.ranges)
    # what enters several layers alike is rounded once
    assert 0 < kinds["QuantizeLinear"] <= len(calibration.ranges)
    assert kinds["DequantizeLinear"] == kinds["QuantizeLinear"] + len(weights)
    assert [item.name for item in model.graph.output] == ["sounding", "class_probability", "audio_probability"]


@needs_rtx
def test_a_tensorrt_builder_takes_it(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    """The ONNX of a calibration, and what `compile` makes of it: every op has an implementation, all is one engine."""
    checkpoint, out = calibrated
    names, size = build_onnx(out / "tiny.int8.onnx")
    assert len(names) == 3
    assert size > 1_000_000
    packed = tmp_path / "packed.onnx"
    request = Request(checkpoint, "tensorrt", "int8", str(out / "tiny.calibration.json"))
    graph_for_tensorrt(request, "int8", packed)
    assert build_onnx(packed)[0] == [*names, *PACKED]


def test_tensorrts_graph_is_fp16_where_it_is_not_int8(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    """No scale is fp32, SmoothQuant's factors are not either: TensorRT wants both sides of a product alike."""
    import onnx

    checkpoint, out = calibrated
    table = json.loads((out / "tiny.calibration.json").read_text())
    net, _ = checkpoints.load(checkpoint)
    for name, layer in layers(net).items():
        if name in table["ranges"] and layer.weight.shape[1] > 1:
            table["ranges"][name]["smooth"] = [1.5] * layer.weight.shape[1]
    (tmp_path / "smooth.json").write_text(json.dumps(table))
    request = Request(checkpoint, "tensorrt", "int8", str(tmp_path / "smooth.json"))
    graph_for_tensorrt(request, "int8", tmp_path / "graph.onnx")
    model = onnx.load(tmp_path / "graph.onnx")
    onnx.checker.check_model(model, full_check=True)
    kinds = {item.name: item.data_type for item in model.graph.initializer}
    roundings = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(roundings) > len(table["ranges"])
    assert {kinds[node.input[1]] for node in roundings} == {onnx.TensorProto.FLOAT16}


def test_tensorrts_int8_graph_finds_the_shipped_models_masks(tmp_path: Path) -> None:
    """OpenVINO computes it, since TensorRT cannot here."""
    import openvino

    shipped = find("avsac-edge")
    request = Request(shipped, "tensorrt", "int8", str(find_calibration(shipped)))
    net, _, _ = graph_for_tensorrt(request, "int8", tmp_path / "graph.onnx")
    compiled = openvino.Core().compile_model(str(tmp_path / "graph.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(image: np.ndarray, audio: np.ndarray) -> list[np.ndarray]:
        return [compiled([image, audio, np.full(1, 0.5, np.float32)])[0]]

    assert deviation(net, run, demo_windows(224, 15_600))["mask_iou"] > 0.97


@needs_torch_tensorrt
def test_torch_tensorrt_takes_it(calibrated: tuple[Path, Path]) -> None:
    """The .pt2 of the same calibration: our Q/DQ op too is converted."""
    found = build_pt2(calibrated[1] / "tiny.int8.pt2")
    assert found["fallback"] == []
    assert found["engine_bytes"] > 1_000_000


def rows(**int8: float) -> list[Row]:
    base: dict[str, Any] = {
        "backend": "torch", "num_items": 10, "miou": 0.6, "f": 0.7, "false_alarm": 0.05,
        "swap_accuracy": 0.8, "class_accuracy": 0.8, "agreement": 1.0, "p50_ms": 50.0,
    }  # fmt: skip
    return [Row(precision="fp32", **base), Row(precision="int8", **(base | int8))]


@pytest.mark.parametrize(
    ("int8", "parts"),
    [
        ({"miou": 0.591}, []),
        ({"miou": 0.589}, ["mIoU fell by 1.10"]),
        ({"false_alarm": 0.061}, ["false alarms rose by 1.10"]),
        ({"miou": 0.5, "false_alarm": 0.2}, ["mIoU", "false alarms"]),
        ({"miou": 0.7, "false_alarm": 0.0}, []),
    ],
)
def test_the_budget(int8: dict[str, float], parts: list[str]) -> None:
    found = over_budget(rows(**int8), Budget())
    assert len(found) == len(parts)
    assert all(part in text for part, text in zip(parts, found, strict=True))


def test_the_fewest_layers_that_are_good_enough_are_left_out() -> None:
    assert choose_cut({0: 0.90, 1: 0.95, 2: 0.97, 4: 0.972, 8: 0.974}) == 2
    assert choose_cut({0: 0.99, 1: 0.99}) == 0


def test_mask_iou_of_windows() -> None:
    a = np.zeros((2, 4, 4), np.float32)
    b = a.copy()
    b[0, 0, :2] = a[0, 0, :1] = 1.0
    assert mask_iou(a, b) == pytest.approx((0.5 + 1.0) / 2)


def test_comparison_end_to_end(calibrated: tuple[Path, Path], data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from calibrate.run import compared, parser

    checkpoint, out = calibrated
    words = [str(checkpoint), "--data", str(data), "--out", str(out), "--eval-num", "2", "--precisions", "fp32"]
    found = compared(parser().parse(words), checkpoint, out / "tiny.calibration.json", print)
    assert [each.precision for each in found] == ["fp32", "int8"]
    assert found[0].agreement == 1.0
    assert all(each.p50_ms > 0 and each.num_items == 2 for each in found)


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
    ("words", "part", "code"),
    [
        (["no-such", "--data", "x", "--out", "y"], "no-such", 2),
        (["--data", "x"], "CHECKPOINT", 2),
        (["{model}", "--data", "no-such-data", "--out", "{out}"], "no-such-data", 2),
        (["{model}", "--data", "{data}", "--out", "{out}", "--num", "0"], "at least 1", 2),
        (["{model}", "--data", "{data}", "--out", "{model}/x"], "cannot be made", 5),
    ],
)
def test_bad_words(
    words: list[str],
    part: str,
    code: int,
    calibrated: tuple[Path, Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"{model}": str(calibrated[0]), "{data}": str(data), "{out}": str(tmp_path)}
    filled = [word.replace("{model}/", places["{model}"] + "/") for word in words]
    assert main([places.get(word, word) for word in filled]) == code
    assert part in capsys.readouterr().err
