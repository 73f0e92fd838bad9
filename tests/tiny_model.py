"""A small network for tests of what is around it: 64 px, one decoder layer, random weights that do sound."""

from __future__ import annotations

from pathlib import Path

CLASSES = ["background", *(f"class{index}" for index in range(1, 29))]


def make_tiny(path: Path, seed: int = 0) -> Path:
    import torch

    from rt_avsac.model import checkpoint
    from rt_avsac.model.avsac import Avsac
    from rt_avsac.model.settings import ModelSettings

    torch.manual_seed(seed)
    net = Avsac(ModelSettings(name="tiny", image_size=64, num_layers=1))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # so that folding has something to fold
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, torch.nn.Conv2d):  # torch's own start lets signals die out
            torch.nn.init.kaiming_normal_(module.weight)
    torch.nn.init.normal_(net.query_projection.weight, std=0.5)
    checkpoint.save(path, net, CLASSES, {"licence": "CC0"})
    return path
