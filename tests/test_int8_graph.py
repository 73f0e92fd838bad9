"""One quantized graph for torch, OpenVINO and TensorRT: the same numbers, int8 weights, and builders that take it."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rt_avsac import build as builders
from rt_avsac import quantize
from rt_avsac.build_gpu import graph_for_tensorrt
from rt_avsac.compile import Request, find_calibration
from rt_avsac.compile import build as build_bundle
from rt_avsac.config import LiveSettings
from rt_avsac.convert import convert
from rt_avsac.engines import open_engine
from rt_avsac.engines.tensorrt import PACKED
from rt_avsac.model import checkpoint as checkpoints
from rt_avsac.model.avsac import Deployed
from rt_avsac.model_path import find
from rt_avsac.probe import demo_windows, deviation, windows
from rt_avsac.quantize import Calibration, WeightQdq, layers, quantized
from tests.rtx import build_onnx, build_pt2, needs_rtx, needs_torch_tensorrt


def test_one_graph_for_torch_openvino_and_the_exports(calibrated: tuple[Path, Path], calibration: Calibration) -> None:
    checkpoint, out = calibrated
    net, _ = checkpoints.load(checkpoint)
    plain, signed = Deployed(net).eval(), quantized(net, calibration.signed())
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
    partly, converted = quantized(net, fewer), core.compile_model(convert(net, fewer), "CPU", fp32)
    with open_engine(bundle, LiveSettings()) as engine:
        for image, audio in windows(64, 15_600, count=2, seed=3):
            inputs = (torch.from_numpy(image), torch.from_numpy(audio))
            with torch.inference_mode():
                exact, wanted = plain(*inputs)[0][0].numpy(), signed(*inputs)[0][0].numpy()
                loaded, fewer_wanted = again(*inputs)[0][0].numpy(), partly(*inputs)[0][0].numpy()
            assert np.abs(wanted - exact).max() > 1e-6  # it is rounded
            np.testing.assert_allclose(loaded, wanted, atol=1e-5)
            # int8 kernels add up in another order: one step here or there; and in the bundle bf16, where it is
            # faster, moves random weights' values over many a step
            for got, asked, limit in (
                (converted([image, audio])[0][0], fewer_wanted, 0.03),
                (from_onnx([image, audio])[0][0], wanted, 0.03),
                (engine.run(image[0], audio[0]).sounding, fewer_wanted, 0.12),
            ):
                assert np.abs(got - asked).mean() < limit
                assert np.corrcoef(got.ravel(), asked.ravel())[0, 1] > 0.9


def test_signed_steps_leave_out_what_they_cost(calibration: Calibration) -> None:
    assert any(measured.positive for measured in calibration.ranges.values())
    costly, *others = calibration.ranges
    signed = dataclasses.replace(calibration, signed_float_layers=[costly]).signed()
    assert list(signed.ranges) == others
    assert costly in signed.float_layers
    assert not any(measured.positive for measured in signed.ranges.values())


def test_int8_is_for_channels_by_fours() -> None:
    kinds = [nn.Conv2d(3, 8, 3), nn.Conv2d(25, 8, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Linear(6, 4), nn.Linear(8, 4)]
    assert list(layers(nn.Sequential(*kinds, nn.ReLU()))) == ["2", "4"]


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
    assert len(weights) == len(calibration.signed().ranges)
    # what enters several layers alike is rounded once
    assert 0 < kinds["QuantizeLinear"] <= len(calibration.signed().ranges)
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
