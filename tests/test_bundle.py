"""Bundles: whole or not at all, and nothing of the user's is replaced. No engine runs here."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rt_avsac import bundle, swap
from rt_avsac.errors import DiskError, ModelError
from tests.bundles import MANIFEST, make, verify


def make_half(out: Path, error: BaseException) -> None:
    with bundle.building(out) as folder:
        (folder / "engine.bin").write_bytes(b"half")
        raise error


def test_what_is_built_is_read_back_and_fits(tmp_path: Path) -> None:
    out = make(tmp_path / "made" / "b")
    manifest = bundle.read(out)
    assert dataclasses.replace(manifest, files={}) == MANIFEST
    assert set(manifest.files) == {"engine.bin", "engine.xml"}
    verify(out)
    assert os.listdir(out.parent) == ["b"]


def test_a_rebuild_replaces_the_bundle(tmp_path: Path) -> None:
    out = make(tmp_path / "b")
    make(out, b"newer")
    assert (out / "engine.bin").read_bytes() == b"newer"
    verify(out)
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.parametrize("error", [RuntimeError("builder failed"), MemoryError(), KeyboardInterrupt()])
def test_a_failed_build_leaves_the_old_bundle_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    out = make(tmp_path / "b")
    with pytest.raises(type(error)):
        make_half(out, error)
    verify(out)
    assert (out / "engine.bin").read_bytes() == b"engine"
    assert os.listdir(tmp_path) == ["b"]


def test_a_failed_first_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        make_half(tmp_path / "b", RuntimeError())
    assert os.listdir(tmp_path) == []


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


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        '{"name": "My page", "start_url": "/", "icons": []}',
        '{"format": 1, "files": ["index.html"], "backend": "", "checkpoint_sha256": ""}',
        '{"format": 1, "files": {"index.html": "1"}}',
        "[" * 200_000,
    ],
)
def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path, manifest: str | None) -> None:
    """Not even one with a manifest.json, as web pages and browser extensions have."""
    out = tmp_path / "web"
    out.mkdir()
    (out / "index.html").write_bytes(b"x")
    if manifest is not None:
        (out / "manifest.json").write_text(manifest)
    before = sorted(os.listdir(out))
    with pytest.raises(ModelError, match="is no bundle"):
        make(out)
    assert sorted(os.listdir(out)) == before
    assert os.listdir(tmp_path) == ["web"]


def test_a_bundle_with_something_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    out = make(tmp_path / "b")
    (out / "notes.txt").write_bytes(b"mine")
    with pytest.raises(ModelError, match=r"notes\.txt in it is not the bundle's"):
        make(out, b"newer")
    assert (out / "notes.txt").read_bytes() == b"mine"
    assert (out / "engine.bin").read_bytes() == b"engine"


def test_what_comes_while_it_is_built_is_not_replaced_either(tmp_path: Path) -> None:
    out = tmp_path / "b"

    def fill() -> None:
        with bundle.building(out) as folder:
            (out / "photos").mkdir(parents=True)
            bundle.write_manifest(folder, MANIFEST)

    with pytest.raises(ModelError, match="is no bundle"):
        fill()
    assert os.listdir(out) == ["photos"]


def test_what_may_be_replaced(tmp_path: Path) -> None:
    """An empty folder, a bundle of an older format, and in the cache whatever is there."""
    out = tmp_path / "b"
    out.mkdir()
    make(out)
    table = json.loads((out / "manifest.json").read_text())
    del table["manifest_sha256"]
    (out / "manifest.json").write_text(json.dumps(table | {"format": 1}))
    make(out, b"newer")
    assert (out / "engine.bin").read_bytes() == b"newer"
    (out / "manifest.json").write_text("{")
    with bundle.building(out, ours=True) as folder:
        bundle.write_manifest(folder, MANIFEST)
    assert os.listdir(tmp_path) == ["b"]


def test_odd_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link leads to the bundle, the folder one stands in can be replaced; too long and in a circle is one line."""
    (tmp_path / "link").symlink_to(tmp_path / "b")
    make(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    verify(tmp_path / "b")
    monkeypatch.chdir(tmp_path / "b")
    make(Path(), b"newer")
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "b" / "engine.bin").read_bytes() == b"newer"
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("x" * 300, "circle"):
        with pytest.raises(DiskError, match="cannot be made"):
            make(tmp_path / name)
    monkeypatch.setattr(bundle.os.path, "ismount", lambda path: path == tmp_path / "b")
    with pytest.raises(ModelError, match="is a mount point"):
        make(tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == ["b", "circle", "link"]


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


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match="cannot be made"):
        make(tmp_path / "file" / "b")
    with pytest.raises(ModelError, match="is a file"):
        make(tmp_path / "file")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskError),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), OSError),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "g++"), FileNotFoundError),
    ],
)
def test_only_what_is_about_writing_is_said_to_be(tmp_path: Path, error: OSError, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        make_half(tmp_path / "b", error)
    with pytest.raises(DiskError, match="cannot be written: Is a directory"), bundle.building(tmp_path / "b") as folder:
        folder.write_bytes(b"")
