"""`rt-avsac compile`: checkpoint (+ calibration) → engine bundle for this device; and the cache of such bundles."""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import rt_avsac
from rt_avsac import bundle, cache
from rt_avsac.config import LiveSettings
from rt_avsac.engines import BACKENDS, PRECISIONS, Engine, backend_module, open_engine
from rt_avsac.errors import DiskError, ModelError, UserError, reason
from rt_avsac.memory import needed_for

Progress = Callable[[str], None]

DISK_FULL = ("iostream error", "no space left", "failed writing", "unexpected pos")  # OpenVINO, others, torch twice
GPU_SIGNS = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/dxg")  # desktop, Jetson, WSL
ON_CPU = "use --backend openvino or torch, with --device cpu"


@dataclass(frozen=True)
class Request:
    """What to build. `precision` may be "auto", `backend` not. `calibration`: "" or a file of `python -m calibrate`."""

    checkpoint: Path
    backend: str
    precision: str
    calibration: str = ""
    num_threads: int = 1


def choose_backend(device: str, backend: str, say: Progress = lambda text: None) -> str:
    """The backend that "auto" means here: the first that can be imported and, for a GPU, finds one."""
    import importlib.util

    if backend != "auto":
        check_device(device, backend)
        return backend
    if device == "cuda" or (device == "auto" and any(os.path.exists(sign) for sign in GPU_SIGNS)):
        if has_tensorrt():
            return "tensorrt"
        if device == "cuda" and not has_cuda():
            raise ModelError(f"device cuda: neither TensorRT nor torch finds a GPU; install one for it, or {ON_CPU}")
        if device == "cuda" or (has_cuda() and compiles_for_cuda(say)):
            return "cuda"
    return "openvino" if importlib.util.find_spec("openvino") else "torch"


def check_device(device: str, backend: str) -> None:
    """ModelError where this backend does not run on this device, or there is none."""
    if device == "cpu" and backend in ("tensorrt", "cuda"):
        raise ModelError(f"backend {backend}: asked on device cpu, it needs a GPU; {ON_CPU}")
    if device == "cuda" and backend == "openvino":
        raise ModelError(
            "backend openvino: asked on device cuda, it runs on CPUs; use --device cpu, or backend tensorrt or cuda"
        )
    if backend == "tensorrt":
        try:
            backend_module(backend).machine()
        except Exception as error:
            raise ModelError(f"{reason(error)}; without: {ON_CPU}") from None
    if (backend == "cuda" or (backend, device) == ("torch", "cuda")) and not has_cuda():
        raise ModelError(f"backend {backend}: torch sees no GPU; {ON_CPU}")


def check_precision(backend: str, precision: str) -> None:
    """ModelError for what this backend never computes in, or not on this processor."""
    if (backend, precision) == ("cuda", "int8"):
        raise ModelError(
            "precision int8: asked of backend cuda, which has fp32, fp16 and bf16; use tensorrt or openvino"
        )
    if backend == "openvino":
        from rt_avsac.engines import openvino

        openvino.check_precision(precision, openvino.capabilities(openvino.open_core()))


def compiles_for_cuda(say: Progress) -> bool:
    from rt_avsac.cuda_home import check_compilers, cuda_home

    try:
        check_compilers()
        cuda_home()
    except ModelError as error:
        say(f"the GPU is left out: {error}")
        return False
    return True


def has_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
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
    what = f"bundle {out}: {request.backend} {request.precision}"
    started = time.monotonic()
    try:
        with needed_for(what), bundle.building(out, ours) as folder, ticking(say):
            machine = backend_module(request.backend).machine()
            say(f"compiling {request.checkpoint.name} for {request.backend}, precision {request.precision}")
            from rt_avsac import build as builders

            built = builders.BUILDERS[request.backend](request, folder, say)
            manifest = bundle.write_manifest(folder, builders.manifest_of(request, built, machine))
    except BrokenPipeError:
        raise  # of `say`: nobody reads any more
    except (RuntimeError, OSError) as error:
        if any(sign in str(error).lower() for sign in DISK_FULL):
            raise DiskError(f"bundle {out}: cannot be written: the disk is full") from error
        raise ModelError(f"{what} cannot be built: {reason(error)}") from error
    say(f"compiled in {time.monotonic() - started:.1f} s: {manifest.backend} {manifest.precision}")
    return manifest


@contextmanager
def ticking(say: Progress, every_s: float = 15.0) -> Iterator[None]:
    """Says now and then how long it has been, from a thread of its own: a GPU's kernels are tried for minutes."""
    done, began = threading.Event(), time.monotonic()

    def tick() -> None:
        while not done.wait(every_s):
            with suppress(OSError):  # the builder's own words meet it, too
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


