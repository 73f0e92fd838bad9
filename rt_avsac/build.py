"""How each backend's engine files are made from a checkpoint. Loads torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import rt_avsac
from rt_avsac.bundle import Machine, Manifest, sha256
from rt_avsac.errors import ModelError, reason
from rt_avsac.model.settings import NUM_AUDIO_SAMPLES
from rt_avsac.probe import demo_windows, deviation, time_runs, windows

if TYPE_CHECKING:
    from rt_avsac.compile import Progress, Request
    from rt_avsac.model.avsac import Avsac
    from rt_avsac.quantize import Calibration


LEAST_AGREEMENT = 0.85  # IoU of int8's masks with those of fp32 on the demo, for "auto" to take it


@dataclass(frozen=True)
class Built:
    """What a builder knows beyond the files that it wrote."""

    precision: str
    header: dict[str, Any]  # the checkpoint's
    num_outputs: int
    options: dict[str, str] = field(default_factory=dict)
    deviation: dict[str, float] = field(default_factory=dict)
    measured_ms: dict[str, float] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    runtime: dict[str, str] | None = None  # None: the machine's


def manifest_of(request: Request, built: Built, machine: Machine) -> Manifest:
    header = built.header
    return Manifest(
        name=str(header["settings"]["name"]),
        checkpoint_sha256=sha256(request.checkpoint),
        backend=request.backend,
        precision=built.precision,
        image_size=int(header["settings"]["image_size"]),
        num_audio_samples=NUM_AUDIO_SAMPLES,
        classes=list(header["classes"]),
        num_outputs=built.num_outputs,
        runtime=machine.runtime if built.runtime is None else built.runtime,
        device=machine.device,
        driver=machine.driver,
        rt_avsac=rt_avsac.__version__,
        options=built.options,
        deviation=built.deviation,
        measured_ms=built.measured_ms,
        calibration=built.calibration,
        weights_licence=str(header.get("licence", "not stated")),
    )


def for_torch(request: Request, folder: Path, say: Progress) -> Built:
    """The checkpoint itself; int8 adds its calibration and is simulated."""
    from rt_avsac.engines.torch import CALIBRATION, ENGINE
    from rt_avsac.model.checkpoint import load

    precision = "fp32" if request.precision == "auto" else request.precision
    net, header = load(request.checkpoint)
    shutil.copyfile(request.checkpoint, folder / ENGINE)
    calibration = {}
    if precision == "int8":
        calibration = calibration_of(request).summary()
        shutil.copyfile(request.calibration, folder / CALIBRATION)
    # weights run on any version of torch
    return Built(precision, header, num_outputs(net), calibration=calibration, runtime={})


def for_openvino(request: Request, folder: Path, say: Progress) -> Built:
    """An OpenVINO model; "auto": bf16 or fp32, whichever is faster here, and int8 where there is no bf16 and its masks,
    too, are those of fp32 on this processor."""
    from rt_avsac.convert import convert
    from rt_avsac.engines.openvino import (
        ENGINE,
        HINTS,
        WEIGHTS,
        capabilities,
        check_precision,
        compile_model,
        computed_in,
        import_openvino,
        open_core,
        saturates,
    )
    from rt_avsac.model.checkpoint import load

    ov = import_openvino()
    core = open_core()
    able = capabilities(core)
    precision = request.precision
    check_precision(precision, able)
    net, header = load(request.checkpoint)
    calibration = None
    if precision == "int8":
        calibration = calibration_of(request)
    elif precision == "auto" and "BF16" not in able:  # where there is bf16, int8 gains little and costs more
        calibration = approved_calibration(request, say)
    if calibration is not None:
        calibration = gaining(net, calibration)
    overflows = calibration is not None and saturates(core)
    probe = windows(net.settings.image_size, NUM_AUDIO_SAMPLES, count=1)[0]
    probes = demo_windows(net.settings.image_size, NUM_AUDIO_SAMPLES)
    # what is not int8 runs in one of these; the first of bf16 and fp16 that the processor has, if it is faster
    hints = [HINTS[precision]] if precision in HINTS else [HINTS[kind] for kind in computed_in(able)[:2]]
    for tried in (calibration, None) if calibration is not None and precision == "auto" else (calibration,):
        say("converting the network")
        model = convert(net, tried, overflows)
        for name in (ENGINE, WEIGHTS):  # what was compiled before may still have them mapped
            (folder / name).unlink(missing_ok=True)
        ov.save_model(model, folder / ENGINE, compress_to_fp16=False)
        say("measuring on this processor")
        runs = {}
        for hint in hints:
            try:
                runs[hint] = infer_function(compile_model(core, str(folder / ENGINE), hint, request.num_threads))
            except RuntimeError as error:  # what the processor has may be switched off (ONEDNN_MAX_CPU_ISA)
                if hint == hints[0]:
                    raise
                say(f"{hint} is left out: {reason(error)}")
        measured = time_runs(runs, probe)
        hint = min(measured, key=lambda key: measured[key])
        found = deviation(net, runs[hint], probes)
        if tried is None or precision == "int8" or found["mask_iou"] >= LEAST_AGREEMENT:
            break
        say(f"int8 is left out: its masks agree {found['mask_iou']:.2f} with fp32 on this processor")
    return Built(
        next(name for name, value in HINTS.items() if value == hint) if tried is None else "int8",
        header,
        len(model.outputs),
        options={"hint": hint},
        deviation=found,
        measured_ms=measured,
        calibration=tried.summary() | {"half_range_weights": overflows} if tried is not None else {},
    )


def num_outputs(net: Avsac) -> int:
    import torch

    from rt_avsac.model.avsac import Deployed

    image, audio = windows(net.settings.image_size, NUM_AUDIO_SAMPLES, count=1)[0]
    with torch.inference_mode():
        return len(Deployed(net).eval()(torch.from_numpy(image), torch.from_numpy(audio)))


def gaining(net: Avsac, calibration: Calibration) -> Calibration:
    """Without the layers that OpenVINO computes no faster in int8; they stay in floating point, and exact.

    They are matrix products of a few rows, and convolutions that read an odd number of channels: in the edge model, 46
    of 132, whose rounding costs 7 % of the time (measured in turns, one thread, on AVX2 and on AMX alike).
    """
    from torch import nn

    from rt_avsac.quantize import layers

    def gains(layer: nn.Conv2d | nn.Linear) -> bool:
        return isinstance(layer, nn.Conv2d) and layer.in_channels % 8 == 0

    found = layers(net)
    slow = {name for name in calibration.ranges if name in found and not gains(found[name])}
    return replace(calibration, ranges={name: kept for name, kept in calibration.ranges.items() if name not in slow})


def infer_function(compiled: Any) -> Callable[[Any, Any], list[np.ndarray]]:
    """(image [1, S, S, 3], audio [1, n]) → outputs, of a compiled OpenVINO model."""
    request = compiled.create_infer_request()

    def run(image: np.ndarray, audio: np.ndarray) -> list[np.ndarray]:
        request.infer({0: image, 1: audio})
        return [np.array(request.get_output_tensor(i).data) for i in range(len(compiled.outputs))]

    return run


def calibration_of(request: Request) -> Calibration:
    """The calibration asked for, made for this very checkpoint; ModelError else."""
    from rt_avsac.quantize import read_calibration

    if not request.calibration:
        raise ModelError(
            f"precision int8: no calibration beside {request.checkpoint}; make one with `python -m calibrate` "
            "and give it with --calibration"
        )
    calibration = read_calibration(request.calibration)
    if calibration.checkpoint_sha256 != (found := sha256(request.checkpoint)):
        raise ModelError(
            f"calibration {request.calibration}: made for checkpoint {calibration.checkpoint_sha256[:12]}, "
            f"this is {found[:12]}; calibrate again"
        )
    return calibration


def approved_calibration(request: Request, say: Progress, verdict: str = "verdict") -> Calibration | None:
    """The calibration beside the checkpoint, if it was made for it and its comparison was within the budget.

    `verdict`: "signed_verdict" for backends whose steps are signed.
    """
    if not request.calibration:
        return None
    try:
        calibration = calibration_of(request)
    except ModelError as error:
        say(f"int8 is left out: {error}")
        return None
    if calibration.measured.get(verdict) != "within":
        say("int8 is left out: its calibration was not compared, or was over the budget")
        return None
    return calibration


def for_gpu(request: Request, folder: Path, say: Progress) -> Built:
    """cuda or tensorrt."""
    from rt_avsac import build_gpu

    return {"cuda": build_gpu.for_cuda, "tensorrt": build_gpu.for_tensorrt}[request.backend](request, folder, say)


BUILDERS: dict[str, Callable[[Request, Path, Progress], Built]] = {
    "openvino": for_openvino,
    "torch": for_torch,
    "cuda": for_gpu,
    "tensorrt": for_gpu,
}
