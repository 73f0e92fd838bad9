"""Compiling what cannot be: odd checkpoints, numbers that are none, no memory, no disk, a builder that fails."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt_avsac import build, bundle, cli
from rt_avsac.compile import Request, cached_bundle, open_cached
from rt_avsac.compile import build as build_bundle
from rt_avsac.config import LiveSettings
from rt_avsac.engines import CPU_BACKENDS, open_engine
from rt_avsac.errors import DiskError, ModelError
from rt_avsac.probe import deviation, windows

quiet = lambda text: None  # noqa: E731


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ([], "got a list"),
        ("x", "got a str"),
        ({"settings": [1]}, "no settings with a name"),
        ({"settings": None}, "no settings with a name"),
        ({"settings": {}}, "no settings with a name"),
        ({"settings": {"name": 5}}, "no settings with a name"),
        ({"settings": {"num_heads": 0}}, "num_heads: asked 0"),
        ({"settings": {"image_size": 0}}, "image_size: asked 0"),
        ({"settings": {"image_size": -64}}, "image_size: asked -64"),
        ({"settings": {"dim": 10**7}}, "dim: asked 10000000"),
        ({"settings": {"token_strides": [7]}}, "token_strides asked (7,)"),
        ({"settings": {"num_layers": 2}}, 'Missing key(s) in state_dict: "bavd'),
        ({"classes": None}, "got None"),
        ({"classes": "abc"}, "got abc"),
        ({"classes": [1] * 29}, "got [1, 1"),
        ({"classes": ["background", "dog"]}, "29 classes asked in its settings, 2 named"),
    ],
)
def test_an_odd_checkpoint_is_one_line_that_names_it(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: Any, part: str
) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(checkpoint, "numpy") as file:
        header = json.loads(file.metadata()["rt_avsac"])
    if not isinstance(changes, dict):
        header = changes
    elif changes.get("settings"):
        header["settings"] = (header["settings"] | changes["settings"]) if changes["settings"] != [1] else [1]
    else:
        header |= changes
    odd = tmp_path / "odd.safetensors"
    save_file(load_file(checkpoint), odd, {"rt_avsac": json.dumps(header)})
    assert cli.main(["compile", str(odd), "--backend", "torch", "--out", str(tmp_path / "b")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"model {odd}: " in error
    assert part in error


def test_weights_that_are_no_numbers(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rt_avsac.model import checkpoint as checkpoints

    net, header = checkpoints.load(checkpoint)
    net.head.weight.data[0, 0] = float("nan")
    damaged = tmp_path / "nan.safetensors"
    checkpoints.save(damaged, net, header["classes"], {})
    for backend in CPU_BACKENDS:
        assert cli.main(["compile", str(damaged), "--backend", backend, "--out", str(tmp_path / "b")]) == 2
        assert "head.weight holds what is no finite number" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_outputs_that_are_no_numbers(checkpoint: Path) -> None:
    from rt_avsac.model import checkpoint as checkpoints

    net, _ = checkpoints.load(checkpoint)
    probes = windows(64, 15_600, count=1)
    shapes = [(1, 64, 64), (1, 29, 16, 16), (1, 29)]
    for bad in range(3):  # also one that is not measured

        def run(image: np.ndarray, audio: np.ndarray, bad: int = bad) -> list[np.ndarray]:
            return [np.full(shape, np.inf if index == bad else 0.5) for index, shape in enumerate(shapes)]

        with pytest.raises(ModelError, match="engine: its outputs are no finite"):
            deviation(net, run, probes)
    net.head.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="weights are damaged"):
        deviation(net, run, probes)


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried"), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "out of memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "out of memory"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "nvcc"), "cannot be built: [Errno 2] No such"),
        (RuntimeError("no kernel\nfor this"), "cannot be built: no kernel"),
        (RuntimeError("Exception from a.cpp:1:\nCheck 'x' failed at b.cpp:2:\nno Softmax\n\n"), "built: no Softmax"),
    ],
)
def test_a_builder_that_fails_leaves_the_old_bundle(
    torch_bundle: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, part: str
) -> None:
    def fail(request: Request, folder: Path, say: Any) -> Any:
        (folder / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setitem(build.BUILDERS, "torch", fail)
    with pytest.raises(ModelError) as raised:
        build_bundle(Request(checkpoint, "torch", "fp32"), torch_bundle, quiet)
    assert part in str(raised.value)
    assert "\n" not in str(raised.value)
    with open_engine(torch_bundle, LiveSettings()):
        pass


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("basic_ios::clear: iostream error")]
)
def test_a_full_disk(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(request: Request, folder: Path, say: Any) -> Any:
        raise error

    monkeypatch.setitem(build.BUILDERS, "torch", fail)
    with pytest.raises(DiskError, match="cannot be written"):
        build_bundle(Request(checkpoint, "torch", "fp32"), tmp_path / "b", quiet)
    assert os.listdir(tmp_path) == []


OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import openvino, torch
from rt_avsac import build, cli
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), resource.RLIM_INFINITY))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="address space limits are Linux's")
def test_a_machine_without_memory(torch_bundle: Path, checkpoint: Path) -> None:
    """A real limit on the process: one line, exit code 2, the old bundle as it was."""
    words = ["compile", str(checkpoint), "--backend", "torch", "--out", str(torch_bundle)]
    command = [sys.executable, "-c", OUT_OF_MEMORY, *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 2, done.stderr
    assert "memory" in done.stderr
    assert "Traceback" not in done.stderr
    with open_engine(torch_bundle, LiveSettings()):
        pass


def test_a_precision_that_is_switched_off_is_left_out(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rt_avsac.engines import openvino as engine

    real = engine.compile_model

    def without_bf16(core: Any, model: Any, hint: str, num_threads: int) -> Any:
        if hint == "bf16":
            raise RuntimeError("no primitive")
        return real(core, model, hint, num_threads)

    monkeypatch.setattr(engine, "capabilities", lambda core: ["BF16"])
    monkeypatch.setattr(engine, "compile_model", without_bf16)
    said: list[str] = []
    manifest = build_bundle(Request(checkpoint, "openvino", "auto"), tmp_path / "b", said.append)
    assert manifest.precision == "fp32"
    assert "bf16 is left out: no primitive" in said
    with pytest.raises(ModelError, match="no primitive"):
        build_bundle(Request(checkpoint, "openvino", "bf16"), tmp_path / "c", said.append)
    assert not (tmp_path / "c").exists()


def test_a_cached_engine_that_does_not_load_is_built_once_more(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = LiveSettings(backend="torch", precision="bf16")
    said: list[str] = []

    def damage(text: str) -> None:
        if text.startswith("compiled"):
            (cached / "model.safetensors").write_bytes(b"x")

    open_cached(checkpoint, settings, quiet).close()
    cached = cached_bundle(checkpoint, settings, said.append)
    assert said == []
    (cached / "model.safetensors").write_bytes(b"x")
    bundle.write_manifest(cached, bundle.read(cached))  # it fits, and does not load
    open_cached(checkpoint, settings, said.append).close()
    assert said[0].startswith("the cached engine does not load (model ")
    assert sum(text.startswith("compiling tiny") for text in said) == 1
    shutil.rmtree(cached)
    said.clear()
    with pytest.raises(ModelError):  # one that was built just now is not built again
        open_cached(checkpoint, settings, lambda text: (said.append(text), damage(text)))  # type: ignore[func-returns-value]
    assert sum(text.startswith("compiling tiny") for text in said) == 1
