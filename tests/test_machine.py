"""Machine: watts, memory, the commit, and the work of others."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from rt_avsac import machine


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


def test_power_from_the_energy_that_a_processor_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "name").write_text("package-0\n")
    counter = tmp_path / "intel-rapl:0" / "energy_uj"
    monkeypatch.setattr(machine, "RAPL", str(tmp_path / "intel-rapl:*/"))
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    meter = machine.PowerMeter().start()
    assert "cpu_package" not in meter.watts()
    counter.write_text("7000000\n")
    meter.start()
    counter.write_text("157000000\n")
    now_s = 110.0
    assert meter.watts()["cpu_package"] == 15.0
    counter.write_text("3\n")  # it began again at 0
    assert "cpu_package" not in meter.watts()


def test_power_of_a_jetsons_rails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millivolts and milliamperes; a channel that does not tell is left out."""
    folder = tmp_path / "hwmon3"
    folder.mkdir()
    for name, text in {
        "in1_label": "VDD_IN\n",
        "in1_input": "19000\n",
        "curr1_input": "500\n",
        "in2_label": "X",
    }.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(machine, "JETSON_RAILS", str(tmp_path / "hwmon*"))
    watts = machine.PowerMeter().start().watts()
    assert watts["VDD_IN"] == 9.5
    assert "X" not in watts


def test_memory_in_mb() -> None:
    """Resident as psutil sees it, and a peak of something that is gone."""
    gone = np.ones(64 << 17)  # 64 MB
    del gone
    found = machine.memory_mb()
    assert found["resident"] == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.01)
    assert found["peak"] > found["resident"] + 32


def test_the_commit_tells_of_changes_on_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(machine, "__file__", str(tmp_path / "rt_avsac" / "machine.py"))
    assert machine.commit() == ""
    (tmp_path / "a").write_text("1")
    git("init")
    git("add", "a")
    git("commit", "-m", "a")
    clean = machine.commit()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "a").write_text("2")
    assert machine.commit() == f"{clean}+"


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
