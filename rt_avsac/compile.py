"""`rt-avsac compile`: checkpoint (+ calibration) → engine bundle for this device; and the cache of such bundles."""

from __future__ import annotations

import argparse
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rt_avsac
from rt_avsac import bundle
from rt_avsac.config import LiveSettings
from rt_avsac.engines import BACKENDS, PRECISIONS, backend_module
from rt_avsac.errors import ModelError, UserError, reason

Progress = Callable[[str], None]

OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "bad_alloc")
GPU_SIGNS = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/dxg")  # desktop, Jetson, WSL


@dataclass(frozen=True)
class Request:
    """What to build. `precision` may be "auto", `backend` not. `calibration`: "" or a file of `python -m calibrate`."""

    checkpoint: Path
    backend: str
    precision: str
    calibration: str = ""
    num_threads: int = 1


def choose_backend(device: str, backend: str) -> str:
    """The backend that "auto" means here: the first that can be imported and, for a GPU, finds one."""
    import importlib.util

    if backend != "auto":
        if device == "cpu" and backend in ("tensorrt", "cuda"):
            raise ModelError(f"backend {backend}: asked on device cpu, it needs a GPU; use openvino or torch")
        return backend
    if device == "cuda" or (device == "auto" and any(os.path.exists(sign) for sign in GPU_SIGNS)):
        if has_cuda():
            return "tensorrt" if has_tensorrt() else "cuda"
        if device == "cuda":
            raise ModelError("device cuda: torch sees no GPU; use --device cpu, or install a CUDA build of torch")
    return "openvino" if importlib.util.find_spec("openvino") else "torch"


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def has_tensorrt() -> bool:
    """TensorRT itself and cuda-python, both of which can be there and still not load."""
    from rt_avsac.engines.tensorrt import machine

    try:
        machine()
    except Exception:
        return False
    return True


def build(request: Request, out: Path, say: Progress, ours: bool = False) -> bundle.Manifest:
    """Builds the bundle `out`, whole or not at all. ModelError (also for too little memory), DiskError.

    `ours`: whatever is at `out` may go.
    """
    module = backend_module(request.backend)
    machine = module.machine()
    say(f"compiling {request.checkpoint.name} for {request.backend}, precision {request.precision}")
    started = time.monotonic()
    try:
        with bundle.building(out, ours) as folder, ticking(say):
            from rt_avsac import build as builders

            built = builders.BUILDERS[request.backend](request, folder, say)
            manifest = bundle.write_manifest(folder, builders.manifest_of(request, built, machine))
    except (MemoryError, RuntimeError) as error:
        why = reason(error)
        if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in OUT_OF_MEMORY):
            why = "out of memory while building; free some, or use a larger machine"
        raise ModelError(f"bundle {out}: {request.backend} {request.precision} cannot be built: {why}") from error
    say(f"compiled in {time.monotonic() - started:.1f} s: {manifest.backend} {manifest.precision}")
    return manifest


@contextmanager
def ticking(say: Progress, every_s: float = 15.0) -> Iterator[None]:
    """Says now and then how long it has been, from a thread of its own: a GPU's kernels are tried for minutes."""
    done, began = threading.Event(), time.monotonic()

    def tick() -> None:
        while not done.wait(every_s):
            say(f"still compiling, {time.monotonic() - began:.0f} s so far")

    thread = threading.Thread(target=tick, name="ticking", daemon=True)
    with suppress(RuntimeError):  # without memory for a thread the build goes on in silence
        thread.start()
    try:
        yield
    finally:
        done.set()
        if thread.is_alive():
            thread.join()


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "rt-avsac" / "bundles"


def cached_bundle(checkpoint: Path, settings: LiveSettings, say: Progress) -> Path:
    """The bundle of this checkpoint for this machine and these settings; built on first use.

    Keyed by checkpoint and calibration, backend, precision, runtime version, device and driver: what is in the cache
    fits, and what does not fit any more is not found.
    """
    backend = choose_backend(settings.device, settings.backend)
    machine = backend_module(backend).machine()
    calibration = find_calibration(checkpoint)
    parts = [
        bundle.sha256(checkpoint),
        bundle.sha256(calibration) if calibration else "",
        backend,
        settings.precision,
        repr(sorted(machine.runtime.items())),
        machine.device,
        machine.driver,
        rt_avsac.__version__,
        os.environ.get("RT_AVSAC_DLA", ""),
    ]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = cache_folder() / f"{checkpoint.stem}-{backend}-{settings.precision}-{key}"
    if is_whole(folder, parts[0], backend):
        return folder
    say(f"first use of {checkpoint.name} with {backend} on this machine: compiling once, kept in {folder}")
    request = Request(checkpoint, backend, settings.precision, str(calibration or ""), settings.num_threads)
    build(request, folder, say, ours=True)
    return folder


def is_whole(folder: Path, checkpoint_sha256: str, backend: str) -> bool:
    """True for a cached bundle that can be opened; a damaged one is built again instead of stopping the robot."""
    if not folder.exists():
        return False
    try:
        manifest = bundle.read(folder)
        bundle.verify(folder, manifest, backend_module(backend).machine)
    except ModelError:
        return False
    return manifest.checkpoint_sha256 == checkpoint_sha256


def find_calibration(checkpoint: Path) -> Path | None:
    """The calibration that lies beside a checkpoint: NAME.calibration.json."""
    path = checkpoint.with_name(f"{checkpoint.stem}.calibration.json")
    return path if path.is_file() else None


def parse_request(args: Any) -> Request:
    from rt_avsac.model_path import find

    checkpoint = find(args.checkpoint)
    if checkpoint.is_dir():
        raise ModelError(
            f"compile {args.checkpoint}: asked a checkpoint, got an engine bundle; give the .safetensors file"
        )
    for value, known, key in ((args.backend, BACKENDS, "backend"), (args.precision, PRECISIONS, "precision")):
        if value not in ("auto", *known):
            raise UserError(f"compile: unknown {key} {value!r}; choose from auto, {', '.join(known)}")
    backend = choose_backend(getattr(args, "device", "auto"), args.backend)
    calibration = args.calibration or str(find_calibration(checkpoint) or "")
    return Request(checkpoint, backend, args.precision, calibration, getattr(args, "num_threads", 1))


def main(args: argparse.Namespace) -> int:
    """`rt-avsac compile CHECKPOINT --backend … --precision … --out BUNDLE [--calibration FILE]`."""
    request = parse_request(args)
    out = Path(args.out)
    manifest = build(request, out, print)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    deviation = ", ".join(f"{key} {value:.4g}" for key, value in manifest.deviation.items())
    print(f"{out}: {manifest.backend} {manifest.precision}, {size:.1f} MB; against fp32: {deviation or 'not measured'}")
    return 0
