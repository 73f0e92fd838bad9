"""How engines for NVIDIA GPUs are made: AOTInductor for cuda, the ONNX graph for TensorRT. Not run here: no GPU."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rt_avsac import cache
from rt_avsac.build import LEAST_AGREEMENT, Built, approved_calibration, calibration_of, num_outputs
from rt_avsac.errors import ModelError, reason
from rt_avsac.model.settings import NUM_AUDIO_SAMPLES
from rt_avsac.probe import demo_windows, deviation

if TYPE_CHECKING:
    from rt_avsac.compile import Progress, Request
    from rt_avsac.model.avsac import Avsac
    from rt_avsac.model.on_device import Packed

WORKSPACE_MB = 1024
AUTOTUNE = {  # each kernel the fastest of those that are tried, without a table of them on the terminal
    "max_autotune": True,
    "autotune_num_choices_displayed": 0,
    "max_autotune_report_choices_stats": False,
}
FRAME_SIZES = ((480, 640), (720, 1280), (1080, 1920))  # scaled on the GPU; others on the host


def typed(net: Avsac, precision: str, device: str) -> Any:
    """The deployed network on `device`, BatchNorm folded, with the types of `precision` written into its graph."""
    import torch

    from rt_avsac.half import Half
    from rt_avsac.model.avsac import Deployed
    from rt_avsac.quantize import folded

    deployed = Deployed(folded(net)).eval()
    if precision == "fp32":
        return deployed.to(device)
    return Half(deployed, torch.bfloat16 if precision == "bf16" else torch.float16, device).eval().to(device)


def for_cuda(request: Request, folder: Path, say: Progress) -> Built:
    """One AOTInductor package; "auto" is fp16."""
    from rt_avsac.compile import check_precision
    from rt_avsac.cuda_home import toolchain
    from rt_avsac.engines.cuda import ENGINE, HOST, import_torch, load_package
    from rt_avsac.model.checkpoint import load
    from rt_avsac.model.on_device import Packed

    torch = import_torch()
    precision = "fp16" if request.precision == "auto" else request.precision
    check_precision("cuda", precision)
    net, header = load(request.checkpoint)
    say("compiling kernels and trying which are fastest, this takes some minutes")
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    torch.backends.cudnn.allow_tf32 = False  # kernels are tried as they will run
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = program_of(Packed(typed(net, precision, "cuda")), net.settings.image_size, "cuda")
        with toolchain():
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(folder / ENGINE), inductor_configs=AUTOTUNE | HOST
            )
    compiled, threshold, num = load_package(folder / ENGINE), torch.full((1,), 0.5).cuda(), num_outputs(net)

    def run(image: np.ndarray, audio: np.ndarray) -> list[np.ndarray]:
        outputs = compiled(torch.tensor(image).cuda(), torch.tensor(audio).cuda(), threshold)
        return [output.float().cpu().numpy() for output in outputs[:num]]

    probes = demo_windows(net.settings.image_size, NUM_AUDIO_SAMPLES)
    return Built(precision, header, num, deviation=deviation(net, run, probes))


def graph_for_tensorrt(request: Request, precision: str, path: Path) -> tuple[Avsac, dict[str, Any], Any]:
    """Writes the ONNX graph, packing included → network, checkpoint header, calibration or None. Needs no GPU.

    Types are in the graph, as strongly typed networks ask (TensorRT 10.3 to 11); int8 has Q/DQ, and fp16 in between.
    """
    import torch

    from rt_avsac.engines.tensorrt import INPUTS, OUTPUTS, PACKED
    from rt_avsac.export import OPSET, OPSET_HALF, write_onnx
    from rt_avsac.half import Half, spelled_out
    from rt_avsac.model.checkpoint import load
    from rt_avsac.model.on_device import Packed
    from rt_avsac.quantize import quantized

    net, header = load(request.checkpoint)
    calibration = calibration_of(request) if precision == "int8" else None
    if calibration is None:
        network, opset = typed(net, precision, "cpu"), OPSET
    else:
        network, opset = Half(quantized(net, calibration.signed()), torch.float16, "cpu").eval(), OPSET_HALF
    names = (*OUTPUTS[: num_outputs(net)], *PACKED)
    program = program_of(Packed(network), net.settings.image_size)
    write_onnx(program if precision == "fp32" else spelled_out(program), path, INPUTS, names, opset)
    return net, header, calibration


def program_of(packed: Packed, size: int, device: str = "cpu") -> Any:
    """The packed network, exported for that device."""
    import torch

    from rt_avsac.export import example

    with torch.no_grad():
        inputs = (*example(size, device), torch.full((1,), 0.5, device=device))
        return torch.export.export(packed.eval().to(device), inputs)


def scale_graph(height: int, width: int, size: int, path: Path) -> None:
    """Writes the ONNX graph that brings frames of this size to the network's. Needs no GPU."""
    import torch

    from rt_avsac.export import write_onnx
    from rt_avsac.model.on_device import Scale

    frame = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    with torch.no_grad():
        write_onnx(torch.export.export(Scale(height, width, size), (frame,)), path, ("frame",), ("image",))


