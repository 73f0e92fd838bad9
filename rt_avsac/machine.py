"""What a measurement was made on: processor, versions, commit, load, memory and, where it can be read, power."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "openvino", "torch", "torch-tensorrt", "tensorrt", "opencv-python-headless", "pyzmq", "av")
RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
JETSON_RAILS = "/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/"


def describe() -> dict[str, Any]:
    """Plain values for the JSON line."""
    import rt_avsac

    return {
        "rt_avsac": rt_avsac.__version__,
        "commit": commit(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "gpu": gpu_name(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Of the checkout this runs from, "+" for changes on top; "" for an installed package."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return ""
    try:
        words = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12"]
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor()


def gpu_name() -> str:
    """Of NVIDIA's driver; "" without one. Imports no torch."""
    try:
        words = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def memory_mb() -> dict[str, float]:
    """Resident now and at most, of this process; on the GPU too where torch is loaded."""
    import sys

    found = {}
    try:
        status = Path("/proc/self/status").read_text("utf-8")
    except OSError:
        status = ""
    for line in status.splitlines():
        key, _, value = line.partition(":")
        if key in ("VmRSS", "VmHWM"):
            found["resident" if key == "VmRSS" else "peak"] = round(int(value.split()[0]) / 1024, 1)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu_peak"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return found


class PowerMeter:
    """Mean watts between `start` and `watts`: Intel/AMD package energy, a Jetson's rails, or NVML; None else."""

    def start(self) -> PowerMeter:
        import time

        self._began_s, self._energy_uj = time.monotonic(), _rapl_uj()
        return self

    def watts(self) -> dict[str, float]:
        import time

        found = {}
        seconds = time.monotonic() - self._began_s
        energy = _rapl_uj()
        if energy is not None and self._energy_uj is not None and energy > self._energy_uj and seconds > 0:
            found["cpu_package"] = round((energy - self._energy_uj) / 1e6 / seconds, 2)
        return found | _jetson_watts() | _nvml_watts()


def _rapl_uj() -> int | None:
    try:
        return int(RAPL.read_text())
    except (OSError, ValueError):  # absent, or readable by root alone
        return None


def _jetson_watts() -> dict[str, float]:
    """What tegrastats prints, from the same files: volts x amperes of each rail, at this moment."""
    import glob

    found = {}
    for folder in glob.glob(JETSON_RAILS):
        for channel in (1, 2, 3):
            try:
                label = Path(folder, f"in{channel}_label").read_text().strip()
                milliwatts = int(Path(folder, f"in{channel}_input").read_text()) * int(
                    Path(folder, f"curr{channel}_input").read_text()
                )
                found[label] = round(milliwatts / 1e6, 3)
            except (OSError, ValueError):
                continue
    return found


def _nvml_watts() -> dict[str, float]:
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        return {"gpu": round(pynvml.nvmlDeviceGetPowerUsage(handle) / 1000, 2)}
    except Exception:  # not installed, no driver, or a GPU that does not tell
        return {}
