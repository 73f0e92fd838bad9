"""One picture with several sounds through a checkpoint (the picture is seen once) or a compiled engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rt_avsac.config import LiveSettings
from rt_avsac.engines import Outputs, open_engine
from rt_avsac.errors import ModelError, UserError
from rt_avsac.model.settings import NUM_AUDIO_SAMPLES
from rt_avsac.model_path import find


@dataclass(frozen=True)
class About:
    """What is being judged. `num_parameters`: 0 where an engine does not say."""

    name: str
    path: str
    sha256: str
    backend: str
    precision: str
    classes: tuple[str, ...]
    image_size: int
    num_audio_samples: int
    num_parameters: int
    gates: tuple[dict[str, float], ...]  # |w| of each layer, by direction; empty where an engine does not say


class Predictor(Protocol):
    """Used from one thread; `close` frees it."""

    about: About

    def __call__(self, image: NDArray[np.uint8], audios: Sequence[NDArray[np.float32]]) -> list[Outputs]:
        """image uint8 [S, S, 3] RGB (S = about.image_size) and sounds float32 [n] → one Outputs a sound."""

    def close(self) -> None: ...


class TorchPredictor:
    """A checkpoint in torch: the picture's features are computed once for all its sounds. "auto" takes a GPU."""

    def __init__(self, path: Path, device: str) -> None:
        import torch

        from rt_avsac.model.checkpoint import load, sha256

        if device == "cuda" and not torch.cuda.is_available():
            raise ModelError("device cuda: torch sees no GPU; use --device cpu")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        net, header = load(path)
        self.net, self.device = net.to(device), device
        self.about = About(
            name=net.settings.name,
            path=str(path),
            sha256=sha256(path),
            backend=f"torch {device}",
            precision="fp32",
            classes=tuple(header["classes"]),
            image_size=net.settings.image_size,
            num_audio_samples=NUM_AUDIO_SAMPLES,
            num_parameters=sum(parameter.numel() for parameter in net.parameters()),
            gates=gates_of(net),
        )

    def __call__(self, image: NDArray[np.uint8], audios: Sequence[NDArray[np.float32]]) -> list[Outputs]:
        import torch
        from torch.nn import functional as F

        from train.forward import repeat

        if audios[0].ndim > 1 and self.net.settings.audio_encoder != "vggish":
            raise UserError(
                f"model {self.about.path}: the data has log-mel patches, which only a VGGish model hears; "
                "add the set's audio_wav folder"
            )
        size = image.shape[:2]
        with torch.inference_mode():
            seen = self.net.see(torch.from_numpy(image).to(self.device)[None].permute(0, 3, 1, 2).float())
            heard = self.net.hear(torch.from_numpy(np.stack(audios)).to(self.device))
            decoded = self.net.decode(repeat(seen, len(audios)), heard)
            logit = decoded.sounding_logit
            sounding = F.interpolate(logit, size=size, mode="bilinear").sigmoid()[:, 0].cpu().numpy()
            if decoded.semantic_logit is not None:
                semantic = decoded.semantic_logit.softmax(dim=1).cpu().numpy()
                return [Outputs(mask, classes, None) for mask, classes in zip(sounding, semantic, strict=True)]
            if seen.class_logit is None or heard.class_logit is None:
                return [Outputs(each, None, None) for each in sounding]
            of_class = F.interpolate(seen.class_logit, scale_factor=2.0, mode="bilinear").softmax(dim=1)[0]
            of_audio = heard.class_logit.sigmoid().cpu().numpy()
        shared = of_class.cpu().numpy()
        return [Outputs(mask, shared, classes) for mask, classes in zip(sounding, of_audio, strict=True)]

    def close(self) -> None:
        del self.net


class EnginePredictor:
    """A compiled bundle, one run a sound: what the robot runs, without the live pipeline's silence gate."""

    def __init__(self, path: Path, settings: LiveSettings) -> None:
        self.engine = open_engine(path, settings)
        manifest = self.engine.manifest
        self.about = About(
            name=manifest.name,
            path=str(path),
            sha256=manifest.checkpoint_sha256,
            backend=self.engine.backend,
            precision=self.engine.precision,
            classes=tuple(manifest.classes),
            image_size=manifest.image_size,
            num_audio_samples=manifest.num_audio_samples,
            num_parameters=0,
            gates=(),
        )

    def __call__(self, image: NDArray[np.uint8], audios: Sequence[NDArray[np.float32]]) -> list[Outputs]:
        if audios[0].ndim > 1:
            raise UserError(
                f"bundle {self.about.path}: the data has log-mel patches, an engine hears waveforms; "
                "add the set's audio_wav folder"
            )
        return [self.engine.run(image, audio) for audio in audios]

    def close(self) -> None:
        self.engine.close()


def gates_of(net: Any) -> tuple[dict[str, float], ...]:
    """|w| of each decoder layer (the paper's learnable weights), by direction; a layer without gates gives nothing."""
    found = []
    for _, layer in net.named_modules():
        if hasattr(layer, "audio_to_vision_gate"):
            found.append(
                {
                    "audio_to_vision": abs(layer.audio_to_vision_gate.item()),
                    "vision_to_audio": abs(layer.vision_to_audio_gate.item()),
                }
            )
    return tuple(found)


def open_predictor(model: str, device: str = "auto", num_threads: int = 0) -> Predictor:
    """A shipped model's name, a checkpoint or an engine bundle. ModelError when it cannot be had.

    `num_threads` 0 leaves torch its own number, and gives an engine every core.
    """
    import os

    path = find(model)
    if path.is_dir():
        kind = "auto" if device == "auto" else "cuda" if device == "cuda" else "cpu"
        return EnginePredictor(path, LiveSettings(device=kind, num_threads=num_threads or os.cpu_count() or 1))  # type: ignore[arg-type]
    if num_threads:
        import torch

        torch.set_num_threads(num_threads)
    return TorchPredictor(path, device)
