"""A small network for tests of what is around it: 64 px, one decoder layer, random weights that do sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CLASSES = ["background", *(f"class{index}" for index in range(1, 29))]


def calm(net: Any) -> None:
    """Scales the last layers until nothing is saturated and half of the pixels sound."""
    import torch

    from rt_avsac.probe import windows

    image, audio = (torch.from_numpy(array) for array in windows(64, 15_600, count=1)[0])
    with torch.no_grad():
        for _ in range(2):
            seen, heard = net.see(image.permute(0, 3, 1, 2).float()), net.hear(audio)
            logit = net.decode(seen, heard).sounding_logit
            outputs = (
                (net.head, logit),
                (net.class_head[-1], seen.class_logit),
                (net.audio_class_head, heard.class_logit),
            )
            for layer, value in outputs:
                spread = float(value.std())
                layer.weight.div_(spread)
                layer.bias.sub_(value.median()).div_(spread)


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
    calm(net.eval())
    checkpoint.save(path, net, CLASSES, {"licence": "CC0"})
    return path
