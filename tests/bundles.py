"""A small bundle, its manifest and its machine, for tests of both; no engine runs."""

from __future__ import annotations

from pathlib import Path

from rt_avsac import bundle
from rt_avsac.bundle import Machine, Manifest

HERE = Machine({"engine": "1.2"}, "chip A", "driver 5")


MANIFEST = Manifest(
    name="tiny",
    checkpoint_sha256="c" * 64,
    backend="openvino",
    precision="fp32",
    image_size=64,
    num_audio_samples=15_600,
    classes=["background", "dog"],
    num_outputs=3,
    runtime=HERE.runtime,
    device=HERE.device,
    driver=HERE.driver,
    rt_avsac="0.1.0",
)


def make(out: Path, content: bytes = b"engine") -> Path:
    with bundle.building(out) as folder:
        (folder / "engine.xml").write_bytes(b"graph")
        (folder / "engine.bin").write_bytes(content)
        bundle.write_manifest(folder, MANIFEST)
    return out


def verify(out: Path, here: Machine = HERE) -> None:
    bundle.verify(out, bundle.read(out), lambda: here)


def make_half(out: Path, error: BaseException) -> None:
    with bundle.building(out) as folder:
        (folder / "engine.bin").write_bytes(b"half")
        raise error
