"""Manifests: read back, held to what they can say, and refused where they do not fit."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rt_avsac import bundle, engines
from rt_avsac.bundle import Machine, Manifest
from rt_avsac.config import LiveSettings
from rt_avsac.errors import ModelError
from tests.bundles import MANIFEST, make, verify


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


def test_what_any_machine_can_run_fits_every_machine(tmp_path: Path) -> None:
    with bundle.building(tmp_path / "b") as folder:
        for name in bundle.ENGINE_FILES["openvino"]:
            (folder / name).write_bytes(b"x")
        bundle.write_manifest(folder, dataclasses.replace(MANIFEST, runtime={}, device="", driver=""))
    verify(tmp_path / "b", Machine({"other": "2.0"}, "chip B", "driver 6"))


def test_a_change_far_into_a_file_is_seen(tmp_path: Path) -> None:
    content = bytes(3 << 20)
    out = make(tmp_path / "b", content)
    verify(out)
    (out / "engine.bin").write_bytes(content[:-1] + b"x")
    with pytest.raises(ModelError, match="truncated or changed"):
        verify(out)


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


def test_an_engine_is_opened_only_where_it_fits(tmp_path: Path) -> None:
    """Held to this machine before a runtime reads it; one for a GPU is not tried on a CPU."""
    with pytest.raises(ModelError, match=r"built for engine 1\.2, which is not here"):
        engines.open_engine(make(tmp_path / "b"), LiveSettings())
    with bundle.building(tmp_path / "gpu") as folder:
        (folder / "engine.pt2").write_bytes(b"x")
        bundle.write_manifest(folder, dataclasses.replace(MANIFEST, backend="cuda"))
    with pytest.raises(ModelError, match="asked device cpu, it was built for cuda"):
        engines.open_engine(tmp_path / "gpu", LiveSettings(device="cpu"))


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
        *[("files", {name: "c" * 64}) for name in ("manifest.json", "..", "")],
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
