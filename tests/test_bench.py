"""The bench: percentiles it may claim, comparison beyond noise, and a real run."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rt_avsac import cli
from rt_avsac.bench_compare import moves
from rt_avsac.bench_soak import soak
from rt_avsac.config import LiveSettings
from rt_avsac.latency import Series, table
from tests.tiny_model import make_tiny


def series(values_ms: np.ndarray) -> Series:
    made = Series()
    for index, value in enumerate(values_ms):
        made.add(round(value * 1e6), index + 1000)
    return made


def test_summary() -> None:
    found = series(np.arange(1, 1001) / 10).summary()
    assert found["n"] == 1000
    assert found["min"] == pytest.approx(0.1)
    assert found["max"] == pytest.approx(100.0)
    assert found["worst_frame"] == 1999
    for percent in (50, 90, 95, 99):
        assert found[f"p{percent}"] == pytest.approx(percent, abs=0.2)


@pytest.mark.parametrize(
    ("count", "claimed"), [(1, {50}), (99, {50}), (100, {50, 90}), (200, {50, 90, 95}), (999, {50, 90, 95})]
)
def test_a_percentile_without_enough_samples_is_not_claimed(count: int, claimed: set[int]) -> None:
    found = series(np.ones(count)).summary()
    assert {percent for percent in (50, 90, 95, 99) if found[f"p{percent}"] is not None} == claimed
    assert ("n/a" in table({"total": found})) is True


def test_nothing_measured() -> None:
    assert Series().summary() == {"n": 0}


def result(values_ms: np.ndarray) -> dict[str, Any]:
    ms = {"infer": series(values_ms).summary()}
    machine = {"cpu": "a", "gpu": "", "system": "s"}
    return {"bench": "rt-avsac", "machine": machine, "loads": {"single_stream": {"torch:fp32": {"ms": ms}}}}


def test_noise_is_not_a_move_but_a_change_is() -> None:
    random = np.random.default_rng(0)
    old = result(10 + random.normal(0, 1, 1000))
    assert moves(old, result(10 + random.normal(0, 1, 1000))) == []
    (slower,) = moves(old, result(12 + random.normal(0, 1, 1000)))
    assert slower["ratio"] == pytest.approx(1.2, abs=0.02)
    (faster,) = moves(old, result(8 + random.normal(0, 1, 1000)))
    assert faster["ratio"] < 1
    # the same change, drowned in drift
    drift = np.repeat(random.normal(0, 4, 8), 125)
    assert moves(result(10 + drift + random.normal(0, 1, 1000)), result(11 - drift + random.normal(0, 1, 1000))) == []


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.mark.usefixtures("one_thread")
def test_a_run_and_a_comparison(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--model", str(tiny), "--engines", "torch:fp32", "--device", "cpu", "--samples", "24"]
    words += ["--num-threads", "2"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    found = json.loads(lines[-1])
    flat = found["loads"]["single_stream"]["torch:fp32"]
    assert {"pre", "infer", "post", "pack", "receive", "total"} == set(flat["ms"])
    assert all(row["n"] == 24 for row in flat["ms"].values())
    parts = sum(flat["ms"][stage]["mean"] for stage in ("pre", "infer", "post", "receive"))
    assert parts == pytest.approx(flat["ms"]["total"]["mean"], rel=0.1)
    paced = found["loads"]["camera_rate"]["torch:fp32"]["ms"]
    assert {"capture", "wait"} <= set(paced)
    assert found["machine"]["versions"]["numpy"]
    ran = {"backend": "torch", "precision": "fp32", "device": "cpu", "threads": torch.get_num_threads()}
    assert found["engines"]["torch:fp32"] == ran | {"threads": 2}
    assert any(line.startswith("torch:fp32 (torch fp32 on cpu)") for line in lines)
    assert found["own_cost_share"] < 0.01
    assert any("n/a" in line for line in lines)
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")
    old = json.loads((tmp_path / "out" / "bench.json").read_text())
    for row in old["loads"]["single_stream"]["torch:fp32"]["ms"].values():
        row["p50"], row["noise"] = row["p50"] / 50, 1e-6  # so fast can it not have been
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert cli.main([*words, "--compare", str(tmp_path / "old.json")]) == 1
    assert "slower" in capsys.readouterr().out


def test_a_short_soak(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--model", str(tiny), "--engines", "torch:fp32", "--soak", str(3 / 3600)]
    cli.main([*words, "--out", str(tmp_path / "out")])
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert found["masks"] > 0
    assert len(found["memory_mb"]) == len(found["at_hours"]) == len(found["p50_ms"]) > 5
    assert all(most >= middle > 0 for most, middle in zip(found["max_ms"], found["p50_ms"], strict=True))
    assert json.loads((tmp_path / "out" / "soak.json").read_text()) == found
    assert (tmp_path / "out" / "soak.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("gain_mb", "settles", "grows"), [(0.0, False, False), (0.5, False, True), (0.5, True, False)])
def test_memory_that_grows(
    gain_mb: float, settles: bool, grows: bool, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `gain_mb` at every look, for ever or only in the beginning."""
    looks = itertools.count()
    memory = {"resident": 100.0}

    def memory_mb() -> dict[str, float]:
        memory["resident"] += 0.0 if settles and next(looks) > 4 else gain_mb
        return memory

    monkeypatch.setattr("rt_avsac.machine.memory_mb", memory_mb)
    settings = LiveSettings(model=str(tiny), backend="torch", precision="fp32")
    said: list[str] = []
    monkeypatch.setattr("rt_avsac.bench_soak.SAY_S", 0.5)
    assert soak(settings, 3 / 3600, said.append)["grows"] is grows
    assert any("min left" in line for line in said)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--compare", "no-such.json"], "no-such.json"),
        (["--engines", "onnx:fp32"], "onnx"),
        (["--engines", "torch:fp8"], "fp8"),
        (["--model", "no-such"], "no-such"),
        (["--soak", "-1"], "-1"),
        (["--soak", "1", "--engines", "torch:fp32,openvino:fp32"], "asked one engine"),
        (["--num-threads", "0"], "'0' is no number of threads"),
    ],
)
def test_bad_words(words: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--samples", "1", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert part in error


def test_a_folder_that_cannot_be_made_is_known_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["bench", "--soak", "1", "--out", str(tmp_path / "file" / "out")]) == 5
    assert "cannot be made" in capsys.readouterr().err


def test_what_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, text in enumerate(["", "{}", "[1]", "not json", '{"bench": "other"}']):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        assert cli.main(["bench", "--compare", str(path)]) == 2
        assert "not a result" in capsys.readouterr().err
