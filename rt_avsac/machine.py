"""What a measurement was made on: processor, versions, commit, load, memory and, where it can be read, power."""

from __future__ import annotations

import glob
import os
import platform
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "openvino", "torch", "torch-tensorrt", "tensorrt", "opencv-python-headless", "pyzmq", "av")
RAPL = "/sys/class/powercap/intel-rapl:*/"
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
        "utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "load_average": round(os.getloadavg()[0], 2),
    }


def name(about: dict[str, Any]) -> str:
    """What `describe` says of it, in words."""
    return f"{' '.join(filter(None, (about['cpu'].strip(), about['gpu'])))}, {about['cpus']} cores"


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


class OthersMeter:
    """How many cores other programs use, from now on: a latency measured beside them is not ours alone."""

    def __init__(self) -> None:
        self._began = _cpu_seconds()

    def cpus(self) -> float | None:
        """None where the system does not tell."""
        began, now = self._began, _cpu_seconds()
        if began is None or now is None or now[0] <= began[0]:
            return None
        return round(max(0.0, (now[1] - began[1]) / (now[0] - began[0])), 2)


def _cpu_seconds() -> tuple[float, float] | None:
    """(clock, processor time of all others since boot, other virtual machines' too), of Linux."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, irq, softirq, steal, *_ = map(int, file.readline().split()[1:])
    except (OSError, ValueError):
        return None
    own = sum(os.times()[:4])
    return time.monotonic(), (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - own


class PowerMeter:
    """Mean watts from `start` on: Intel's and AMD's packages count their energy; a Jetson's rails and an NVIDIA GPU
    tell only the power of the moment, so of them it is the mean of all times that `look` was called."""

    _began_s = 0.0

    def start(self) -> PowerMeter:
        self._began_s, self._energy_uj = time.monotonic(), _rapl_uj()
        self._looks: dict[str, list[float]] = {}
        return self

    def look(self) -> None:
        """The first one starts it."""
        if not self._began_s:
            self.start()
        for name, watts in (_jetson_watts() | _nvml_watts()).items():
            self._looks.setdefault(name, []).append(watts)

    def watts(self) -> dict[str, float]:
        """What is measured → watts; empty where nothing tells."""
        if not self._looks:
            self.look()
        found = {name: round(sum(looks) / len(looks), 3) for name, looks in self._looks.items()}
        seconds = time.monotonic() - self._began_s
        energy = _rapl_uj()
        if energy is not None and self._energy_uj is not None and energy > self._energy_uj and seconds > 0:
            found["cpu_package"] = round((energy - self._energy_uj) / 1e6 / seconds, 2)
        return found


def _rapl_uj() -> int | None:
    """Of all packages; their parts (core, dram) are in them."""
    try:
        folders = [Path(folder) for folder in glob.glob(RAPL)]
        packages = [folder for folder in folders if (folder / "name").read_text().startswith("package")]
        return sum(int((folder / "energy_uj").read_text()) for folder in packages) if packages else None
    except (OSError, ValueError):  # absent, or readable by root alone
        return None


def _jetson_watts() -> dict[str, float]:
    """What tegrastats prints, from the same files: volts x amperes of each rail, at this moment."""
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
        try:
            handle = _visible_gpu(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
            return {"gpu": round(pynvml.nvmlDeviceGetPowerUsage(handle) / 1000, 2)}
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # not installed, no driver, or a GPU that does not tell
        return {}


def _visible_gpu(nvml: Any, visible: str) -> Any:
    """The first that CUDA sees: CUDA_VISIBLE_DEVICES names an index or a UUID, perhaps only its beginning.

    NVML counts by PCI bus, CUDA by speed unless CUDA_DEVICE_ORDER says otherwise: of unlike GPUs name a UUID.
    """
    first = visible.split(",")[0].strip()
    if not first.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByIndex(int(first or 0))
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    for handle in handles:
        uuid = nvml.nvmlDeviceGetUUID(handle)
        if (uuid.decode() if isinstance(uuid, bytes) else uuid).startswith(first):
            return handle
    raise LookupError(first)  # a MIG slice: it does not tell its power
