"""Bundles: whole or not at all, and refused where they do not fit. No engine runs here."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rt_avsac import bundle
from rt_avsac.bundle import Machine, Manifest
from rt_avsac.errors import DiskError, ModelError

HERE = Machine({"engine": "1.2"}, "chip A", "driver 5")
MANIFEST = Manifest(
    name="tiny",
    checkpoint_sha256="c" * 64,
    backend="openvino",
    precision="fp32",
    image_size=64,
    num_audio_samples=15_600,
    classes=["background", "dog"],
    num_outputs=3,
    runtime=HERE.runtime,
    device=HERE.device,
    driver=HERE.driver,
    rt_avsac="0.1.0",
)


def make(out: Path, content: bytes = b"engine") -> Path:
    with bundle.building(out) as folder:
        (folder / "engine.bin").write_bytes(content)
        bundle.write_manifest(folder, MANIFEST)
    return out


def make_half(out: Path, error: BaseException) -> None:
    with bundle.building(out) as folder:
        (folder / "engine.bin").write_bytes(b"half")
        raise error


def verify(out: Path, here: Machine = HERE) -> None:
    bundle.verify(out, bundle.read(out), lambda: here)


def test_what_is_built_is_read_back_and_fits(tmp_path: Path) -> None:
    out = make(tmp_path / "made" / "b")
    manifest = bundle.read(out)
    assert dataclasses.replace(manifest, files={}) == MANIFEST
    assert set(manifest.files) == {"engine.bin"}
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


def test_a_failed_rename_brings_the_old_bundle_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make(tmp_path / "b")
    rename = os.rename

    def full(source: Any, target: Any) -> None:
        if Path(target) == out and "old" not in str(source):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(bundle.os, "rename", full)
    with pytest.raises(DiskError, match="No space left"):
        make(out, b"newer")
    verify(out)
    assert (out / "engine.bin").read_bytes() == b"engine"


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"x")
    with pytest.raises(ModelError, match="is no bundle"):
        make(tmp_path / "photos")
    assert os.listdir(tmp_path / "photos") == ["one.jpg"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match="cannot be made"):
        make(tmp_path / "file" / "b")


@pytest.mark.parametrize(
    ("here", "parts"),
    [
        (Machine({"engine": "1.3"}, "chip A", "driver 5"), ["engine 1.2", "1.3"]),
        (Machine({}, "chip A", "driver 5"), ["engine 1.2", "none"]),
        (Machine({"engine": "1.2"}, "chip B", "driver 5"), ["chip A", "chip B"]),
        (Machine({"engine": "1.2"}, "chip A", "driver 6"), ["driver 5", "driver 6"]),
    ],
)
def test_another_machine_is_refused_with_the_way_out(tmp_path: Path, here: Machine, parts: list[str]) -> None:
    out = make(tmp_path / "b")
    with pytest.raises(ModelError) as raised:
        verify(out, here)
    for part in [*parts, "rt-avsac compile tiny --backend openvino --precision fp32"]:
        assert part in str(raised.value)


def test_a_truncated_or_missing_engine_is_refused(tmp_path: Path) -> None:
    out = make(tmp_path / "b")
    (out / "engine.bin").write_bytes(b"engin")
    with pytest.raises(ModelError, match="truncated or changed"):
        verify(out)
    (out / "engine.bin").unlink()
    with pytest.raises(ModelError, match="missing"):
        verify(out)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "{}", '{"format": 99}', '{"format": 1}', "\xff", '{"format": 1, "name": 3}', "null"]
)
def test_a_wrong_manifest_is_one_line(tmp_path: Path, text: str) -> None:
    out = make(tmp_path / "b")
    (out / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError) as raised:
        bundle.read(out)
    assert "compile it again" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Manifest)])
def test_every_field_is_held_to_its_type(tmp_path: Path, field: str) -> None:
    out = make(tmp_path / "b")
    table = json.loads((out / "manifest.json").read_text())
    table[field] = None
    (out / "manifest.json").write_text(json.dumps(table))
    with pytest.raises(ModelError):
        bundle.read(out)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no manifest\.json"):
        bundle.read(tmp_path)
