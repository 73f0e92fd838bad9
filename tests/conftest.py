"""What many tests share: engines are compiled once a session, in a cache of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.pulse import Pulse

if TYPE_CHECKING:
    from rt_avsac.quantize import Calibration


@pytest.fixture(scope="session", autouse=True)
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """XDG_CACHE_HOME of this session and of the processes it starts: nobody's cache helps or is touched."""
    before = os.environ.get("XDG_CACHE_HOME")
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.small_set import make_small_set

    return make_small_set(tmp_path_factory.mktemp("set") / "data")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a tiny network; not to be changed."""
    from tests.tiny_model import make_tiny

    return make_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="session")
def openvino_bundle(checkpoint: Path) -> Path:
    """`checkpoint` compiled; not to be changed, neither is the next."""
    from rt_avsac.compile import Request, build

    out = checkpoint.parent / "openvino"
    build(Request(checkpoint, "openvino", "fp32"), out, lambda text: None)
    return out


@pytest.fixture(scope="session")
def torch_bundle(checkpoint: Path) -> Path:
    from rt_avsac.compile import Request, build

    out = checkpoint.parent / "torch"
    build(Request(checkpoint, "torch", "auto"), out, lambda text: None)
    return out


@pytest.fixture(scope="session")
def calibrated(small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(checkpoint of a tiny network, folder of `python -m calibrate`)"""
    from calibrate.run import main
    from tests.tiny_model import make_tiny

    folder = tmp_path_factory.mktemp("calibrated")
    checkpoint = make_tiny(folder / "tiny.safetensors")
    words = [str(checkpoint), "--data", str(small_set), "--out", str(folder / "out"), "--num", "6", "--probes", "4"]
    assert main([*words, "--method", "minmax", "--smooth", "off", "--no-compare", "-v"]) == 0
    return checkpoint, folder / "out"


@pytest.fixture(scope="session")
def calibration(calibrated: tuple[Path, Path]) -> Calibration:
    from rt_avsac.quantize import read_calibration

    return read_calibration(calibrated[1] / "tiny.calibration.json")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors: more threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pulse(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulse]:
    server = Pulse()
    for key, value in server.environment.items():
        monkeypatch.setenv(key, value)
    try:
        server.start("vfifo")
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The shipped model's name (in a tree without weights a checkpoint of random ones), compiled for this machine."""
    from rt_avsac.config import LiveSettings
    from rt_avsac.infer import open_segmenter

    name = find_model(tmp_path_factory)
    open_segmenter(LiveSettings(model=name)).close()  # so that no test waits for that against its deadline
    return name


def find_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from rt_avsac.model_path import shipped

    if "avsac-edge" in shipped():
        return "avsac-edge"
    import torch

    from rt_avsac import demo
    from rt_avsac.model import checkpoint
    from rt_avsac.model.avsac import Avsac
    from rt_avsac.model.settings import ModelSettings

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    checkpoint.save(path, Avsac(ModelSettings()), list(demo.truth().classes), {})
    return str(path)
