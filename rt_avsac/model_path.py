"""Where a model lies: the shipped ones by name, others by path."""

from __future__ import annotations

from pathlib import Path

from rt_avsac.errors import ModelError

FOLDER = Path(__file__).parent / "weights"
SUFFIX = ".safetensors"
MANIFEST = "manifest.json"


def shipped() -> list[str]:
    """Names of the models inside the package."""
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))


def find(name: str) -> Path:
    """A shipped model's name, a checkpoint (.safetensors) or an engine bundle (folder) → its path; ModelError else."""
    if name in shipped():
        return FOLDER / f"{name}{SUFFIX}"
    path = Path(name)
    try:
        path = path.expanduser()
        path.stat()
    except (OSError, RuntimeError, ValueError) as error:  # also too long, or the home of nobody
        why = "no such file, folder or shipped model" if isinstance(error, FileNotFoundError) else str(error)
        raise ModelError(f"model {name}: {why} (shipped: {', '.join(shipped()) or 'none'})") from None
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return path
        raise ModelError(f"model {name}: a folder without {MANIFEST} is no engine bundle; make one: rt-avsac compile")
    if path.is_file():
        if path.suffix == SUFFIX:
            return path
        raise ModelError(
            f"model {name}: asked a {SUFFIX} checkpoint or a bundle folder, got a {path.suffix or 'bare'} file"
        )
    raise ModelError(f"model {name}: asked a {SUFFIX} checkpoint or a bundle folder, got neither a file nor a folder")
