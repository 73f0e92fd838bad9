"""What compiling for an NVIDIA GPU needs: headers and driver are found, and what is missing is one line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from rt_avsac import cuda_home
from rt_avsac.errors import ModelError, reason


def make_home(folder: Path) -> Path:
    for header in cuda_home.HEADERS:
        (folder / header).parent.mkdir(parents=True, exist_ok=True)
        (folder / header).touch()
    return folder


def test_the_headers_are_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_PATH", str(make_home(tmp_path / "path")))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nothing-here"))
    assert cuda_home.cuda_home() == tmp_path / "path"
    monkeypatch.setenv("CUDA_HOME", str(make_home(tmp_path / "home")))
    assert cuda_home.cuda_home() == tmp_path / "home"


def test_the_headers_of_wheels_do_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cuda_home, "TOOLKITS", tmp_path / "no-toolkit")
    (tmp_path / "nvidia" / "cu13").mkdir(parents=True)
    monkeypatch.setattr(cuda_home, "_places", lambda package: [str(tmp_path / package)])
    with pytest.raises(ModelError, match=r"nowhere whole; pip install .*CUDA_HOME"):
        cuda_home.cuda_home()
    for header in cuda_home.HEADERS[:2]:  # what torch's wheels bring does not compile
        (tmp_path / "nvidia" / "cu13" / header).parent.mkdir(exist_ok=True)
        (tmp_path / "nvidia" / "cu13" / header).touch()
    with pytest.raises(ModelError, match="nowhere whole"):
        cuda_home.cuda_home()
    make_home(tmp_path / "nvidia" / "cu13")
    assert cuda_home.cuda_home() == tmp_path / "nvidia" / "cu13"


def test_headers_of_torchs_own_cuda_go_before_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A toolkit of another version is the last resort, also behind the name that leads to it."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(cuda_home, "TOOLKITS", tmp_path)
    monkeypatch.setattr(cuda_home, "_places", lambda package: [str(tmp_path / package)])
    older = make_home(tmp_path / "cuda-12.6")
    (tmp_path / "cuda").symlink_to(older)
    assert cuda_home.cuda_home().resolve() == older
    wheels = make_home(tmp_path / "nvidia" / "cu13")
    assert cuda_home.cuda_home() == wheels
    fitting = make_home(tmp_path / "cuda-13.1")
    assert cuda_home.cuda_home() == fitting


def test_torch_is_told_for_as_long_as_it_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils import cpp_extension

    before = cpp_extension.CUDA_HOME
    monkeypatch.setenv("CUDA_HOME", str(make_home(tmp_path / "home")))
    monkeypatch.delenv("LIBRARY_PATH", raising=False)
    (tmp_path / "maps").write_text(f"7f-8f r-xp 0 08:01 123   {tmp_path}/libcuda.so.580.1\n")
    monkeypatch.setattr(cuda_home, "MAPS", tmp_path / "maps")
    with cuda_home.toolchain():
        assert str(tmp_path / "home") == cpp_extension.CUDA_HOME
        folder = Path(os.environ["LIBRARY_PATH"])
        assert os.readlink(folder / "libcuda.so") == f"{tmp_path}/libcuda.so.580.1"
    assert before == cpp_extension.CUDA_HOME
    assert "LIBRARY_PATH" not in os.environ
    assert not folder.exists()


def test_a_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ModelError, match=r"no C\+\+ compiler: .*apt-get install g\+\+"):
        cuda_home.check_compilers()


def test_what_a_compiler_says_is_the_reason() -> None:
    text = "C++ compile error\n\nCommand:\ng++ x.cpp\n\nOutput:\n/a/b.h:15:10: fatal error: cuda.h: No such file\n"
    assert reason(RuntimeError(text)) == "/a/b.h:15:10: fatal error: cuda.h: No such file"
