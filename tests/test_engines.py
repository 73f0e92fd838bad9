"""What can be known of the GPU backends without a GPU: types in the graph, a builder that takes it, clear refusals."""

from __future__ import annotations

import enum
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from rt_avsac import cli
from rt_avsac.build_gpu import (
    FRAME_SIZES,
    builder_of,
    config_of,
    dla_core,
    graph_for_tensorrt,
    program_of,
    scale_graph,
    timing_cache,
    typed,
)
from rt_avsac.compile import Request
from rt_avsac.engines import BACKENDS, Outputs, PackingEngine, backend_module, cuda
from rt_avsac.engines.tensorrt import OUTPUTS, PACKED, TensorRtEngine, check
from rt_avsac.errors import ModelError
from rt_avsac.export import exported, write_pt2
from rt_avsac.half import spelled_out
from rt_avsac.model import checkpoint as checkpoints
from rt_avsac.model.avsac import Deployed
from rt_avsac.model.on_device import Packed
from rt_avsac.probe import windows
from tests.rtx import build_onnx, build_pt2, needs_rtx, needs_torch_tensorrt


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_are_modules_that_load_nothing_at_import(backend: str) -> None:
    module = backend_module(backend)
    assert callable(module.machine)
    assert callable(module.open_bundle)


def test_an_unknown_backend() -> None:
    with pytest.raises(ModelError, match="onnx: unknown"):
        backend_module("onnx")


def test_outputs_of_one_two_and_three_arrays() -> None:
    one = np.zeros((2, 2), np.float32)
    assert Outputs.of([one]) == (one, None, None)
    assert Outputs.of([one, one])[2] is None
    assert len(Outputs.of([one, one, one])) == 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_typed_networks_say_what_the_plain_one_says(checkpoint: Path, precision: str) -> None:
    net, _ = checkpoints.load(checkpoint)
    plain, half = Deployed(net).eval(), typed(net, precision, "cpu")
    for image, audio in windows(64, 15_600, count=2):
        inputs = (torch.from_numpy(image), torch.from_numpy(audio))
        with torch.inference_mode():
            for wanted, got in zip(plain(*inputs), half(*inputs), strict=True):
                assert got.dtype == torch.float32
                assert float((wanted - got).abs().mean()) < (1e-5 if precision == "fp32" else 0.03)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own
def test_no_weight_is_cast_while_a_network_runs(checkpoint: Path) -> None:
    """Compilers for GPUs do not fold such casts: each would be run for every frame."""
    net, _ = checkpoints.load(checkpoint)
    program = program_of(Packed(typed(net, "fp16", "cpu")), 64).run_decompositions({})
    signature = program.graph_signature
    stored = {*signature.inputs_to_parameters, *signature.inputs_to_buffers}
    casts = [node for node in program.graph.nodes if node.target == torch.ops.aten._to_copy.default]
    assert casts  # of what flows
    assert [node.args[0].name for node in casts if node.args[0].name in stored] == []


@needs_rtx
def test_a_tensorrt_builder_takes_the_fp16_graph(checkpoint: Path, tmp_path: Path) -> None:
    """Strongly typed, whole, nothing left over: what the parser cannot map to a layer would be an error here."""
    import onnx

    path = tmp_path / "graph.onnx"
    graph_for_tensorrt(Request(checkpoint, "tensorrt", "fp16"), "fp16", path)
    kinds = Counter(item.data_type for item in onnx.load(path).graph.initializer)
    assert kinds[onnx.TensorProto.FLOAT16] > 80
    assert build_onnx(path)[0] == [*OUTPUTS, *PACKED]


@needs_rtx
@pytest.mark.parametrize(("height", "width"), [*FRAME_SIZES, (481, 641)])
def test_a_tensorrt_builder_takes_the_scaling(height: int, width: int, tmp_path: Path) -> None:
    scale_graph(height, width, 224, tmp_path / "scale.onnx")
    assert build_onnx(tmp_path / "scale.onnx")[0] == ["image"]


