"""What compiling for an NVIDIA GPU needs and torch does not look for: CUDA's headers, the driver's library, compilers.

CUDA's toolkit is seldom there; its headers can be had as wheels beside torch's, and the driver comes with the GPU.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rt_avsac.errors import ModelError

# torch's wheels bring the first two, cuda-toolkit[cccl,crt] the others
HEADERS = ("include/cuda.h", "include/cuda_runtime_api.h", "include/crt/host_defines.h", "include/nv/target")
TOOLKITS = Path("/usr/local")
DRIVER = "libcuda.so"
MAPS = Path("/proc/self/maps")


@contextmanager
def toolchain() -> Iterator[None]:
    """Inside, torch compiles and links for CUDA; its driver must be in use already. ModelError says what is missing."""
    check_compilers()
    from torch.utils import cpp_extension

    with tempfile.TemporaryDirectory(prefix="rt-avsac-") as folder:
        if driver := loaded_driver():
            (Path(folder) / DRIVER).symlink_to(driver)  # drivers bring libcuda.so.1 alone, linkers look for libcuda.so
        before = cpp_extension.CUDA_HOME, os.environ.get("LIBRARY_PATH")
        cpp_extension.CUDA_HOME = str(cuda_home())
        os.environ["LIBRARY_PATH"] = os.pathsep.join(filter(None, (folder, before[1])))
        try:
            yield
        finally:
            cpp_extension.CUDA_HOME = before[0]
            if before[1] is None:
                del os.environ["LIBRARY_PATH"]
            else:
                os.environ["LIBRARY_PATH"] = before[1]


def check_compilers() -> None:
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise ModelError(
            f"backend cuda: no C++ compiler: {compiler} is not there; apt-get install g++, or use --device cpu"
        )
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        raise ModelError(
            f"backend cuda: Triton needs {header}, it is not there; apt-get install python3-dev, or use --device cpu"
        )


def cuda_home() -> Path:
    """The first folder with all of CUDA's headers: the user's, toolkit or wheels of torch's version, others."""
    from torch.version import cuda

    major = (cuda or "13").split(".")[0]
    named = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")]
    toolkits = sorted(map(str, TOOLKITS.glob("cuda*")))
    fitting = [place for place in toolkits if Path(place).resolve().name.startswith(f"cuda-{major}.")]
    wheels = [f"{place}/cu{major}" for place in _places("nvidia")]
    for place in (*named, *fitting, *wheels, *toolkits):
        if place and all((Path(place) / header).is_file() for header in HEADERS):
            return Path(place)
    raise ModelError(
        "backend cuda: CUDA's headers are nowhere whole; pip install 'cuda-toolkit[cccl,crt]', set CUDA_HOME, or use "
        "--device cpu"
    )


def _places(package: str) -> list[str]:
    spec = importlib.util.find_spec(package)
    return list(spec.submodule_search_locations or []) if spec else []


def loaded_driver() -> str | None:
    """The file of the driver that this process has loaded, wherever that lies."""
    try:
        found = re.search(r"(/\S*libcuda\.so\S*)", MAPS.read_text("utf-8", "replace"))
    except OSError:
        return None
    return found.group(1) if found else None
