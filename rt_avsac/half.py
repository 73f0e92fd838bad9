"""The deployed network in half precision with explicit types in its graph, for strongly typed builders and GPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rt_avsac.model.avsac import Deployed
from rt_avsac.model.log_mel import LogMel


class InFloat(nn.Module):
    """Keeps a part in fp32: the squares of a quiet spectrum vanish in fp16, and strong typing mixes no norm."""

    def __init__(self, part: nn.Module, device: str) -> None:
        super().__init__()
        self.part, self.device = part, device

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device, enabled=False):
            return self.part(x.float())


class Half(nn.Module):
    """`Deployed` under autocast, log-mel and norms in fp32; outputs float32 like those of every backend. Changes it."""

    def __init__(self, deployed: Deployed, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        self.deployed, self.dtype, self.device = deployed, dtype, device
        for parent in list(deployed.net.modules()):
            for name, part in list(parent.named_children()):
                if isinstance(part, (LogMel, nn.LayerNorm)):
                    setattr(parent, name, InFloat(part, device))

    def forward(self, image: Tensor, audio: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(self.device, dtype=self.dtype):
            outputs = self.deployed(image, audio)
        return tuple(output.float() for output in outputs)
