"""The bench: percentiles it may claim, comparison beyond noise, and a real run."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import peers
from rt_avsac import cli, machine
from rt_avsac.bench_chart import draw
from rt_avsac.bench_compare import block_medians, differences, moves, read_result, standard_error
from rt_avsac.bench_load import BLOCK, Measured, Stream, demo_windows, single_stream, stretch, turn_of
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


def result(values_ms: np.ndarray, stage: str = "total", others: float = 0.0) -> dict[str, Any]:
    ms = {stage: series(values_ms).summary() | {"blocks": block_medians(values_ms.tolist())}}
    machine = {"cpu": "a", "gpu": "", "system": "s", "cpus": 2, "others_cpus": others, "versions": {"numpy": "1"}}
    measured = {"ms": ms, "throughput_fps": 30.0, "drops": 0}
    return {
        "bench": "rt-avsac",
        "model": "m",
        "machine": machine,
        "engines": {"torch:fp32": {"precision": "fp32", "threads": 1}},
        "memory_mb": {"peak": 100.0},
        "loads": {"single_stream": {"torch:fp32": measured}},
    }


def p50_moves(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    return [move for move in moves(old, new)[0] if move["what"] == "p50"]


def test_noise_is_not_a_move_but_a_change_is() -> None:
    random = np.random.default_rng(0)
    old = result(10 + random.normal(0, 1, 1000))
    assert moves(old, result(10 + random.normal(0, 1, 1000)))[0] == []
    (slower,) = p50_moves(old, result(12 + random.normal(0, 1, 1000)))
    assert slower["ratio"] == pytest.approx(1.2, abs=0.02)
    assert slower["fails"]
    (faster,) = p50_moves(old, result(8 + random.normal(0, 1, 1000)))
    assert not faster["worse"]
    # the same change, drowned in drift
    drift = np.repeat(random.normal(0, 4, 8), 125)
    old, new = result(10 + drift + random.normal(0, 1, 1000)), result(11 - drift + random.normal(0, 1, 1000))
    assert p50_moves(old, new) == []
    # a quarter slower, drowned in stalls of a sixth of the windows
    stalls = np.where(np.arange(1000) % 250 < 42, 60, 0)
    (slower,) = p50_moves(*(result(middle + stalls + random.normal(0, 1, 1000)) for middle in (10, 12.5)))
    assert slower["fails"]


def test_drift_is_noise_and_a_few_stalls_are_not() -> None:
    blocks = (10 + np.random.default_rng(0).normal(0, 1, 32)).tolist()
    mixed = standard_error({"blocks": blocks})
    assert standard_error({"blocks": sorted(blocks)}) > 2 * mixed
    assert standard_error({"blocks": [90.0, *blocks[1:30], 90.0, 90.0]}) < 2 * mixed
    assert standard_error({"blocks": [], "noise": 3.0}) == 3.0


def test_what_fails_and_what_is_only_told() -> None:
    random = np.random.default_rng(0)
    values = 10 + random.normal(0, 0.1, 1000)
    assert not any(move["fails"] for move in moves(result(values, "pack"), result(2 * values, "pack"))[0])
    assert moves(result(values), result(1.04 * values))[0] == []  # under the floor, however sure
    (told,) = p50_moves(result(values), result(1.4 * values, others=1.5))  # others' work does as much
    assert told["worse"]
    assert not told["fails"]
    assert p50_moves(result(values, others=1.5), result(3 * values))[0]["fails"]


@pytest.mark.parametrize(
    ("what", "fails"),
    [("p90", True), ("p95", True), ("p99", True), ("max", False), ("drops", True), ("throughput", True),
     ("memory peak", False)],
)  # fmt: skip
@pytest.mark.parametrize("others", [0.0, 1.5])
def test_more_than_medians_is_compared(what: str, fails: bool, others: float) -> None:
    values = 10 + np.random.default_rng(0).normal(0, 0.1, 200)
    old, new = result(values, others=others), result(values, others=others)
    for each in (old, new):
        each["loads"]["single_stream"]["torch:fp32"]["ms"]["total"] |= {"p95": 11.0, "p99": 11.0}
    measured = new["loads"]["single_stream"]["torch:fp32"]
    if what == "drops":
        measured["drops"] = 500
    elif what == "throughput":
        measured["throughput_fps"] = 3.0
    elif what == "memory peak":
        new["memory_mb"]["peak"] = 1000.0
    else:
        measured["ms"]["total"][what] *= 10
    (move,) = moves(old, new)[0]
    assert (move["what"], move["worse"], move["fails"]) == (what, True, fails)
    (back,) = moves(new, old)[0]
    assert not back["worse"]


def test_what_else_is_not_the_same_is_said() -> None:
    values = np.arange(100) + 1.0
    old, new = result(values), result(values)
    assert differences(old, new) == []
    new["model"] = "other"
    new["machine"] |= {"versions": {"numpy": "2"}, "commit": "abc", "others_cpus": 1.5}
    new["engines"] = {"torch:fp32": {"precision": "bf16", "threads": 2}, "openvino:int8": {}}
    said = "\n".join(differences(old, new))
    for part in ("model m then, other now", "numpy 1 then, 2 now", "commit none then, abc now", "1.5 of 2 cores",
                 "torch:fp32: precision fp32 then, bf16 now", "torch:fp32: threads 1 then, 2 now",
                 "engine openvino:int8 not run then, run now"):  # fmt: skip
        assert part in said


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
    old["loads"]["single_stream"]["torch:fp32"]["throughput_fps"] *= 50  # so fast can it not have been
    (tmp_path / "old.json").write_text(json.dumps(old, indent=2))
    capsys.readouterr()
    assert cli.main([*words, "-q", "--compare", str(tmp_path / "old.json")]) == 1
    said = capsys.readouterr()
    assert said.err == ""
    (line,) = said.out.strip().splitlines()  # -q: the result alone
    assert any(move["fails"] and move["what"] == "throughput" for move in json.loads(line)["moves"])


def test_a_rate_is_not_above_the_cameras(tiny: Path) -> None:
    """Though the first mask is late, and the next ones follow at once."""
    measured = Measured()
    for _ in range(3):
        stretch(measured, LiveSettings(model=str(tiny), backend="torch", precision="fp32"), 2.0)
    assert measured.num > 10
    assert measured.throughput < 30.1


def test_every_engine_runs_long_enough_after_its_warm_up(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the number and the seconds; warmed up by 30 runs and 200 ms before the first that counts."""
    settings = LiveSettings(model=str(tiny), backend="torch", precision="fp32")
    runs: list[tuple[bool, int]] = []
    query = Stream.query

    def watched(stream: Stream, window: Any, measure: bool) -> None:
        query(stream, window, measure)
        runs.append((measure, time.monotonic_ns()))

    monkeypatch.setattr(Stream, "query", watched)
    windows = demo_windows(80)
    said: list[str] = []
    found = single_stream({"a": settings}, 20, 0.5, windows, said.append)["a"]
    assert found.seconds >= 0.5
    assert found.num >= 20
    assert len(found.stages["total"].values_ns) == found.num
    warm = [when for measure, when in runs if not measure]
    assert len(warm) >= 30
    assert warm[-1] - warm[0] >= 200e6
    assert not any(measure for measure, _ in runs[: len(warm)])
    assert single_stream({"a": settings}, 20, 0.0, windows, said.append)["a"].num == 20


