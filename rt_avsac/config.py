"""Settings as dataclasses: the fields are the defaults and the documentation; files and key=value go on top."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from rt_avsac.errors import UserError

S = TypeVar("S")


@dataclass(frozen=True)
class LiveSettings:
    """Everything `rt-avsac live` can be told. Units are in the names."""

    camera: str = "0"  # index, /dev path, rtsp/http URL, file, or "demo"
    mic: str = "auto"  # "default", name, index, "same" (sound of the camera's file or stream), file, "none";
    # "auto" = "same" for a file, else "default"
    loop: bool = False  # start a file again at its end; the demo does so by itself until duration_s
    camera_width: int = 640  # asked of the camera, pixels
    camera_height: int = 480
    camera_fps: float = 30.0
    camera_latency_ms: float = 0.0  # light to capture stamp; measured by `rt-avsac sync-test`
    mic_latency_ms: float = 0.0  # sound to sample stamp; measured by `rt-avsac sync-test`
    max_frame_age_ms: float = 1000.0  # a camera without a frame for this long is frozen: reopen
    max_audio_age_ms: float = 1000.0  # a microphone without samples for this long is frozen: reopen
    max_audio_wait_ms: float = 50.0  # how long a frame waits for its audio before it goes out as "late"
    reopen_min_s: float = 0.5  # first pause before a lost source is opened again; doubles, with jitter
    reopen_max_s: float = 10.0
    # auto: what is lost is opened again, but a device or file that is not there at the start ends the run (exit 3);
    # reopen: also waits for a device that is not there yet; exit: any loss ends the run
    on_source_loss: Literal["auto", "reopen", "exit"] = "auto"
    source: str = "cam0"  # name in the topics: rtavsac/v1/<source>/masks/
    bind: str = "tcp://127.0.0.1:5555"
    server_key: str = ""  # CURVE secret key file of `rt-avsac keygen`; "" = no encryption
    allowed_clients: str = ""  # folder or file of allowed client public keys
    preview: bool = False  # also publish JPEG previews on …/preview/
    model: str = "avsac-edge"  # shipped model's name, checkpoint (.safetensors) or engine bundle (folder)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backend: Literal["auto", "openvino", "torch", "cuda", "tensorrt"] = "auto"
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8"] = "auto"
    num_threads: int = 1  # inference threads on the CPU; one leaves a core to capture on a two-core machine
    threshold: float = 0.5  # probability from which a pixel sounds
    min_area_px: int = 64  # smaller regions (network resolution) are not objects
    silence_dbfs: float = -60.0  # below this RMS the microphone hears nothing
    realtime: bool = True  # False: a file as fast as it goes, every frame, deterministic
    duration_s: float = 0.0  # 0 = until stopped or the file ends
    record: str = ""  # folder to record into
    # a recording or video that cannot be written on: the masks go on and the run ends with exit code 5, or it ends now
    on_disk_full: Literal["continue", "exit"] = "continue"
    annotate: str = ""  # video file (.mp4) of the pictures with the masks drawn in
    log_json: bool = False


def parse_value(text: str, kind: Any, key: str) -> Any:
    """`text` as a value of the annotated type `kind`; UserError names the key."""
    origin = typing.get_origin(kind)
    try:
        if origin is Literal:
            choices = typing.get_args(kind)
            for choice in choices:
                if str(choice) == text:
                    return choice
            raise ValueError(f"one of {', '.join(map(str, choices))}")
        if kind is bool:
            lowered = text.lower()
            if lowered in ("true", "1", "yes", "on"):
                return True
            if lowered in ("false", "0", "no", "off"):
                return False
            raise ValueError("true or false")
        if origin is tuple:
            (element, *_) = typing.get_args(kind)
            return tuple(parse_value(part.strip(), element, key) for part in text.split(",") if part.strip())
        if kind in (int, float, str):
            return kind(text)
    except ValueError as error:
        wanted = str(error) if origin is Literal or kind is bool else getattr(kind, "__name__", str(kind))
        raise UserError(f"setting {key}: asked {text!r}, which is not {wanted}") from None
    raise TypeError(f"setting {key} has a type that cannot be given as text: {kind}")


def unknown_key(key: str, known: list[str], where: str) -> UserError:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
    return UserError(f"{where}: unknown setting {key!r}; {hint}")


def _checked(value: Any, kind: Any, key: str) -> Any:
    """A value from a settings file, held to the annotated type."""
    if isinstance(value, str):
        return parse_value(value, kind, key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        (element, *_) = typing.get_args(kind)
        return tuple(_checked(item, element, key) for item in value)
    if kind in (int, float, bool) and type(value) is kind:
        return value
    raise UserError(f"setting {key}: asked {value!r}, which is not {getattr(kind, '__name__', kind)}")


def override(settings: S, changes: dict[str, Any], where: str) -> S:
    """`settings` with `changes` (text or plain values) on top; an unknown key is an error with a suggestion."""
    kinds = typing.get_type_hints(type(settings))
    for key in changes:
        if key not in kinds:
            raise unknown_key(key, list(kinds), where)
    parsed = {key: _checked(value, kinds[key], key) for key, value in changes.items()}
    return dataclasses.replace(settings, **parsed)  # type: ignore[type-var]


def read_file(path: str | Path) -> dict[str, Any]:
    """The flat table of a TOML settings file."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UserError(f"config {path}: cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"config {path}: not TOML: {error}") from None


def split_assignments(pairs: list[str]) -> dict[str, str]:
    """["a=1", …] as a dict; UserError for one without '='."""
    changes = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise UserError(f"setting {pair!r}: asked without '='; write key=value")
        changes[key.strip()] = value
    return changes
