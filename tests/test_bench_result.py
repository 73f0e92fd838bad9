"""What the bench prints and keeps: also when it is interrupted, on a full disk, and compared with an older result."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rt_avsac import bench, cli, machine
from rt_avsac.bench_compare import moves, read_result
from tests.tiny_model import make_tiny


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A bench that takes a moment."""
    tiny = make_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors")
    return ["bench", "--model", str(tiny), "--engines", "torch:fp32", "--samples", "2"]


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_ctrl_c_shows_what_was_measured(
    number: int,
    code: int,
    name: str,
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*args: object) -> None:
        signal.raise_signal(number)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(bench, "camera_rate", interrupt)
    (tmp_path / "bench.json").write_text("a whole one")
    assert cli.main([*words, "--out", str(tmp_path)]) == code
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])
    assert found["interrupted"] is True
    assert found["loads"]["single_stream"]["torch:fp32"]["ms"]["total"]["n"] == 2
    assert found["loads"]["camera_rate"] == {}
    assert "torch:fp32 (torch fp32 on cpu)" in said.out
    assert said.err.splitlines()[-1] == f"rt-avsac: bench: stopped by {name} before it was done"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("bench.json", "a whole one")]
    monkeypatch.setattr(bench, "single_stream", interrupt)
    assert cli.main(words) == code
    assert capsys.readouterr().out == ""
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_full_disk_does_not_take_the_result_with_it(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bench.json").mkdir()  # nothing can be put there
    monkeypatch.setattr(bench, "camera_rate", lambda *args: {})
    assert cli.main([*words, "--out", str(tmp_path)]) == 5
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["bench"] == "rt-avsac"
    assert "cannot be written" in said.err
    (tmp_path / "soak.json").mkdir()
    short = [word for word in words if word not in ("--samples", "2")]
    assert cli.main([*short, "--soak", str(0.5 / 3600), "--out", str(tmp_path)]) == 5
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bench"] == "soak"


def test_a_result_tells_what_was_measured_when_and_in_how_much_memory(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory of a process of its own, whatever this one has loaded before; and --compare takes its own results."""
    monkeypatch.setattr(machine, "commit", lambda: "begun with this")
    monkeypatch.setattr(bench, "camera_rate", lambda *args: monkeypatch.setattr(machine, "commit", lambda: "another"))
    assert cli.main(words) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    found = json.loads(line)
    assert len(found["checkpoint"]) == 12
    assert found["machine"]["utc"].startswith("20")
    assert found["machine"]["commit"] == "begun with this"
    assert 50 < found["process_mb"]["torch:fp32"] < 2000
    (tmp_path / "old.json").write_text(line)
    old = read_result(tmp_path / "old.json", ["torch:fp32"])
    new = json.loads(line) | {"process_mb": {"torch:fp32": 3000.0}}
    assert [(move["engine"], move["what"], move["fails"]) for move in moves(old, new)[0]] == [
        ("torch:fp32", "memory", False)
    ]
    older: dict[str, Any] = json.loads(line)  # engines opened after others may have had less than nothing
    older["loads"]["single_stream"]["torch:fp32"]["memory_mb"] = -0.4
    (tmp_path / "old.json").write_text(json.dumps(older))
    assert read_result(tmp_path / "old.json", ["torch:fp32"]) == older


@pytest.mark.parametrize(("ratio", "fails"), [(1.04, []), (1.08, [False]), (1.15, [True])])
def test_a_few_per_cent_are_told_and_fail_nothing(ratio: float, fails: list[bool]) -> None:
    """The same code run again is as far off, on a machine at rest."""

    def result(p50: float) -> dict[str, Any]:
        row = {"n": 1024, "p50": p50, "max": 20.0, "noise": 0.0}
        measured = {"ms": {"infer": row}, "throughput_fps": 1.0, "drops": 0}
        machine = {"cpus": 2, "others_cpus": 0.0}
        return {"machine": machine, "engines": {}, "memory_mb": {}, "loads": {"single_stream": {"a": measured}}}

    assert [move["fails"] for move in moves(result(10.0), result(10.0 * ratio))[0]] == fails


def test_drops_are_a_share_of_all_frames() -> None:
    """Of an engine that drops three frames of four a few more are noise, although it has few windows."""

    def result(drops: int, others: float) -> dict[str, Any]:
        row = {"n": 500 - drops, "p50": 1.0, "max": 1.0, "noise": 0.0}
        measured = {"ms": {"total": row}, "throughput_fps": 1.0, "drops": drops}
        return {
            "machine": {"cpus": 2, "others_cpus": others},
            "engines": {"a": {}},
            "memory_mb": {},
            "loads": {"camera_rate": {"a": measured}},
        }

    for others, old, new, fails in (
        (0.0, 375, 378, []),
        (0.0, 375, 390, [True]),
        (1.5, 375, 460, [False]),
        (1.5, 100, 375, [True]),
    ):
        found = moves(result(old, others), result(new, others))[0]
        assert [move["fails"] for move in found] == fails, (others, old, new)


def test_watts_are_of_the_load_and_not_of_after_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    power = iter((100_000, 300_000))
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetPowerUsage=lambda handle: next(power),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for number, name in enumerate(("package-0", "package-1", "core", "psys")):
        folder = tmp_path / f"intel-rapl:{number}"
        folder.mkdir()
        (folder / "name").write_text(name + "\n")
        (folder / "energy_uj").write_text("1000000")
    monkeypatch.setattr(machine, "RAPL", str(tmp_path / "intel-rapl:*/"))
    clock = iter((10.0, 12.0))
    monkeypatch.setattr(machine, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    meter = machine.PowerMeter()
    meter.look()
    meter.look()
    for folder in tmp_path.iterdir():
        (folder / "energy_uj").write_text("5000000")
    assert meter.watts() == {"gpu": 200.0, "cpu_package": 4.0}  # two packages of 4 J in 2 s
