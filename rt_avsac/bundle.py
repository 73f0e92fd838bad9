"""Engine bundles: engine files and manifest.json in a folder, whole or not at all, refused where they do not fit."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rt_avsac import swap
from rt_avsac.engines import BACKENDS, PRECISIONS
from rt_avsac.errors import DiskError, ModelError

FORMAT = 2
MANIFEST = "manifest.json"
DIGEST = "manifest_sha256"  # in the manifest: of everything else in it
HEX = re.compile("[0-9a-f]{64}")
CHOICES = {"backend": BACKENDS, "precision": PRECISIONS}
LIMITS = {"image_size": 8192, "num_audio_samples": 1 << 20, "num_outputs": 3}
ENGINE_FILES = {
    "openvino": {"engine.xml", "engine.bin"},
    "torch": {"model.safetensors"},
    "cuda": {"engine.pt2"},
    "tensorrt": {"engine.plan"},
}
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


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
    """The manifest of a bundle; ModelError when there is none, it was changed, or it says what no builder writes."""
    path = Path(folder) / MANIFEST
    try:
        table = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if not Path(folder).is_dir():
            raise ModelError(f"bundle {folder}: no such folder; make one with `rt-avsac compile`") from None
        raise ModelError(f"bundle {folder}: no {MANIFEST} inside; make one with `rt-avsac compile`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"bundle {folder}: {MANIFEST} cannot be read: {error}; compile it again") from None
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        got = table.get("format") if isinstance(table, dict) else type(table).__name__
        raise ModelError(f"bundle {folder}: asked manifest format {FORMAT}, got {got!r}; compile it again")
    if table.pop(DIGEST, None) != digest_of(table):
        raise ModelError(f"bundle {folder}: {MANIFEST} was changed after the bundle was built; compile it again")
    for item in dataclasses.fields(Manifest):
        if not is_usable(item.name, str(item.type), table.get(item.name)):
            raise ModelError(f"bundle {folder}: {MANIFEST} has no usable {item.name!r}; compile it again")
    manifest = Manifest(**{item.name: table[item.name] for item in dataclasses.fields(Manifest)})
    if missing := sorted(ENGINE_FILES[manifest.backend] - set(manifest.files)):
        raise ModelError(f"bundle {folder}: {MANIFEST} lists no {missing[0]}; compile it again")
    return manifest


def digest_of(table: dict[str, Any]) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def is_usable(name: str, kind: str, value: Any) -> bool:
    """`value`, read from JSON, is what the field `name` of type `kind` can be."""
    if name == "files":
        return is_listing(value)
    if kind == "int":
        return type(value) is int and 1 <= value <= LIMITS.get(name, value)
    if kind == "str":
        known = HEX.fullmatch(str(value)) if name.endswith("sha256") else value in CHOICES.get(name, (value,))
        return isinstance(value, str) and bool(known)
    if kind == "list[str]":
        return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
    if not isinstance(value, dict):
        return False
    if kind == "dict[str, float]":
        return all(type(item) in (int, float) and math.isfinite(item) for item in value.values())
    return kind != "dict[str, str]" or all(isinstance(item, str) for item in value.values())


def is_listing(files: Any) -> bool:
    """Names of files in the bundle's own folder, each with its sha256."""
    return isinstance(files, dict) and all(
        name not in ("", "..", MANIFEST) and Path(name).name == name and HEX.fullmatch(str(digest))
        for name, digest in files.items()
    )


def verify(folder: Path, manifest: Manifest, machine: Callable[[], Machine]) -> None:
    """Holds a bundle to its files and to this machine; ModelError names what differs and the way out."""
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(f"bundle {folder}: {name} is missing; {way_out(folder, manifest)}")
        if sha256(path) != digest:
            raise ModelError(
                f"bundle {folder}: {name} is not the file that was built (truncated or changed); "
                f"{way_out(folder, manifest)}"
            )
    here = machine()
    for key, version in manifest.runtime.items():
        if here.runtime.get(key) != version:
            found = f"here is {here.runtime[key]}" if key in here.runtime else "which is not here"
            raise ModelError(f"bundle {folder}: built for {key} {version}, {found}; {way_out(folder, manifest)}")
    for what, built, found in (("device", manifest.device, here.device), ("driver", manifest.driver, here.driver)):
        if built and built != found:
            raise ModelError(
                f"bundle {folder}: built for {what} {built}, here is {found or 'none'}; {way_out(folder, manifest)}"
            )


