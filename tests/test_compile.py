"""Compiling for the CPU backends: right numbers, the cache, and bundles opened where they do not fit."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rt_avsac
from rt_avsac import bundle, cli
from rt_avsac import compile as compile_module
from rt_avsac.compile import Request, cached_bundle, ticking
from rt_avsac.compile import build as build_bundle
from rt_avsac.config import LiveSettings
from rt_avsac.engines import open_engine
from rt_avsac.engines.openvino import OpenVinoEngine
from rt_avsac.errors import ModelError
from rt_avsac.probe import windows
from tests.tiny_model import CLASSES, make_tiny
from tests.waiting import until

quiet = lambda text: None  # noqa: E731


CPU = LiveSettings(device="cpu")


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


@pytest.mark.usefixtures("one_thread")
def test_an_engine_has_as_many_threads_as_asked(openvino_bundle: Path, torch_bundle: Path) -> None:
    import torch

    for number in (1, 2):
        settings = LiveSettings(device="cpu", num_threads=number)
        with open_engine(torch_bundle, settings):
            assert torch.get_num_threads() == number
        with open_engine(openvino_bundle, settings) as engine:
            assert isinstance(engine, OpenVinoEngine)
            assert engine._compiled.get_property("INFERENCE_NUM_THREADS") == number


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


def test_what_would_not_fit_is_not_found_in_the_cache(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the places alone: nothing is built."""
    from rt_avsac.engines import torch as engine

    own = tmp_path / "tiny.safetensors"
    own.write_bytes(checkpoint.read_bytes())
    here = bundle.Machine({"torch": "2.1"}, "chip A", "driver 5")
    monkeypatch.setattr(compile_module, "build", lambda *_, **__: None)

    def place(machine: bundle.Machine = here, precision: str = "auto") -> Path:
        monkeypatch.setattr(engine, "machine", lambda: machine)
        return cached_bundle(own, LiveSettings(backend="torch", precision=precision), quiet)  # type: ignore[arg-type]

    places = [place(), place(precision="bf16")]
    assert place() == places[0]
    for field, value in (("runtime", {"torch": "2.2"}), ("device", "chip B"), ("driver", "driver 6")):
        places.append(place(dataclasses.replace(here, **{field: value})))
    monkeypatch.setenv("RT_AVSAC_DLA", "0")
    places.append(place())
    monkeypatch.setattr(rt_avsac, "__version__", "0.0.1")
    places.append(place())
    for text in ("{}", "[]"):
        own.with_name("tiny.calibration.json").write_text(text)
        places.append(place())
    assert len(set(places)) == len(places)


def test_other_weights_have_another_bundle(checkpoint: Path, tmp_path: Path) -> None:
    settings = LiveSettings(backend="torch")
    other = make_tiny(tmp_path / "tiny.safetensors", seed=1)
    folder, others = cached_bundle(checkpoint, settings, quiet), cached_bundle(other, settings, quiet)
    assert folder != others
    shutil.rmtree(folder)
    shutil.copytree(others, folder)  # by whatever mistake
    assert cached_bundle(checkpoint, settings, quiet) == folder
    assert bundle.read(folder).checkpoint_sha256 == bundle.sha256(checkpoint)


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


def test_a_long_build_says_how_long_it_has_been() -> None:
    said: list[str] = []
    with ticking(said.append, every_s=0.01):
        until(lambda: len(said) > 1)
    assert said[0] == "still compiling, 0 s so far"
    assert not any(thread.name == "ticking" for thread in threading.enumerate())


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
