"""Averages weights: `python -m train.average A.safetensors B.safetensors … --out MEAN.safetensors [--shares 0.7 0.3]`.

Of checkpoints or encoders that were trained from one another: their mean often generalises better than each of them
(Wortsman et al., "Model soups", 2022). What else the first file says of itself stays.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rt_avsac.errors import ModelError, UserError


def average(states: list[dict[str, Tensor]], shares: Sequence[float], kept: Sequence[str] = ()) -> dict[str, Tensor]:
    """Tensor by tensor, in float32 and back; what is not floating point, or begins with one of `kept`, is the first
    one's. The keys must agree, the shares add up to 1."""
    mean = {}
    for name, first in states[0].items():
        if first.is_floating_point() and not name.startswith(tuple(kept)):
            parts = [share * state[name].float() for share, state in zip(shares, states, strict=True)]
            mean[name] = torch.stack(parts).sum(dim=0).to(first.dtype)
        else:
            mean[name] = first
    return mean


def write_average(sources: list[Path], target: Path, shares: Sequence[float] = (), kept: Sequence[str] = ()) -> None:
    """Writes `target`, atomically. ModelError for a file that cannot be read, UserError for one of another network.

    `shares`: of each file; none: equal ones.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    shares = list(shares) or [1.0 / len(sources)] * len(sources)
    if len(shares) != len(sources) or abs(sum(shares) - 1.0) > 1e-6:
        raise UserError(f"average: asked a share for each of {len(sources)} files, 1 in all; got {shares}")
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
    unknown = [prefix for prefix in kept if not any(name.startswith(prefix) for name in states[0])]
    if unknown:
        raise UserError(f"average: option --keep: nothing in {sources[0]} begins with {unknown[0]!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    save_file(average(states, shares, kept), temporary, headers[0])
    os.replace(temporary, target)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.average", description=__doc__)
    parser.add_argument("sources", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[], help="of each file [equal ones]")
    parser.add_argument(
        "--keep", default="", help="beginnings of names whose tensors stay those of the first file, a,b"
    )
    arguments = parser.parse_args(argv)
    try:
        kept = [word for word in arguments.keep.split(",") if word]
        write_average(arguments.sources, arguments.out, arguments.shares, kept)
    except UserError as error:
        print(f"python -m train.average: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