def test_a_fast_engine_has_as_many_turns_as_a_slow_one() -> None:
    assert turn_of(30_000_000, 1024, 3.0) == BLOCK
    assert turn_of(500_000, 1024, 3.0) * 64 * 0.0005 == pytest.approx(3.0, rel=0.05)


def test_ctrl_c_is_one_line(tiny: Path, tmp_path: Path) -> None:
    words = ["bench", "--model", str(tiny), "--engines", "torch:fp32", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-m", "rt_avsac", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "camera's rate" in line or "single stream" in line:
            break
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(out.splitlines()[-1])["interrupted"] is True
    assert [line for line in error.splitlines() if not line.startswith("bench: ")] == [
        "rt-avsac: bench: stopped by Ctrl-C before it was done"
    ]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("count", [12, 400])
def test_few_windows_are_drawn_large_enough_to_be_seen(count: int, tmp_path: Path) -> None:
    import cv2

    draw({"a": series(10 + np.arange(count) % 7 / 10)}, "", tmp_path / "a.png")
    picture = cv2.imread(str(tmp_path / "a.png"))
    assert picture is not None
    timeline = picture[len(picture) // 2 :].astype(int)
    assert (timeline.max(2) - timeline.min(2) > 60).sum() > 500  # coloured pixels


def test_a_short_soak(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--model", str(tiny), "--engines", "torch:fp32", "--soak", str(3 / 3600)]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    found = json.loads(lines[-1])
    assert "too short to tell" in lines[0]  # 3 s
    assert found["growth_mb_per_hour"] is found["gained_mb"] is None
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
    monkeypatch.setattr("rt_avsac.bench_soak.MIN_HOURS", 1 / 3600)
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
        (["--soak", "0"], "0"),
        (["--soak", "nan"], "nan"),
        (["--soak", "inf"], "inf"),
        (["--samples", "-1"], "-1"),
        (["--engines", "torch:fp32,torch:fp32"], "twice"),
        (["--engines", "torch,torch:auto"], "twice"),
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


BREAKAGES: dict[str, Any] = {
    "machine": lambda table: table.pop("machine"),
    "loads": lambda table: table.pop("loads"),
    "engines": lambda table: table.update(engines=[]),
    "versions": lambda table: table["machine"].update(versions="1"),
    "noise": lambda table: total(table).update(noise=None),
    "p50": lambda table: total(table).update(p50="fast"),
    "p90": lambda table: total(table).update(p90=float("nan")),
    "max": lambda table: total(table).pop("max"),
    "blocks": lambda table: total(table).update(blocks=[None] * 32),
    "ms": lambda table: table["loads"]["single_stream"]["torch:fp32"].update(ms=[1]),
    "total": lambda table: table["loads"]["single_stream"]["torch:fp32"]["ms"].update(total="1"),
    "single_stream": lambda table: table["loads"].update(single_stream=None),
    "drops": lambda table: table["loads"]["single_stream"]["torch:fp32"].update(drops=True),
}


def total(table: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = table["loads"]["single_stream"]["torch:fp32"]["ms"]["total"]
    return row


@pytest.mark.parametrize("place", BREAKAGES)
def test_a_broken_result_is_refused_before_the_bench(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = result(np.arange(100) + 1.0)
    path = tmp_path / "old.json"
    path.write_text(json.dumps(table, indent=1))
    assert read_result(path, ["torch:fp32"]) == table
    path.write_text("bench: words\n" + json.dumps(table) + "\n")
    assert read_result(path, ["torch:fp32"]) == table
    BREAKAGES[place](table)
    path.write_text(json.dumps(table))
    assert cli.main(["bench", "--engines", "torch:fp32", "--compare", str(path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "not a result" in line
    assert place in line


def test_nothing_in_common(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = result(np.arange(100) + 1.0)
    for loads in (table["loads"], {}):
        (tmp_path / "old.json").write_text(json.dumps(table | {"loads": loads}))
        assert cli.main(["bench", "--engines", "torch:bf16", "--compare", str(tmp_path / "old.json")]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "nothing in common" in line


def test_what_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, text in enumerate(["", "{}", "[1]", "not json", '{"bench": "other"}', "\0\1", "[" * 100_000]):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        assert cli.main(["bench", "--compare", str(path)]) == 2
        assert "not a result" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--rounds", "0"], "'0' is no number of rounds"),
        (["--rounds=-1"], "'-1' is no number of rounds"),
        (["--only-edge", "--model", "nosuch"], "model nosuch: no such file"),
        (["--only-edge", "--precisions", "fp9"], "fp9"),
        (["--only-edge", "--device", "cuda"], "sees no NVIDIA GPU"),
    ],
)
def test_bad_words_of_the_peers(
    words: list[str], part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli.guarded("peers", words, peers.main) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert part in line


class Nvml:
    """Two GPUs of 100 and 200 W."""

    open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return range(2)[index]

    def nvmlDeviceGetUUID(self, handle: int) -> bytes:
        return (b"GPU-aaaa-0", b"GPU-bbbb-1")[handle]

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return (100_000, 200_000)[handle]


@pytest.mark.parametrize(
    ("visible", "watts"),
    [(None, 100), ("", 100), ("1", 200), ("1,0", 200), ("GPU-bbbb-1", 200), ("GPU-bb", 200), ("GPU-cc", None),
     ("MIG-1", None), ("7", None)],
)  # fmt: skip
def test_power_of_the_gpu_that_cuda_sees(
    visible: str | None, watts: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.PowerMeter().start().watts().get("gpu") == watts
    assert nvml.open == 0


def test_work_of_others_is_seen() -> None:
    meter = machine.OthersMeter()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        began, _ = machine._cpu_seconds() or (0.0, 0.0)
        while (machine._cpu_seconds() or (0.0, 0.0))[0] < began + 1:
            time.sleep(0.1)
        beside = meter.cpus()
    finally:
        busy.kill()
        busy.wait()
    assert beside is not None
    assert beside > 0.1
