"""Which backend "auto" means, and what is refused before anything is built."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from rt_avsac import cache, cli, cuda_home
from rt_avsac import compile as compile_module
from rt_avsac.compile import cached_bundle, choose_backend, parse_request
from rt_avsac.config import LiveSettings
from rt_avsac.errors import ModelError


def test_backend_choice() -> None:
    assert choose_backend("cpu", "auto") == "openvino"
    assert choose_backend("auto", "torch") == "torch"
    with pytest.raises(ModelError, match="needs a GPU"):
        choose_backend("cpu", "tensorrt")
    with pytest.raises(ModelError, match="it runs on CPUs"):
        choose_backend("cuda", "openvino")


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a GPU")
@pytest.mark.parametrize(
    ("device", "backend"), [("cuda", "auto"), ("cuda", "torch"), ("auto", "cuda"), ("auto", "tensorrt")]
)
def test_a_gpu_that_is_not_there(device: str, backend: str) -> None:
    with pytest.raises(ModelError, match="use --backend openvino or torch, with --device cpu"):
        choose_backend(device, backend)


@pytest.mark.parametrize(
    ("device", "has", "chosen"),
    [
        ("auto", {"tensorrt", "cuda", "compilers"}, "tensorrt"),
        ("auto", {"tensorrt"}, "tensorrt"),  # a Jetson with a torch for CPUs, or none
        ("auto", {"cuda", "compilers"}, "cuda"),
        ("auto", {"cuda"}, "openvino"),
        ("auto", set(), "openvino"),
        ("cuda", {"tensorrt"}, "tensorrt"),
        ("cuda", {"cuda"}, "cuda"),
        ("cpu", {"tensorrt", "cuda", "compilers"}, "openvino"),
    ],
)
def test_auto_on_a_machine_with_a_gpu(
    device: str, has: set[str], chosen: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def check_compilers() -> None:
        if "compilers" not in has:
            raise ModelError("no g++")

    monkeypatch.setattr(compile_module, "GPU_SIGNS", (str(tmp_path),))
    monkeypatch.setattr(compile_module, "has_tensorrt", lambda: "tensorrt" in has)
    monkeypatch.setattr(compile_module, "has_cuda", lambda: "cuda" in has)
    monkeypatch.setattr(cuda_home, "check_compilers", check_compilers)
    monkeypatch.setattr(cuda_home, "cuda_home", lambda: tmp_path)
    said: list[str] = []
    assert choose_backend(device, "auto", said.append) == chosen
    assert said == (["the GPU is left out: no g++"] if has == {"cuda"} and device == "auto" else [])


def test_the_calibration_beside_a_checkpoint_is_used_unless_another_is_given(checkpoint: Path, tmp_path: Path) -> None:
    def calibration(*words: str) -> str:
        options = ["--backend", "torch", "--out", str(tmp_path / "b")]
        args = cli.make_parser().parse(["compile", str(own), *options, *words])
        return parse_request(args, lambda text: None).calibration

    own, other = tmp_path / "tiny.safetensors", tmp_path / "other.json"
    own.write_bytes(checkpoint.read_bytes())
    assert calibration() == ""
    beside = tmp_path / "tiny.calibration.json"
    beside.touch()
    assert calibration() == str(beside)
    with pytest.raises(ModelError, match=r"other\.json: no such file"):
        calibration("--calibration", str(other))
    other.touch()
    assert calibration("--calibration", str(other)) == str(other)


def test_without_torch_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not compile_module.has_cuda()


def test_what_a_processor_lacks_is_refused_before_anything_is_said(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rt_avsac.engines import openvino as engine

    monkeypatch.setattr(engine, "capabilities", lambda core: ["INT8"])
    said: list[str] = []
    with pytest.raises(ModelError, match="this processor computes INT8; use fp32 or int8"):
        cached_bundle(checkpoint, LiveSettings(backend="openvino", precision="bf16"), said.append)
    assert said == []
    with pytest.raises(ModelError, match="asked of backend cuda"):
        compile_module.check_precision("cuda", "int8")


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under any number."""

    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert cache.folder().name == "rt-avsac"
