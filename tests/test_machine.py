"""Machine: power of the GPU that CUDA sees, and the work of others."""

from __future__ import annotations

import subprocess
import sys
import time

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
