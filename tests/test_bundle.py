"""Bundles: whole or not at all, and refused where they do not fit. No engine runs here."""

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

from rt_avsac import bundle, engines, swap
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
        (folder / "engine.xml").write_bytes(b"graph")
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
from tests import test_bundle
out, how = Path(sys.argv[1]), sys.argv[2]
if how == "half":
    with test_bundle.bundle.building(out) as folder:
        (folder / "engine.bin").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
rename, swap = os.rename, test_bundle.swap
def rename_and_die(source, target):
    rename(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
swap.exchange, swap.os.rename = (lambda one, other: False), rename_and_die
test_bundle.make(out, b"newer")
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


@pytest.mark.parametrize(
    ("here", "parts"),
    [
        (Machine({"engine": "1.3"}, "chip A", "driver 5"), ["engine 1.2", "1.3"]),
        (Machine({}, "chip A", "driver 5"), ["engine 1.2", "which is not here"]),
        (Machine({"engine": "1.2"}, "chip B", "driver 5"), ["chip A", "chip B"]),
        (Machine({"engine": "1.2"}, "chip A", "driver 6"), ["driver 5", "driver 6"]),
    ],
)
def test_another_machine_is_refused_with_the_way_out(tmp_path: Path, here: Machine, parts: list[str]) -> None:
    out = make(tmp_path / "b")
    with pytest.raises(ModelError) as raised:
        verify(out, here)
    words = "rt-avsac compile CHECKPOINT.safetensors --backend openvino --precision fp32"
    for part in [*parts, words, "sha256 begins with cccccccccccc"]:
        assert part in str(raised.value)


def test_the_way_out_names_the_shipped_model_only_if_it_is_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rt_avsac import model_path

    monkeypatch.setattr(model_path, "FOLDER", tmp_path)
    (tmp_path / "tiny.safetensors").write_bytes(b"weights")
    shipped = dataclasses.replace(MANIFEST, checkpoint_sha256=bundle.sha256(tmp_path / "tiny.safetensors"))
    said = bundle.way_out(Path("my bundle; rm"), shipped)
    assert said == "run rt-avsac compile tiny --backend openvino --precision fp32 --out 'my bundle; rm'"
    assert "compile tiny" not in bundle.way_out(Path("b"), MANIFEST)


def test_a_truncated_or_missing_engine_is_refused(tmp_path: Path) -> None:
    out = make(tmp_path / "b")
    (out / "engine.bin").write_bytes(b"engin")
    with pytest.raises(ModelError, match="truncated or changed"):
        verify(out)
    (out / "engine.bin").unlink()
    with pytest.raises(ModelError, match="missing"):
        verify(out)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "[" * 200_000, "{}", '{"format": 99}', '{"format": 1}', "\xff", '{"format": 1, "name": 3}', "null"],
)
def test_a_wrong_manifest_is_one_line(tmp_path: Path, text: str) -> None:
    out = make(tmp_path / "b")
    (out / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError) as raised:
        bundle.read(out)
    assert "compile it again" in str(raised.value)
    assert "\n" not in str(raised.value)


def change(out: Path, signed: bool, **changes: Any) -> None:
    """`signed`: as if a builder had written it so."""
    table = json.loads((out / "manifest.json").read_text()) | changes
    if signed:
        del table["manifest_sha256"]
        table["manifest_sha256"] = bundle.digest_of(table)
    (out / "manifest.json").write_text(json.dumps(table))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Manifest)])
def test_every_field_is_held_to_its_type(tmp_path: Path, field: str) -> None:
    out = make(tmp_path / "b")
    change(out, True, **{field: None})
    with pytest.raises(ModelError, match=f"no usable '{field}'|asked manifest format"):
        bundle.read(out)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("image_size", value) for value in (0, -5, True, 10**9, 64.0, "64")],
        *[("num_audio_samples", value) for value in (0, -1, 10**9)],
        *[("num_outputs", value) for value in (0, 4)],
        *[("classes", value) for value in ([], [1, 2], ["a", None], "ab")],
        *[("backend", value) for value in ("", "onnx", "../x")],
        *[("precision", value) for value in ("", "fp64", "auto")],
        *[("checkpoint_sha256", value) for value in ("", "c" * 63, "C" * 64)],
        *[("files", value) for value in ([], {"engine.xml": 5}, {"../x": "c" * 64}, {"/dev/zero": "c" * 64})],
        ("files", {"manifest.json": "c" * 64}),
        ("runtime", {"openvino": 5}),
        ("options", {"hint": 5}),
        ("deviation", {"snr_db": "high"}),
        ("deviation", {"snr_db": float("nan")}),
        ("format", True),
    ],
)
def test_every_field_is_held_to_what_it_can_be(tmp_path: Path, field: str, value: Any) -> None:
    out = make(tmp_path / "b")
    change(out, True, **{field: value})
    with pytest.raises(ModelError, match=f"no usable '{field}'|asked manifest format"):
        bundle.read(out)


def test_a_changed_manifest_is_refused(tmp_path: Path) -> None:
    out = make(tmp_path / "b")
    change(out, True, image_size=96)
    assert bundle.read(out).image_size == 96
    for changes in ({"image_size": 128}, {"precision": "bf16"}, {"more": 1}, {"manifest_sha256": None}):
        make(out)
        change(out, False, **changes)
        with pytest.raises(ModelError, match=r"was changed .* compile it again"):
            bundle.read(out)


def test_the_engines_files_must_be_listed(tmp_path: Path) -> None:
    out = make(tmp_path / "b")
    for files in ({}, {"engine.xml": "c" * 64}):
        change(out, True, files=files)
        with pytest.raises(ModelError, match=r"lists no engine\.bin"):
            bundle.read(out)
    assert set(bundle.ENGINE_FILES) == set(engines.BACKENDS)
    for backend, files in bundle.ENGINE_FILES.items():
        module = engines.backend_module(backend)
        assert files == {module.ENGINE, *([module.WEIGHTS] if hasattr(module, "WEIGHTS") else [])}


def test_numbers_that_are_none_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no finite number"), bundle.building(tmp_path / "b") as folder:
        bundle.write_manifest(folder, dataclasses.replace(MANIFEST, deviation={"snr_db": float("nan")}))
    assert os.listdir(tmp_path) == []


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no manifest\.json"):
        bundle.read(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    for name in ("file", "nothing"):
        with pytest.raises(ModelError, match="no such folder"):
            bundle.read(tmp_path / name)
