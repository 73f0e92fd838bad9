"""torch eager: the reference that every other backend is held to, and the fallback where nothing else runs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rt_avsac.bundle import Machine, Manifest
from rt_avsac.config import LiveSettings
from rt_avsac.engines import Outputs
from rt_avsac.errors import ModelError

ENGINE = "model.safetensors"
CALIBRATION = "calibration.json"


def machine() -> Machine:
    """Only the torch version: weights run on any processor, so no device is asked of the next machine."""
    import torch

    return Machine({"torch": torch.__version__}, "", "")


class TorchEngine:
    """`Deployed` on the CPU or a GPU; bf16 and fp16 by autocast, int8 simulated with the same Q/DQ as elsewhere."""

    backend = "torch"

    def __init__(self, net: Any, manifest: Manifest, device: str) -> None:
        self.manifest = manifest
        self.precision = manifest.precision
        self._net = net.to(device).eval()
        self.device = device

    def _cast(self) -> Any:
        import torch

        if self.precision in ("bf16", "fp16"):
            kind = torch.bfloat16 if self.precision == "bf16" else torch.float16
            return torch.autocast(self.device, dtype=kind)
        return contextlib.nullcontext()

    def run(self, image: NDArray[np.uint8], audio: NDArray[np.float32]) -> Outputs:
        """image uint8 [S, S, 3], audio float32 [n] → fresh arrays."""
        import torch

        picture = torch.from_numpy(np.array(image)[None]).to(self.device)
        sound = torch.from_numpy(np.array(audio)[None]).to(self.device)
        with torch.inference_mode(), self._cast():
            return Outputs.of([output[0].float().cpu().numpy() for output in self._net(picture, sound)])

    def close(self) -> None:
        self._net = None

    def __enter__(self) -> TorchEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_bundle(folder: Path, manifest: Manifest, settings: LiveSettings) -> TorchEngine:
    """The bundle's checkpoint in eager mode, on a GPU if there is one; sets torch's thread count for this process."""
    import torch

    from rt_avsac.model.avsac import Deployed
    from rt_avsac.model.checkpoint import load

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ModelError("device cuda: torch sees no GPU; use --device cpu")
    torch.set_num_threads(settings.num_threads)
    net, _ = load(folder / ENGINE)
    deployed: Any = Deployed(net)
    if manifest.precision == "int8":
        from rt_avsac.quantize import quantized, read_calibration

        deployed = quantized(net, read_calibration(folder / CALIBRATION))
    on_gpu = settings.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.backends.cudnn.allow_tf32 = False  # the reference: fp32 is fp32
    return TorchEngine(deployed, manifest, "cuda" if on_gpu else "cpu")
