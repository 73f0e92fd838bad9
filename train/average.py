"""Averages weights: `python -m train.average A.safetensors B.safetensors … --out MEAN.safetensors`.

Of checkpoints or encoders that were trained from one another: their mean often generalises better than each of them
(Wortsman et al., "Model soups", 2022). What else the first file says of itself stays.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from rt_avsac.errors import ModelError, UserError


def average(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensor by tensor, in float32 and back; what is not floating point is the first one's. The keys must agree."""
    mean = {}
    for name, first in states[0].items():
        if first.is_floating_point():
            mean[name] = torch.stack([state[name].float() for state in states]).mean(dim=0).to(first.dtype)
        else:
            mean[name] = first
    return mean


def write_average(sources: list[Path], target: Path) -> None:
    """Writes `target`, atomically. ModelError for a file that cannot be read, UserError for one of another network."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    states, headers = [], []
    for source in sources:
        try:
            with safe_open(source, "pt") as file:
                states.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
                headers.append(file.metadata())
        except (OSError, SafetensorError) as error:
            raise ModelError(f"average {source}: not a safetensors file: {error}") from None
        shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
        if shapes[-1] != shapes[0]:
            raise UserError(f"average {source}: holds other tensors than {sources[0]}; give files of one network")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    save_file(average(states), temporary, headers[0])
    os.replace(temporary, target)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.average", description=__doc__)
    parser.add_argument("sources", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    try:
        write_average(arguments.sources, arguments.out)
    except UserError as error:
        print(f"python -m train.average: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
