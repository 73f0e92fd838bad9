"""The wheel: holds rt_avsac only, with its data; its base needs numpy and pyzmq; extras cover what is imported."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from rt_avsac.config import read_file

ROOT = Path(__file__).parent.parent
PROJECT = read_file(ROOT / "pyproject.toml")["project"]
MODULE_OF = {"opencv-python-headless": "cv2", "pyzmq": "zmq", "pillow": "PIL", "cuda-bindings": "cuda"}
MODULE_OF |= {"tensorrt-rtx": "tensorrt_rtx", "nvidia-modelopt": "modelopt"}
OTHERS = {"gi", "rclpy", "builtin_interfaces", "sensor_msgs", "std_msgs", "vision_msgs"}  # of the system, or of ROS
OPTIONAL = {"pynvml", "torch_tensorrt"}  # used where it happens to be installed (the latter by tests/run.sh)
COMES_ALONG = {"tensorrt": "torch-tensorrt", "onnx_ir": "onnxscript"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the tree."""
    copy = tmp_path_factory.mktemp("tree")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.split("\n"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(copy),
    ]
    subprocess.run(command, check=True)
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_holds_the_package_and_its_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"rt_avsac"}
    held = {name for name in names if name.startswith("rt_avsac/")}
    tracked = subprocess.run(
        ["git", "ls-files", "rt_avsac"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert held == set(tracked.split())


def test_the_base_is_numpy_and_pyzmq(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith("METADATA"))
        text = file.read(name).decode()
    needed = [
        line.split()[1] for line in text.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert sorted(item.partition(">")[0] for item in needed) == ["numpy", "pyzmq"]


def test_a_robot_with_numpy_and_pyzmq_alone_runs_the_client(wheel: Path, tmp_path: Path) -> None:
    import numpy
    import zmq

    for package in (numpy, zmq):
        site = Path(package.__file__).parent.parent
        for name in (package.__name__, "numpy.libs", "pyzmq.libs"):
            if (site / name).exists() and not (tmp_path / name).exists():
                (tmp_path / name).symlink_to(site / name)
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from rt_avsac.client import MaskSubscriber, StaleError\n"
        "with MaskSubscriber('tcp://127.0.0.1:9') as masks:\n"
        "    try: masks.latest(10)\n"
        "    except StaleError as error: print(error)\n"
        "from rt_avsac import cli\n"
        "print(cli.main(['live', '--camera', 'demo', '--bind', 'tcp://127.0.0.1:0']))"
    )
    # -I -S: neither this environment's packages nor the current folder
    found = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "127.0.0.1:9" in found.stdout
    assert found.stdout.endswith("2\n")
    assert "pip install 'rt-avsac[app]'" in found.stderr


def names(extra: str | None) -> set[str]:
    """Distributions of an extra (None: the base), with those of the extras it names."""
    items = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    found: set[str] = set()
    for item in items:
        name = item.partition(";")[0].strip()
        if name.startswith("rt-avsac["):
            found |= names(name.removeprefix("rt-avsac[").rstrip("]"))
        else:
            found.add(re.split("[<>=!]", name)[0])
    return found


@pytest.mark.parametrize(
    ("folder", "extras"),
    [
        ("rt_avsac", ("app", "train", "tensorrt")),
        ("train", ("train",)),
        ("calibrate", ("modelopt",)),
        ("tests", ("test",)),
        ("benchmarks", ("test",)),
        ("tools", ("test",)),
        ("examples", ()),
    ],
)
def test_what_is_imported_is_in_an_extra(folder: str, extras: tuple[str, ...]) -> None:
    known = set().union(names(None), *(names(extra) for extra in extras))
    modules = (
        {MODULE_OF.get(name, name.replace("-", "_")) for name in known}
        | set(sys.stdlib_module_names)
        | {"tomllib"}  # of the standard library from 3.11 on
        | OTHERS
        | OPTIONAL
    )
    modules |= {module for module, name in COMES_ALONG.items() if name in known}
    modules |= {"rt_avsac", "train", "calibrate", "tests", "benchmarks"} | {
        path.stem for path in (ROOT / folder).glob("*.py")
    }
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found = [node.module]
            for name in found:
                assert name.partition(".")[0] in modules, f"{path}: {name}"


def test_the_script_is_installed() -> None:
    scripts = metadata.entry_points(group="console_scripts")
    assert PROJECT["scripts"] == {"rt-avsac": "rt_avsac.cli:program"}
    for script in scripts:
        if script.name == "rt-avsac":
            assert script.value == "rt_avsac.cli:program"
