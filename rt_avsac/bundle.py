"""Engine bundles: engine files and manifest.json in a folder, whole or not at all, refused where they do not fit."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rt_avsac.errors import DiskError, ModelError

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Machine:
    """What an engine was built for: runtime versions, device with its abilities, driver; "" = any will do."""

    runtime: dict[str, str]
    device: str
    driver: str


@dataclass(frozen=True)
class Manifest:
    """Everything known of a bundle; plain values, so that it can be read without any runtime."""

    name: str  # of the model
    checkpoint_sha256: str
    backend: str
    precision: str  # what the engine computes in; never "auto"
    image_size: int
    num_audio_samples: int
    classes: list[str]
    num_outputs: int
    runtime: dict[str, str]
    device: str
    driver: str
    rt_avsac: str  # version that built it
    files: dict[str, str] = field(default_factory=dict)  # name → sha256
    options: dict[str, str] = field(default_factory=dict)  # what the backend must be told when it loads the engine
    deviation: dict[str, float] = field(default_factory=dict)  # from torch fp32 on probe windows, measured when built
    measured_ms: dict[str, float] = field(default_factory=dict)  # candidates that were timed to choose among them
    calibration: dict[str, Any] = field(default_factory=dict)
    weights_licence: str = "not stated"
    format: int = FORMAT


def sha256(path: Path) -> str:
    import hashlib

    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read(folder: str | Path) -> Manifest:
    """The manifest of a bundle; ModelError when there is none, or none of this format."""
    path = Path(folder) / MANIFEST
    try:
        table = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"bundle {folder}: no {MANIFEST} inside; make one with `rt-avsac compile`") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"bundle {folder}: {MANIFEST} cannot be read: {error}; compile it again") from None
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        got = table.get("format") if isinstance(table, dict) else type(table).__name__
        raise ModelError(f"bundle {folder}: asked manifest format {FORMAT}, got {got!r}; compile it again")
    for item in dataclasses.fields(Manifest):
        kind = {"int": int, "str": str, "list[str]": list}.get(str(item.type), dict)
        if not isinstance(table.get(item.name), kind):
            raise ModelError(f"bundle {folder}: {MANIFEST} has no usable {item.name!r}; compile it again")
    return Manifest(**{item.name: table[item.name] for item in dataclasses.fields(Manifest)})


def verify(folder: Path, manifest: Manifest, machine: Callable[[], Machine]) -> None:
    """Holds a bundle to its files and to this machine; ModelError names what differs and the way out."""
    again = (
        f"rt-avsac compile {manifest.name} --backend {manifest.backend} --precision {manifest.precision} --out {folder}"
    )
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(f"bundle {folder}: {name} is missing; run {again}")
        if sha256(path) != digest:
            raise ModelError(
                f"bundle {folder}: {name} is not the file that was built (truncated or changed); run {again}"
            )
    here = machine()
    for key, version in manifest.runtime.items():
        if here.runtime.get(key) != version:
            raise ModelError(
                f"bundle {folder}: built for {key} {version}, here is {here.runtime.get(key, 'none')}; run {again}"
            )
    for what, built, found in (("device", manifest.device, here.device), ("driver", manifest.driver, here.driver)):
        if built and built != found:
            raise ModelError(f"bundle {folder}: built for {what} {built}, here is {found}; run {again}")


@contextmanager
def building(out: str | Path) -> Iterator[Path]:
    """A folder to build in, which becomes `out` when the block ends well; else it vanishes, `out` stays."""
    out = Path(out)
    if out.exists() and not (out / MANIFEST).is_file():
        raise ModelError(f"bundle {out}: exists and is no bundle, so it is not overwritten; choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise DiskError(f"bundle {out}: cannot be made: {error.strerror}") from None
    try:
        work.chmod(0o755)
        yield work
        if not (work / MANIFEST).is_file():
            raise AssertionError("a bundle is finished with write_manifest")
        _replace(work, out)
    except OSError as error:
        raise DiskError(f"bundle {out}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _replace(work: Path, out: Path) -> None:
    """Renames; an old bundle is moved aside first and back when that fails."""
    if not out.exists():
        os.rename(work, out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    os.rename(out, aside / "old")
    try:
        os.rename(work, out)
    except OSError:
        os.rename(aside / "old", out)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Adds the checksums of all files in `folder`, and writes the manifest last."""
    files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != MANIFEST}
    manifest = dataclasses.replace(manifest, files=files)
    (folder / MANIFEST).write_text(json.dumps(dataclasses.asdict(manifest), indent=1) + "\n", "utf-8")
    return manifest


def main(args: argparse.Namespace) -> int:
    """`rt-avsac inspect BUNDLE`: the manifest, and whether it fits this machine (exit code 1 when not)."""
    from rt_avsac.engines import backend_module

    folder = Path(args.bundle)
    manifest = read(folder)
    print(json.dumps(dataclasses.asdict(manifest), indent=1))
    try:
        verify(folder, manifest, backend_module(manifest.backend).machine)
    except ModelError as error:
        print(f"not usable here: {error}")
        return 1
    print("fits this machine")
    return 0