@needs_torch_tensorrt
def test_torch_tensorrt_leaves_no_operator_to_torch(checkpoint: Path, tmp_path: Path) -> None:
    """The list of what falls back is empty, and with autocast to fp16 the whole is one engine."""
    net, _ = checkpoints.load(checkpoint)
    write_pt2(exported(net, None), tmp_path / "tiny.pt2")
    found = build_pt2(tmp_path / "tiny.pt2")
    assert found["fallback"] == []
    assert found["engine_bytes"] > 1_000_000


@needs_rtx
def test_a_builder_is_told_what_fp32_and_workspace_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt_rtx as trt

    builder = builder_of(trt)
    assert builder.create_builder_config().get_flag(trt.BuilderFlag.TF32)  # as TensorRT has it
    monkeypatch.setenv("RT_AVSAC_WORKSPACE_MB", "64")
    config = config_of(trt, builder)
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 << 20
    monkeypatch.setenv("RT_AVSAC_WORKSPACE_MB", "much")
    with pytest.raises(ModelError, match="asked a number of MB, got 'much'"):
        config_of(trt, builder)


@needs_rtx
@pytest.mark.filterwarnings("ignore")  # the RTX edition calls it deprecated
def test_what_was_learnt_of_kernels_is_kept_for_each_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is there but cannot be read does not end a build."""
    import tensorrt_rtx as trt

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    builder = builder_of(trt)
    for gpu in ("one", "other", "one"):
        with timing_cache(trt, config_of(trt, builder), gpu):
            pass
    kept = sorted((tmp_path / "rt-avsac").iterdir())
    assert len(kept) == 2
    kept[0].write_bytes(b"rubbish")
    for gpu in ("one", "other"):
        with timing_cache(trt, config_of(trt, builder), gpu):
            pass
    assert kept[0].read_bytes() != b"rubbish"


def test_a_dla_is_used_only_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    orin, desktop = SimpleNamespace(num_DLA_cores=2), SimpleNamespace(num_DLA_cores=0)
    ten, eleven = SimpleNamespace(FP16=0), SimpleNamespace()
    trt = SimpleNamespace(BuilderFlag=ten, __version__="10.3.0")
    assert dla_core(trt, orin, "fp16") is None
    monkeypatch.setenv("RT_AVSAC_DLA", "1")
    assert dla_core(trt, orin, "fp16") == 1
    with pytest.raises(ModelError, match="this device has 0"):
        dla_core(trt, desktop, "fp16")
    monkeypatch.setenv("RT_AVSAC_DLA", "2")  # they count from 0
    with pytest.raises(ModelError, match="this device has 2"):
        dla_core(trt, orin, "fp16")
    monkeypatch.setenv("RT_AVSAC_DLA", "1")
    with pytest.raises(ModelError, match="asked precision int8"):
        dla_core(trt, orin, "int8")
    with pytest.raises(ModelError, match=r"TensorRT 11\.0"):
        dla_core(SimpleNamespace(BuilderFlag=eleven, __version__="11.0"), orin, "fp16")


class CudaError(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2


def test_what_cuda_says_is_taken_apart() -> None:
    fine = CudaError.cudaSuccess
    assert [check((fine,)), check((fine, 5)), check((fine, 5, 6))] == [None, 5, (5, 6)]
    with pytest.raises(ModelError, match="CUDA says cudaErrorMemoryAllocation"):
        check((CudaError.cudaErrorMemoryAllocation, None))


class NoCapture:
    """CUDA's runtime and an execution context, of an engine that refuses to run while it is captured."""

    capturing, runs, failed = False, 0, False
    admits = True
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def cudaStreamBeginCapture(self, *_: object) -> tuple[int]:
        self.capturing = True
        return (0,)

    def cudaStreamEndCapture(self, *_: object) -> tuple[int, None]:
        self.capturing, self.failed = False, True
        return 901, None

    def cudaGetLastError(self) -> tuple[int]:
        self.failed = False  # until it is asked for, the next call says it once more
        return (901,)

    def execute_async_v3(self, stream: int) -> bool:
        self.runs += not self.capturing
        return not (self.capturing and self.admits)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: (0,)


