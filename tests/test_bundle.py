"""Bundles: whole or not at all, and nothing of the user's is replaced. No engine runs here."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest

from rt_avsac import bundle
from rt_avsac.errors import DiskError, ModelError
from tests.bundles import MANIFEST, make, make_half, verify


def test_what_is_built_is_read_back_and_fits(tmp_path: Path) -> None:
    out = make(tmp_path / "made" / "b")
    manifest = bundle.read(out)
    assert dataclasses.replace(manifest, files={}) == MANIFEST
    assert set(manifest.files) == {"engine.bin", "engine.xml"}
    verify(out)
    assert os.listdir(out.parent) == ["b"]
    assert out.stat().st_mode & 0o777 == 0o755  # also for the user that the robot's service runs as


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


def test_what_has_no_manifest_is_no_bundle(tmp_path: Path) -> None:
    """Our own mistake, not the user's."""
    with pytest.raises(AssertionError, match="write_manifest"), bundle.building(tmp_path / "b") as folder:
        (folder / "engine.bin").write_bytes(b"engine")
    assert os.listdir(tmp_path) == []


def test_a_failed_first_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        make_half(tmp_path / "b", RuntimeError())
    assert os.listdir(tmp_path) == []


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
        (OSError(errno.EROFS, "Read-only file system"), DiskError),
        (OSError(errno.EFBIG, "File too large"), DiskError),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), OSError),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "g++"), FileNotFoundError),
    ],
)
def test_only_what_is_about_writing_is_said_to_be(tmp_path: Path, error: OSError, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        make_half(tmp_path / "b", error)
    with pytest.raises(DiskError, match="cannot be written: Is a directory"), bundle.building(tmp_path / "b") as folder:
        folder.write_bytes(b"")
