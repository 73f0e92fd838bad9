"""Swap: a bundle takes another's place in one step, whoever is killed, or writes there too."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rt_avsac import bundle, swap
from rt_avsac.errors import DiskError
from tests.bundles import MANIFEST, make, make_half, verify


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without renameat2's exchange."""
    monkeypatch.setattr(swap, "exchange", lambda one, other: False)


@pytest.mark.usefixtures("no_exchange")
def test_two_renames_where_there_is_no_exchange(tmp_path: Path) -> None:
    out = make(tmp_path / "b")
    make(out, b"newer")
    assert (out / "engine.bin").read_bytes() == b"newer"
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.parametrize(
    ("code", "said"), [(errno.ENOSYS, False), (errno.EINVAL, False), (errno.EOPNOTSUPP, False), (errno.EACCES, None)]
)
@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_which_answer_means_that_there_is_no_exchange(
    code: int, said: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def renameat2(*_: Any) -> int:
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(renameat2=renameat2))
    if said is None:
        with pytest.raises(PermissionError):
            swap.exchange(tmp_path, tmp_path)
    else:
        assert swap.exchange(tmp_path, tmp_path) is said


@pytest.mark.usefixtures("no_exchange")
def test_a_failed_rename_brings_the_old_bundle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make(tmp_path / "b")
    rename, renamed = os.rename, []

    def full(source: Any, target: Any) -> None:
        renamed.append(target)
        if len(renamed) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(swap.os, "rename", full)
    with pytest.raises(DiskError, match="No space left"):
        make(out, b"newer")
    verify(out)
    assert (out / "engine.bin").read_bytes() == b"engine"
    assert os.listdir(tmp_path) == ["b"]


KILLED = """
import os, signal, sys
from pathlib import Path
from rt_avsac import bundle, swap
from tests.bundles import make
out, how = Path(sys.argv[1]), sys.argv[2]
if how == "half":
    with bundle.building(out) as folder:
        (folder / "engine.bin").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
rename = os.rename
def rename_and_die(source, target):
    rename(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
swap.exchange, swap.os.rename = (lambda one, other: False), rename_and_die
make(out, b"newer")
"""


@pytest.mark.parametrize("how", ["half", "between renames"])
def test_what_a_killed_build_left_is_tidied_up_by_the_next(tmp_path: Path, how: str) -> None:
    out = make(tmp_path / "b")
    done = subprocess.run([sys.executable, "-c", KILLED, str(out), how])
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) != ["b"]
    with pytest.raises(RuntimeError):
        make_half(out, RuntimeError())
    verify(out)
    assert os.listdir(tmp_path) == ["b"]


def test_only_what_is_whole_takes_a_place_that_is_free(tmp_path: Path) -> None:
    """Of what killed builds left; none of them holds a lock. A name is no pattern."""
    half, whole = tmp_path / ".b[1].rt-avsac-1", tmp_path / ".b[1].rt-avsac-2"
    half.mkdir()
    (half / "engine.bin").write_bytes(b"half")
    swap.sweep(tmp_path / "b[1]", lambda left: (left / "manifest.json").is_file())
    assert os.listdir(tmp_path) == []
    make(tmp_path / "b[1]").rename(whole)
    swap.sweep(tmp_path / "b[1]", lambda left: (left / "manifest.json").is_file())
    verify(tmp_path / "b[1]")


def test_a_place_that_is_never_free_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(one: Path, other: Path) -> bool:
        raise OSError(errno.ENOENT, "No such file or directory", str(other))

    out = make(tmp_path / "b")
    monkeypatch.setattr(swap, "exchange", taken)
    with pytest.raises(DiskError, match="No such file"):
        make(out, b"newer")
    assert (out / "engine.bin").read_bytes() == b"engine"
    assert os.listdir(tmp_path) == ["b"]


def test_the_workplace_of_a_living_process_stays(tmp_path: Path) -> None:
    with bundle.building(tmp_path / "b") as folder:
        (folder / "engine.bin").write_bytes(b"slow")
        make(tmp_path / "b")
        assert (folder / "engine.bin").read_bytes() == b"slow"
        bundle.write_manifest(folder, MANIFEST)
    assert os.listdir(tmp_path) == ["b"]


def make_many(out: Path, content: bytes) -> None:
    for _ in range(60):
        make(out, content)


@pytest.mark.parametrize("swaps", [True, False])
def test_several_processes_write_the_same_bundle(tmp_path: Path, swaps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """None fails, and where the file system can swap there is a bundle at every moment."""
    if not swaps:
        monkeypatch.setattr(swap, "exchange", lambda one, other: False)
    out = make(tmp_path / "b")
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=make_many, args=(out, bytes([65 + index]))) for index in range(3)]
    for writer in writers:
        writer.start()
    while swaps and any(writer.is_alive() for writer in writers):
        assert out.is_dir()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    verify(out)
    assert os.listdir(tmp_path) == ["b"]


def test_a_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with bundle.building(tmp_path / "b") as folder:
        make(tmp_path / "b")
        assert folder.is_dir(), "who cannot lock cannot know that nobody builds there"
        bundle.write_manifest(folder, MANIFEST)
