"""What an OpenVINO engine really computes in, as its own runtime model says."""

from __future__ import annotations

from pathlib import Path

import pytest

from rt_avsac.compile import Request
from rt_avsac.compile import build as build_bundle
from rt_avsac.engines.openvino import ENGINE, HINTS, capabilities, compile_model, computed_in, open_core
from tests.tiny_model import make_tiny


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_spectrum_of_the_sound_is_never_in_half_precision(precision: str, tmp_path: Path) -> None:
    core = open_core()
    if precision not in computed_in(capabilities(core)):
        pytest.skip(f"this processor has no {precision}")
    build_bundle(
        Request(make_tiny(tmp_path / "tiny.safetensors"), "openvino", precision), tmp_path / "b", lambda t: None
    )
    graph = compile_model(core, str(tmp_path / "b" / ENGINE), HINTS[precision], num_threads=1).get_runtime_model()
    found, waiting = [], [node for node in graph.get_ops() if node.get_friendly_name() == "audio"]
    while waiting:
        node = waiting.pop()
        info = node.get_rt_info()
        found.append((info["layerType"].astype(str), info["runtimePrecision"].astype(str)))
        if "Log" not in info["originalLayersNames"].astype(str):
            waiting += [reader.get_node() for output in node.outputs() for reader in output.get_target_inputs()]
    assert len(found) > 8
    assert {kind for _, kind in found} == {"f32"}, found
