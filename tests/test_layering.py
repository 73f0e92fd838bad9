"""Who may load whom: every module imported in a fresh process, and every import statement read."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rt_avsac"
ENGINES = {"torch", "openvino", "tensorrt", "torch_tensorrt", "cuda"}
SENSORS = {"cv2", "sounddevice", "soxr", "av"}
OURS = {"train", "calibrate"}
ALL = ENGINES | SENSORS | OURS | {"zmq", "safetensors", "matplotlib", "scipy"}
BASE = {"numpy", "zmq"}  # what a robot that only subscribes has

# module (a folder counts for all in it): what it may load of ALL when it is imported
LOADS: dict[str, set[str]] = {
    "publish": {"zmq"},
    "client": {"zmq"},
    "address": {"zmq"},
    "keys": {"zmq"},
    "pipeline": {"zmq"},
    "pulse": {"zmq"},
    "replay": set(),
    "sinks": {"zmq"},
    "view": {"zmq"},
    "page_server": {"zmq"},
    "screen": {"zmq"},
    "window": {"zmq"},
    "prometheus": {"zmq"},
    "bench": {"zmq"},
    "bench_load": {"zmq"},
}
# these load torch, which brings what it likes; seen together in one process, because each alone takes seconds
TORCH = {"model", "build", "convert", "quantize", "probe", "export", "half"}
# what these never load, also not inside a function
NEVER: dict[str, set[str]] = {
    "": OURS,
    "model": {"cv2", "zmq", "sounddevice", "av"},
    "engines": {"cv2", "zmq", "sounddevice", "av"},
    "compile": {"cv2", "zmq", "sounddevice", "av"},
    "infer": {"cv2", "zmq", "sounddevice", "av"},
    "sync": ALL,
    "flow": ALL,
    "messages": ALL,
    "header": ALL,
    "mask_bytes": ALL,
    "clock": ALL,
    "client": ALL - {"zmq"},
    "publish": ALL - {"zmq"},
    "address": ALL - {"zmq"},
    "keys": ALL - {"zmq"},
    "camera": ENGINES | {"zmq"},
    "microphone": ENGINES | {"zmq"},
    "media": ENGINES | {"zmq"},
    "sources": ENGINES | {"zmq"},
}
WIRE = ("client", "messages", "header", "mask_bytes", "clock", "address", "keys", "errors")


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def name_of(path: Path) -> str:
    """ "engines.torch" for rt_avsac/engines/torch.py, "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """First names of everything imported anywhere in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def is_torch(path: Path) -> bool:
    return name_of(path).partition(".")[0] in TORCH


@pytest.mark.parametrize("path", [path for path in files(PACKAGE) if not is_torch(path)], ids=name_of)
def test_importing_a_module_loads_only_its_layer(path: Path) -> None:
    name = name_of(path)
    if name.endswith("__main__"):
        return
    module = f"rt_avsac.{name}".rstrip(".")
    code = f"import sys, threading, {module}; print(threading.active_count(), *sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out[0] == "1", f"{module} starts a thread when it is imported"
    assert not (set(out) & ALL) - LOADS.get(name, LOADS.get(name.partition(".")[0], set())), module


def test_importing_the_network_loads_no_sensor_and_no_socket() -> None:
    names = [name_of(path) for path in files(PACKAGE) if is_torch(path)]
    forbidden = {name: sorted(NEVER.get(name.partition(".")[0], set()) | OURS) for name in names}
    code = f"""
import importlib, sys
for name, forbidden in {forbidden}.items():
    importlib.import_module("rt_avsac." + name)
    print(*[name + ":" + module for module in forbidden if module in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out == []


@pytest.mark.parametrize("path", files(PACKAGE), ids=name_of)
def test_no_function_reaches_past_its_layer(path: Path) -> None:
    name = name_of(path)
    for layer in ("", name.partition(".")[0], name):
        assert not imports(path) & NEVER.get(layer, set())


def test_training_never_needs_calibration() -> None:
    assert files(ROOT / "train")
    for path in files(ROOT / "train"):
        assert "calibrate" not in imports(path), path


def test_the_robots_side_needs_numpy_and_pyzmq_only() -> None:
    ours = {name_of(path): path for path in files(PACKAGE)}
    seen: set[str] = set()
    todo = list(WIRE)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        outside = imports(ours[name]) - set(sys.stdlib_module_names) - {"rt_avsac"}
        assert outside <= BASE, name
        for node in ast.walk(ast.parse(ours[name].read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rt_avsac"):
                module = (node.module or "").removeprefix("rt_avsac").lstrip(".")
                todo += [module] if module else [alias.name for alias in node.names if alias.name in ours]


def test_no_file_is_long() -> None:
    for folder in ("rt_avsac", "train", "calibrate"):
        for path in files(ROOT / folder):
            assert len(path.read_text("utf-8").splitlines()) <= 400, path