def plan_of(trt: Any, builder: Any, config: Any, onnx: Path, strong: bool = True) -> bytes | None:
    """The whole graph as one engine: what the parser or the builder cannot take is an error, nothing falls back."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if strong else 0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    if not parser.parse(onnx.read_bytes()):
        raise ModelError(f"backend tensorrt: the parser refuses the graph: {parser.get_error(0).desc()}")
    plan = builder.build_serialized_network(network, config)
    return None if plan is None else bytes(plan)


def dla_core(trt: Any, builder: Any, precision: str) -> int | None:
    """The DLA core that RT_AVSAC_DLA asks for; ModelError where there is none, or where it cannot compute this.

    A DLA takes neither strongly typed networks nor Q/DQ, so it gets fp16, as TensorRT 8.6 to 10.7 (JetPack 6) build it.
    """
    asked = os.environ.get("RT_AVSAC_DLA", "")
    if not asked:
        return None
    if not asked.isdigit() or int(asked) >= builder.num_DLA_cores:
        raise ModelError(f"RT_AVSAC_DLA: asked core {asked}, this device has {builder.num_DLA_cores}; leave it unset")
    if precision != "fp16" or not hasattr(trt.BuilderFlag, "FP16"):
        raise ModelError(
            f"RT_AVSAC_DLA: asked precision {precision} with TensorRT {trt.__version__}; a DLA is used with fp16 and "
            "TensorRT 8.6 to 10.7"
        )
    return int(asked)


def builder_of(trt: Any) -> Any:
    """ModelError where there is no GPU to build for, or no memory on it."""
    try:
        return trt.Builder(trt.Logger(trt.Logger.ERROR))
    except TypeError as error:  # what its bindings make of a null pointer
        raise ModelError(f"backend tensorrt: its builder does not start ({reason(error)}); is the GPU free?") from None


def config_of(trt: Any, builder: Any) -> Any:
    """Workspace as RT_AVSAC_WORKSPACE_MB says; fp32 is fp32: TF32's 10 bits of mantissa spoil the log-mel spectrum."""
    asked = os.environ.get("RT_AVSAC_WORKSPACE_MB", str(WORKSPACE_MB))
    if not asked.isdigit() or int(asked) < 1:
        raise ModelError(
            f"RT_AVSAC_WORKSPACE_MB: asked a number of MB, got {asked!r}; leave it unset for {WORKSPACE_MB}"
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(asked) << 20)
    config.clear_flag(trt.BuilderFlag.TF32)
    return config


@contextmanager
def timing_cache(trt: Any, config: Any, device: str) -> Iterator[None]:
    """What earlier builds on this GPU with this TensorRT found out about kernels; kept for the next one."""
    key = hashlib.sha256(f"{trt.__version__} {device}".encode()).hexdigest()[:8]
    path = cache.folder() / f"timing-{key}.cache"
    known = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    yield
    with suppress(OSError):  # only the next build is slower
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
        os.replace(temporary, path)


def for_tensorrt(request: Request, folder: Path, say: Progress) -> Built:
    """ONNX → TensorRT's parser → one strongly typed engine, and a small one for each usual size of frame.

    "auto" is int8 with a calibration whose masks are found on this GPU too, else fp16.
    """
    from rt_avsac.build import manifest_of
    from rt_avsac.engines.tensorrt import ENGINE, TensorRtEngine, import_tensorrt, machine

    trt = import_tensorrt()
    precision = request.precision
    if precision == "auto":
        precision = "int8" if approved_calibration(request, say, "signed_verdict") else "fp16"
    say("writing the graph")
    onnx = folder / "graph.onnx"
    net, header, calibration = graph_for_tensorrt(request, precision, onnx)
    builder, here = builder_of(trt), machine()
    dla = dla_core(trt, builder, precision)
    config = config_of(trt, builder)
    if dla is not None:
        config.default_device_type, config.DLA_core = trt.DeviceType.DLA, dla
        config.set_flag(trt.BuilderFlag.FP16)
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)  # attention stays on the GPU
        say(f"convolutions go to DLA core {dla}")
    say("TensorRT is trying kernels, this takes minutes")
    with timing_cache(trt, config, here.device):
        plan = plan_of(trt, builder, config, onnx, strong=dla is None)
        if plan is None:
            raise ModelError(
                f"backend tensorrt: {precision} engine not built; a smaller RT_AVSAC_WORKSPACE_MB may help"
            )
    (folder / ENGINE).write_bytes(plan)
    options = {"frame_sizes": " ".join(scale_plans(trt, builder, net.settings.image_size, folder, say))}
    if dla is not None:
        options["dla_core"] = str(dla)
    measured = calibration.signed().summary() if calibration else {}
    built = Built(precision, header, num_outputs(net), options, calibration=measured)
    with TensorRtEngine(plan, manifest_of(request, built, here), blocking=False) as engine:

        def run(image: np.ndarray, audio: np.ndarray) -> list[np.ndarray]:
            return [output[None] for output in engine.run(image[0], audio[0]) if output is not None]

        found = deviation(net, run, demo_windows(net.settings.image_size, NUM_AUDIO_SAMPLES))
    if request.precision == "auto" and precision == "int8" and found["mask_iou"] < LEAST_AGREEMENT:
        say(f"int8 is left out: its masks agree {found['mask_iou']:.2f} with fp32 on this GPU")
        return for_tensorrt(replace(request, precision="fp16"), folder, say)
    return replace(built, deviation=found)


def scale_plans(trt: Any, builder: Any, size: int, folder: Path, say: Progress) -> list[str]:
    """Writes an engine for each of FRAME_SIZES → those that were built, as HEIGHTxWIDTH."""
    from rt_avsac.engines.tensorrt import SCALE

    built = []
    for height, width in FRAME_SIZES:
        onnx, path = folder / "scale.onnx", folder / SCALE.format(height=height, width=width)
        scale_graph(height, width, size, onnx)
        plan = plan_of(trt, builder, config_of(trt, builder), onnx)
        onnx.unlink()
        if plan is None:
            say(f"frames of {width}x{height} are scaled on the host: no engine for them")
            continue
        path.write_bytes(plan)
        built.append(f"{height}x{width}")
    return built
