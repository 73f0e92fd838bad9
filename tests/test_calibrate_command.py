"""`python -m calibrate` as it is run: bad options, the comparison, an interrupt, a full disk; the old set stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from calibrate.run import main, workplace
from rt_avsac.errors import DiskError, ModelError
from rt_avsac.quantize import read_calibration
from tests.small_set import ROOT


def comparison(checkpoint: Path, out: Path, data: Path, *more: str) -> list[str]:
    few = ("--num", "4", "--probes", "1", "--eval-num", "1", "--method", "minmax", "--smooth", "off", "--no-export")
    return [str(checkpoint), "--data", str(data), "--out", str(out), "--precisions", "fp32", *few, *more]


def test_comparison_end_to_end(
    calibrated: tuple[Path, Path], small_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One item: no class need be right or wrong, nor any error known; the last line and the report are JSON anyhow."""
    (tmp_path / "tiny.int8.onnx").touch()
    code = main(comparison(calibrated[0], tmp_path, small_set, "--budget-miou", "100", "--budget-alarm", "100"))
    assert code == 0
    said, progress = capsys.readouterr()
    assert "tiny.int8.onnx is of an earlier calibration" in progress

    def refuse(value: str) -> None:
        raise AssertionError(f"{value} is not JSON")

    last = json.loads(said.strip().splitlines()[-1], parse_constant=refuse)
    report = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert {key: value for key, value in report.items() if key != "alone"} == last
    assert [each["precision"] for each in report["rows"]] == ["fp32", "int8"]
    assert report["rows"][0]["agreement"] == 1.0
    assert report["rows"][1]["miou_error"] is None, "one item has no spread"
    assert all(each["p50_ms"] > 0 and each["num_items"] == 1 for each in report["rows"])
    assert "int8 is within the budget (1 items" in said
    assert read_calibration(tmp_path / "tiny.calibration.json").measured["verdict"] == "within"


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_leaves_the_old_set_and_no_litter(
    calibrated: tuple[Path, Path], small_set: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """When it comes while engines are built: all files are there, and the comparison is to come."""
    out, temporary = tmp_path / "out", tmp_path / "tmp"
    shutil.copytree(calibrated[1], out)
    temporary.mkdir()
    before = snapshot(out)
    words = [sys.executable, "-m", "calibrate", *comparison(calibrated[0], out, small_set)]
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "compiling" in line:
                assert list(out.glob(".calibrate-*/*.calibration.json"))
                assert list(temporary.iterdir())
                process.send_signal(number)
                break
        process.stderr.read()
        assert process.wait(60) == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert snapshot(out) == before
    assert list(temporary.iterdir()) == []


def write(out: Path, *names: str) -> None:
    with workplace(out) as work:
        for name in names:
            if not name:
                raise ModelError("half way")
            (work / name).write_text("new")


def test_a_failure_leaves_no_folder_behind(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        write(tmp_path / "new", "report.json", "")
    assert list(tmp_path.iterdir()) == []


def test_the_calibration_is_the_last_file_to_change(tmp_path: Path) -> None:
    """A folder stands where a file is to go: what cannot be replaced is met before the calibration changes."""
    (tmp_path / "windows.json").mkdir()
    (tmp_path / "a.calibration.json").write_text("old")
    with pytest.raises(DiskError, match=r"windows\.json"):
        write(tmp_path, "a.calibration.json", "windows.json")
    assert {path.name for path in tmp_path.iterdir()} == {"windows.json", "a.calibration.json"}
    assert (tmp_path / "a.calibration.json").read_text() == "old"


FULL = """
import resource, sys
from pathlib import Path
import torch
import rt_avsac.quantize
from rt_avsac.errors import DiskError
from rt_avsac.export import write_pt2
program = torch.export.load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    write_pt2(program, Path(sys.argv[2]))
except DiskError as error:
    sys.exit(f"{error.exit_code}: {error}")
"""


def test_a_disk_that_fills_up_while_the_graph_is_written(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    """In a process that may write no more than 64 KB a file; torch's own writer would abort it."""
    words = [sys.executable, "-c", FULL, str(calibrated[1] / "tiny.int8.pt2"), str(tmp_path / "x.pt2")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr.strip().splitlines()[-1][:8]) == (1, "5: expor"), ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--num 0", "at least 1"),
        ("--probes 0", "at least 1"),
        ("--eval-num 0", "at least 1"),
        ("--threads 0", "at least 1"),
        ("--threads -3", "at least 1"),
        ("--threads 9999999999", "at most 1024"),
        ("--seed -1", "at least 0"),
        ("--budget-miou nan", "at least 0"),
        ("--budget-miou -1", "at least 0"),
        ("--budget-alarm inf", "at most 100"),
        ("--kind bogus", "choose from composed"),
        ("--precisions fp64", "choose from fp32"),
        ("--eval-data /nonexist", "/nonexist"),
        ("--eval-split nosuch", "nosuch"),
        ("--data no-such-data", "no-such-data"),
        ("--split nosuch", "nosuch"),
    ],
)
def test_bad_options_are_found_before_the_work(
    words: str,
    part: str,
    calibrated: tuple[Path, Path],
    small_set: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert main([str(calibrated[0]), "--data", str(small_set), "--out", str(out), *words.split()]) == 2
    said = capsys.readouterr().err.splitlines()
    assert part in said[-1]
    assert not any("masks agree" in line for line in said)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "part", "code"),
    [
        (["no-such", "--data", "x", "--out", "y"], "no-such", 2),
        (["--data", "x"], "CHECKPOINT", 2),
        (["{model}", "--data", "{data}", "--out", ""], "--out is missing", 2),
        (["{model}", "--data", "{data}", "--out", "{model}/x"], "cannot be made", 5),
    ],
)
def test_bad_words(
    words: list[str],
    part: str,
    code: int,
    calibrated: tuple[Path, Path],
    small_set: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"{model}": str(calibrated[0]), "{data}": str(small_set), "{out}": str(tmp_path)}
    filled = [word.replace("{model}/", places["{model}"] + "/") for word in words]
    assert main([places.get(word, word) for word in filled]) == code
    assert part in capsys.readouterr().err