def way_out(folder: Path, manifest: Manifest) -> str:
    """The command that builds this bundle again; the checkpoint by name only if that is the one it was built from."""
    from rt_avsac.model_path import FOLDER, SUFFIX, shipped

    known = manifest.name in shipped() and sha256(FOLDER / f"{manifest.name}{SUFFIX}") == manifest.checkpoint_sha256
    words = [manifest.name] if known else ["CHECKPOINT.safetensors"]
    words += ["--backend", manifest.backend, "--precision", manifest.precision, "--out", str(folder)]
    whose = "" if known else f" with the checkpoint whose sha256 begins with {manifest.checkpoint_sha256[:12]}"
    return f"run rt-avsac compile {shlex.join(words)}{whose}"


@contextmanager
def building(out: str | Path, ours: bool = False) -> Iterator[Path]:
    """A folder to build in, which becomes `out` when the block ends well; else it vanishes, `out` stays.

    `ours`: whatever is there may go.
    """
    out = place(out, ours)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        swap.sweep(out, lambda left: (left / MANIFEST).is_file())
    except OSError as error:
        raise DiskError(f"bundle {out}: cannot be made: {error.strerror}") from None
    inside = False
    try:
        with swap.workplace(out) as work:
            inside = True
            yield work
            inside = False
            if not (work / MANIFEST).is_file():
                raise AssertionError("a bundle is finished with write_manifest")
            place(out, ours)  # it may have been filled meanwhile
            swap.replace(work, out)
    except OSError as error:
        if (
            inside
            and error.errno not in DISK_ERRORS
            and not str(error.filename2 or error.filename).startswith(str(work))
        ):
            raise  # of what the builder reads or starts
        raise DiskError(f"bundle {out}: cannot be written: {error.strerror or error}") from None


def place(out: str | Path, ours: bool = False) -> Path:
    """`out` without links, once it is sure that a bundle may be put there: nothing, an empty folder, or a bundle."""
    try:
        out = Path(out).resolve()
        if os.path.ismount(out):
            raise ModelError(f"bundle {out}: is a mount point, which cannot be replaced; choose a folder inside it")
        while out.exists():
            with suppress(FileNotFoundError):  # another process has put its bundle there just now: look again
                seen, names = out.stat(), set(os.listdir(out))
                others = set() if ours else names - files_of(out)
                if not others:
                    break
                if (out.stat().st_ino, out.stat().st_ctime_ns) == (seen.st_ino, seen.st_ctime_ns):
                    what = "exists and is no bundle" if others == names else f"{min(others)} in it is not the bundle's"
                    raise ModelError(f"bundle {out}: {what}, so it is not overwritten; choose another --out")
    except NotADirectoryError:
        raise ModelError(f"bundle {out}: is a file, so it is not overwritten; choose another --out") from None
    except (OSError, RuntimeError) as error:  # too long, not ours to look into, links in a circle
        raise DiskError(f"bundle {out}: cannot be made: {getattr(error, 'strerror', error)}") from None
    return out


def files_of(folder: Path) -> set[str]:
    """A manifest of ours, of this format or another, and what it lists; nothing where it is somebody else's."""
    try:
        table = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return set()
    if not isinstance(table, dict) or not {"format", "files", "backend", "checkpoint_sha256"} <= set(table):
        return set()
    return {MANIFEST, *table["files"]} if table["files"] and is_listing(table["files"]) else set()


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Adds the checksums of all files in `folder`, and writes the manifest last."""
    files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != MANIFEST}
    manifest = dataclasses.replace(manifest, files=files)
    table = dataclasses.asdict(manifest)
    try:
        text = json.dumps(table | {DIGEST: digest_of(table)}, indent=1, allow_nan=False)
    except ValueError:
        raise ModelError(f"bundle of {manifest.name}: measured what is no finite number; check the weights") from None
    (folder / MANIFEST).write_text(text + "\n", "utf-8")
    return manifest


def main(args: argparse.Namespace) -> int:
    """`rt-avsac inspect BUNDLE`: the manifest as JSON; on stderr whether it fits this machine (exit code 1: no)."""
    from rt_avsac.engines import backend_module

    folder = Path(args.bundle)
    manifest = read(folder)
    print(json.dumps(dataclasses.asdict(manifest), indent=1), flush=True)
    try:
        verify(folder, manifest, backend_module(manifest.backend).machine)
    except ModelError as error:
        print(f"not usable here: {error}", file=sys.stderr)
        return 1
    print("fits this machine", file=sys.stderr)
    return 0
