"""Compiling for the CPU backends: right numbers, cache, refusals, and faults while building."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt_avsac import build, bundle, cli
from rt_avsac.compile import Request, cached_bundle, open_cached, ticking
from rt_avsac.compile import build as build_bundle
from rt_avsac.config import LiveSettings
from rt_avsac.engines import CPU_BACKENDS, open_engine
from rt_avsac.errors import DiskError, ModelError
from rt_avsac.probe import deviation, windows
from tests.tiny_model import CLASSES, make_tiny
from tests.waiting import until

quiet = lambda text: None  # noqa: E731
CPU = LiveSettings(device="cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def openvino_bundle(checkpoint: Path) -> Path:
    out = checkpoint.parent / "openvino"
    build_bundle(Request(checkpoint, "openvino", "fp32"), out, quiet)
    return out


@pytest.fixture(scope="module")
def torch_bundle(checkpoint: Path) -> Path:
    out = checkpoint.parent / "torch"
    build_bundle(Request(checkpoint, "torch", "auto"), out, quiet)
    return out


def test_openvino_gives_torchs_numbers(openvino_bundle: Path, torch_bundle: Path) -> None:
    with open_engine(openvino_bundle, CPU) as engine, open_engine(torch_bundle, CPU) as reference:
        assert (engine.backend, engine.precision) == ("openvino", "fp32")
        for image, audio in windows(64, 15_600, count=3, seed=5):
            got, wanted = engine.run(image[0], audio[0]), reference.run(image[0], audio[0])
            assert got.sounding.shape == (64, 64)
            for ours, theirs in zip(got, wanted, strict=True):
                assert ours is not None
                np.testing.assert_allclose(ours, theirs, atol=2e-4)
        assert np.ptp(wanted.sounding) > 0.01  # the reference does say something


def test_outputs_are_not_overwritten_by_the_next_run(openvino_bundle: Path) -> None:
    first, second = windows(64, 15_600, count=2)
    with open_engine(openvino_bundle, LiveSettings()) as engine:
        kept = engine.run(first[0][0], first[1][0]).sounding
        copy = kept.copy()
        engine.run(second[0][0], second[1][0])
    np.testing.assert_array_equal(kept, copy)


def test_manifest_says_what_it_is(openvino_bundle: Path, checkpoint: Path) -> None:
    manifest = bundle.read(openvino_bundle)
    assert manifest.name == "tiny"
    assert manifest.checkpoint_sha256 == bundle.sha256(checkpoint)
    assert manifest.classes == CLASSES
    assert manifest.weights_licence == "CC0"
    assert manifest.options == {"hint": "f32"}
    assert manifest.deviation["snr_db"] > 60
    assert set(manifest.files) == {"engine.xml", "engine.bin"}
    assert manifest.runtime["openvino"]


def test_inspect(openvino_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(openvino_bundle)]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["backend"] == "openvino"
    assert said.err == "fits this machine\n"
    broken = shutil.copytree(openvino_bundle, tmp_path / "broken")
    (broken / "engine.bin").write_bytes(b"")
    assert cli.main(["inspect", str(broken)]) == 1
    assert "truncated" in capsys.readouterr().err
    assert cli.main(["inspect", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ({"backend": "torch"}, "asked backend torch"),
        ({"precision": "int8"}, "asked precision int8"),
        ({"device": "cuda"}, "asked device cuda"),
    ],
)
def test_a_bundle_for_something_else_is_refused(openvino_bundle: Path, asked: dict[str, Any], part: str) -> None:
    with pytest.raises(ModelError, match=part):
        open_engine(openvino_bundle, LiveSettings(**asked))


def test_the_cache_is_used_and_heals(checkpoint: Path) -> None:
    settings = LiveSettings(backend="torch")
    said: list[str] = []
    folder = cached_bundle(checkpoint, settings, said.append)
    assert said
    said.clear()
    assert cached_bundle(checkpoint, settings, said.append) == folder
    assert said == []
    (folder / "model.safetensors").write_bytes(b"truncated")
    assert cached_bundle(checkpoint, settings, said.append) == folder
    assert said
    (folder / "manifest.json").write_text("{")
    assert cached_bundle(checkpoint, settings, said.append) == folder
    with open_engine(folder, settings):
        pass


def test_other_weights_have_another_bundle(checkpoint: Path, tmp_path: Path) -> None:
    settings = LiveSettings(backend="torch")
    other = make_tiny(tmp_path / "tiny.safetensors", seed=1)
    assert cached_bundle(checkpoint, settings, quiet) != cached_bundle(other, settings, quiet)


def test_a_bundle_in_the_place_of_another_runs_its_own_weights(
    checkpoint: Path, openvino_bundle: Path, tmp_path: Path
) -> None:
    """Same path, same times, same graph: what OpenVINO has cached of the one must not run for the other."""
    from rt_avsac.model import checkpoint as checkpoints

    net, header = checkpoints.load(checkpoint)
    net.head.weight.data *= -1
    checkpoints.save(tmp_path / "tiny.safetensors", net, header["classes"], {})
    second = tmp_path / "second"
    build_bundle(Request(tmp_path / "tiny.safetensors", "openvino", "fp32"), second, quiet)
    # built by one process each, the graphs would have the same name, too
    shutil.copyfile(openvino_bundle / "engine.xml", second / "engine.xml")
    bundle.write_manifest(second, bundle.read(second))
    image, audio = windows(64, 15_600, count=1)[0]

    def run(folder: Path) -> Any:
        with open_engine(folder, CPU) as engine:
            return engine.run(image[0], audio[0]).sounding

    def run_in_place(folder: Path) -> Any:
        shutil.rmtree(tmp_path / "app", ignore_errors=True)
        shutil.copytree(folder, tmp_path / "app")
        for path in (tmp_path / "app").iterdir():
            os.utime(path, (1, 1))
        return run(tmp_path / "app")

    first = run_in_place(openvino_bundle)
    np.testing.assert_array_equal(first, run(openvino_bundle))
    np.testing.assert_array_equal(run_in_place(second), run(second))
    assert np.abs(run(second) - first).max() > 0.01


def test_what_openvino_cached_long_ago_is_removed(openvino_bundle: Path, engine_cache: Path) -> None:
    old, used = engine_cache / "rt-avsac" / "openvino" / "old", engine_cache / "rt-avsac" / "openvino" / "used"
    for folder in (old, used):
        folder.mkdir(parents=True)
    os.utime(old, (1, 1))
    with open_engine(openvino_bundle, CPU):
        assert used.is_dir()
        assert not old.exists()
    used.rmdir()


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 96},
        {"num_audio_samples": 16_000},
        {"classes": CLASSES[:-1]},
        {"num_outputs": 2},
    ],
)
def test_a_manifest_that_tells_of_another_network(
    openvino_bundle: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    other = shutil.copytree(openvino_bundle, tmp_path / "other")
    bundle.write_manifest(other, dataclasses.replace(bundle.read(other), **changes))
    with pytest.raises(ModelError, match=r"manifest\.json tells of"):
        open_engine(other, CPU)


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


def test_the_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "b"
    assert cli.main(["compile", str(checkpoint), "--backend", "torch", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "compiling tiny.safetensors" in said
    assert "torch fp32" in said
    for words in (["--backend", "onnx"], ["--precision", "fp8"], ["--backend", "torch", "--precision", "int8"]):
        assert cli.main(["compile", str(checkpoint), "--out", str(tmp_path / "c"), *words]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert words[-1] in error
    assert cli.main(["compile", str(out), "--out", str(tmp_path / "c")]) == 2
    assert "give the .safetensors" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


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


def test_a_long_build_says_how_long_it_has_been() -> None:
    said: list[str] = []
    with ticking(said.append, every_s=0.01):
        until(lambda: len(said) > 1)
    assert said[0] == "still compiling, 0 s so far"
    assert not any(thread.name == "ticking" for thread in threading.enumerate())


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


def test_auto_takes_int8_only_with_an_approved_calibration_of_this_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    from rt_avsac.build import approved_calibration
    from rt_avsac.quantize import Calibration, Range

    path = tmp_path / "c.json"

    def approved(said: list[str], **changes: Any) -> bool:
        made = Calibration(
            bundle.sha256(checkpoint), "minmax", {"head": Range(1.0, False)}, [], [], {"verdict": "within"}
        )
        path.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(made, **changes))))
        return approved_calibration(Request(checkpoint, "openvino", "auto", str(path)), said.append) is not None

    said: list[str] = []
    assert approved(said)
    assert said == []
    assert not approved(said, measured={"verdict": "over"})
    assert not approved(said, measured={})
    assert not approved(said, checkpoint_sha256="0" * 64)
    assert len(said) == 3
    assert approved_calibration(Request(checkpoint, "openvino", "auto", ""), said.append) is None
