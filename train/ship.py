"""Turns a training checkpoint into the shipped one: 16-bit weights, no paths inside; `python -m train.ship IN OUT`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from torch import nn

from rt_avsac.errors import UserError
from rt_avsac.model import checkpoint

PATHS = ("root", "out", "bank_file", "backbone_weights", "audio_weights", "teacher_weights", "start_from")
KEPT = ("step", "train", "data", "validation", "licence")


def without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """File names stay, folders go: they mean nothing on another machine."""
    return {key: Path(value).name if key in PATHS and value else value for key, value in settings.items()}


def ship(source: Path, target: Path, margin: float = 0.0) -> None:
    """Writes `target`, atomically. ModelError when `source` is no checkpoint of ours.

    `margin` is taken off the mask's logit: how much surer than even a pixel has to be, as chosen on validation data
    to trade false alarms against masks.
    """
    net, header = checkpoint.load(source)
    extra = {key: header[key] for key in KEPT if key in header}
    if margin:
        if not isinstance(net.head, nn.Conv2d) or net.head.bias is None:
            raise UserError(f"ship {source}: --margin is for the light mask head; {net.settings.name} has another")
        net.head.bias.data -= margin
        extra["margin"] = margin
    extra |= {key: without_paths(extra[key]) for key in ("train", "data") if key in extra}
    target.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(target, net, header["classes"], extra, half=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.ship", description=__doc__)
    parser.add_argument("source", type=Path, help="runs/…/best.safetensors")
    parser.add_argument("target", type=Path, help="rt_avsac/weights/NAME.safetensors")
    parser.add_argument("--margin", type=float, default=0.0, help="taken off the mask's logit (default 0)")
    arguments = parser.parse_args(argv)
    try:
        ship(arguments.source, arguments.target, arguments.margin)
    except UserError as error:
        print(f"python -m train.ship: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