@pytest.mark.parametrize("admits", [True, False])
def test_an_engine_that_cannot_be_captured_runs_all_the_same(admits: bool) -> None:
    engine, runtime = TensorRtEngine.__new__(TensorRtEngine), NoCapture()
    runtime.admits = admits
    engine._cudart, engine._stream, engine._graphs, engine._buffers = runtime, 0, {}, {}
    for runs in (4, 5):  # three to warm up
        engine._launch([runtime], (), ())
        assert (runtime.runs, runtime.capturing, runtime.failed) == (runs, False, False)


def test_loading_asks_no_compiler_about_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch would start one, and a new Python, for each kind of vectors: half a minute at every start."""
    from torch._inductor import cpu_vec_isa

    asked: list[object] = []

    def load(*_: object, **__: object) -> list[object]:
        return list(cpu_vec_isa.valid_vec_isa_list.__wrapped__())

    monkeypatch.setattr(cuda, "import_torch", lambda: torch)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", load)
    monkeypatch.setattr(cpu_vec_isa.VecISA, "check_build", lambda *_: bool(asked.append(_)))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert cuda.load_package(tmp_path / cuda.ENGINE) == []
    assert not asked
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a GPU")
@pytest.mark.parametrize("backend", ["cuda", "tensorrt"])
def test_gpu_backends_without_a_gpu_are_one_line(
    backend: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compile", str(checkpoint), "--backend", backend, "--precision", "fp16", "--out", str(tmp_path / "b")]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert backend in error
    assert not (tmp_path / "b").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["cuda", "tensorrt"])
def test_gpu_backends_on_a_gpu(backend: str, checkpoint: Path, tmp_path: Path) -> None:
    """The engine says what torch says, twice, and the second run does not disturb what the first gave."""
    from rt_avsac.compile import build
    from rt_avsac.config import LiveSettings
    from rt_avsac.engines import open_engine

    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    if backend == "tensorrt":
        pytest.importorskip("tensorrt", exc_type=Exception)
        pytest.importorskip("cuda.bindings")
    manifest = build(Request(checkpoint, backend, "fp16"), tmp_path / "b", print)
    assert manifest.deviation["mask_iou"] > 0.9
    net, _ = checkpoints.load(checkpoint)
    plain = Deployed(net).eval()
    with open_engine(tmp_path / "b", LiveSettings()) as engine:
        probes = windows(64, 15_600, count=2)
        found = [engine.run(image[0], audio[0]) for image, audio in probes]
        assert isinstance(engine, PackingEngine)
        assert engine.scales(480, 640)
        big = np.asarray(cv2.resize(probes[0][0][0], (640, 480), interpolation=cv2.INTER_NEAREST), np.uint8)
        masks = [engine.segment(frame, probes[0][1][0], 0.5) for frame in (probes[0][0][0], big)]
    for packed in masks:
        mask = np.unpackbits(packed.bits, axis=1)
        assert (mask != (found[0].sounding >= 0.5)).mean() < 0.02
    for (image, audio), outputs in zip(probes, found, strict=True):
        with torch.inference_mode():
            wanted = plain(torch.from_numpy(image), torch.from_numpy(audio))[0][0].numpy()
        assert np.abs(outputs.sounding - wanted).mean() < 0.03


def test_changes_of_type_are_spelled_out() -> None:
    """No operator takes two types of float; the numbers are those of before."""

    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.shift = torch.nn.Linear(8, 8), torch.nn.Parameter(torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return (self.layer(x) + self.shift) * x

    x = torch.randn(2, 8)
    with torch.no_grad():
        program = torch.export.export(Mixed().eval(), (x,))
        spelled = spelled_out(program)
        assert torch.equal(spelled.module()(x), program.module()(x))
    casts = 0
    for node in spelled.graph.nodes:
        inputs = {each.meta["val"].dtype for each in node.all_input_nodes}
        assert node.op != "call_function" or len(inputs) == 1, node.format_node()
        casts += node.target == torch.ops.aten._to_copy.default
    assert casts