def open_cached(checkpoint: Path, settings: LiveSettings, say: Progress) -> Engine:
    """The engine of this checkpoint; one from the cache that fits and still does not load is built once more."""
    folder, is_new = find_or_build(checkpoint, settings, say)
    try:
        return open_engine(folder, settings)
    except ModelError as error:
        if is_new:
            raise
        say(f"the cached engine does not load ({error}): compiling once more")
    return open_engine(find_or_build(checkpoint, settings, say, again=True)[0], settings)


def cached_bundle(checkpoint: Path, settings: LiveSettings, say: Progress) -> Path:
    """The bundle of this checkpoint for this machine and these settings; built on first use."""
    return find_or_build(checkpoint, settings, say)[0]


def find_or_build(checkpoint: Path, settings: LiveSettings, say: Progress, again: bool = False) -> tuple[Path, bool]:
    """Cached bundle, whether it was built just now.

    Named for checkpoint, backend and precision; keyed by both files, runtime version, device, driver, our version and
    DLA: what is in the cache fits, and what does not fit any more is not found.
    """
    with needed_for(f"model {checkpoint}"):
        backend = choose_backend(settings.device, settings.backend, say)
        check_precision(backend, settings.precision)
        machine = backend_module(backend).machine()
    calibration = find_calibration(checkpoint)
    parts = [
        bundle.sha256(checkpoint),
        bundle.sha256(calibration) if calibration else "",
        repr(sorted(machine.runtime.items())),
        machine.device,
        machine.driver,
        rt_avsac.__version__,
        os.environ.get("RT_AVSAC_DLA", ""),
    ]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = cache.folder() / "bundles" / f"{checkpoint.stem}-{backend}-{settings.precision}-{key}"
    if not again and is_whole(folder, parts[0], backend):
        return folder, False
    if not again:
        say(f"first use of {checkpoint.name} with {backend} on this machine: compiling once, kept in {folder}")
    request = Request(checkpoint, backend, settings.precision, str(calibration or ""), settings.num_threads)
    build(request, folder, say, ours=True)
    return folder, True


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


def parse_request(args: argparse.Namespace, say: Progress) -> Request:
    from rt_avsac.model_path import find

    checkpoint = find(args.checkpoint)
    if checkpoint.is_dir():
        raise ModelError(
            f"compile {args.checkpoint}: asked a checkpoint, got an engine bundle; give the .safetensors file"
        )
    for value, known, key in ((args.backend, BACKENDS, "backend"), (args.precision, PRECISIONS, "precision")):
        if value not in ("auto", *known):
            raise UserError(f"compile: unknown {key} {value!r}; choose from auto, {', '.join(known)}")
    if args.calibration and not Path(args.calibration).is_file():
        raise ModelError(f"calibration {args.calibration}: no such file; make one with `python -m calibrate`")
    with needed_for(f"model {checkpoint}"):
        backend = choose_backend(args.device, args.backend, say)
        check_precision(backend, args.precision)
    calibration = args.calibration or str(find_calibration(checkpoint) or "")
    return Request(checkpoint, backend, args.precision, calibration, args.num_threads)


@contextmanager
def ended_by_signals() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP, put into the list, interrupt as Ctrl-C does: nothing half-built stays. A second one kills."""
    came: list[int] = []

    def end(number: int, frame: object) -> None:
        came.append(number)
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(args: argparse.Namespace) -> int:
    """`rt-avsac compile CHECKPOINT --backend … --precision … --out BUNDLE [--calibration FILE]`."""
    with ended_by_signals() as came:
        try:
            compile_(args, (lambda text: None) if args.quiet else partial(print, flush=True))
        except BaseException as error:  # libraries make their own of an interruption
            if not came and not isinstance(error, KeyboardInterrupt):
                raise
            ended = signal.Signals(came[0] if came else signal.SIGINT)
            print(f"rt-avsac: compile: ended by {ended.name}; {args.out} is as it was", file=sys.stderr)
            return 128 + ended
    return 0


def compile_(args: argparse.Namespace, say: Progress) -> None:
    out = bundle.place(args.out)
    manifest = build(parse_request(args, say), out, say)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    deviation = ", ".join(f"{key} {value:.4g}" for key, value in manifest.deviation.items())
    say(f"{out}: {manifest.backend} {manifest.precision}, {size:.1f} MB; against fp32: {deviation or 'not measured'}")
