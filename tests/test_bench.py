"""Running the bench: a whole run, its engines' turns, the picture, Ctrl-C and bad words."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt_avsac import cli
from rt_avsac.bench import engines_of
from rt_avsac.bench_chart import draw
from rt_avsac.bench_load import BLOCK, Measured, Stream, demo_windows, single_stream, stretch, turn_of
from rt_avsac.config import LiveSettings
from rt_avsac.errors import UserError
from tests.bench_results import series


@pytest.mark.usefixtures("one_thread")
def test_a_run_and_a_comparison(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--model", str(checkpoint), "--engines", "torch:fp32", "--device", "cpu", "--samples", "24"]
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
    parts = sum(paced[stage]["mean"] for stage in ("capture", "wait", "pre", "infer", "post", "receive"))
    assert parts == pytest.approx(paced["total"]["mean"], rel=0.1)
    assert found["machine"]["versions"]["numpy"]
    ran = {"backend": "torch", "precision": "fp32", "device": "cpu", "threads": 1}
    assert found["engines"] == {"torch:fp32": ran}
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


def test_a_rate_is_not_above_the_cameras(checkpoint: Path) -> None:
    """Though the first mask is late, and the next ones follow at once."""
    measured = Measured()
    for _ in range(3):
        stretch(measured, LiveSettings(model=str(checkpoint), backend="torch", precision="fp32"), 2.0)
    assert measured.num > 10
    assert measured.throughput < 30.1


def test_every_engine_runs_long_enough_after_its_warm_up(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the number and the seconds; warmed up by 30 runs and 200 ms before the first that counts."""
    settings = LiveSettings(model=str(checkpoint), backend="torch", precision="fp32")
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


def test_ctrl_c_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    words = ["bench", "--model", str(checkpoint), "--engines", "torch:fp32", "--out", str(tmp_path / "out")]
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
        (["--soak", "1", "--compare", "old.json"], "leave one out"),
        (["--num-threads", "0"], "'0' is no number of threads"),
    ],
)
def test_bad_words(words: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--samples", "1", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert part in error


def test_which_engines_run(torch_bundle: Path) -> None:
    def engines(*words: str) -> dict[str, LiveSettings]:
        return engines_of(cli.make_parser().parse(["bench", *words]))

    assert list(engines()) == ["auto:auto", "torch:fp32"]
    assert list(engines("--model", str(torch_bundle))) == [torch_bundle.name]
    with pytest.raises(UserError, match="a bundle is one engine"):
        engines("--model", str(torch_bundle), "--engines", "torch")
    two = engines("--num-threads", "2", "--engines", "openvino:int8, torch")
    assert [(each.backend, each.precision, each.num_threads) for each in two.values()] == [
        ("openvino", "int8", 2),
        ("torch", "auto", 2),
    ]


@pytest.mark.parametrize(
    ("words", "asked"), [([], (1024, 3.0)), (["--quick"], (200, 0.5)), (["--quick", "--samples", "7"], (7, 0.0))]
)
def test_how_much_is_measured(words: list[str], asked: tuple[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(args: Any, engines: Any, num: int, min_s: float, say: Any) -> Any:
        seen.append((num, min_s))
        raise UserError("enough")

    seen: list[tuple[int, float]] = []
    monkeypatch.setattr("rt_avsac.bench.measure", measure)
    assert cli.main(["bench", *words]) == 2
    assert seen == [asked]


def test_a_folder_that_cannot_be_made_is_known_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["bench", "--soak", "1", "--out", str(tmp_path / "file" / "out")]) == 5
    assert "cannot be made" in capsys.readouterr().err
