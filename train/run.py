"""Command line of `python -m train CONFIG key=value …`: opens data and network, resumes, trains."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
from torch import distributed

from rt_avsac.config import split_assignments
from rt_avsac.errors import UserError
from rt_avsac.model import checkpoint
from rt_avsac.model.avsac import Avsac
from rt_avsac.model.pretrained import load_pretrained
from train import device, loop, state
from train.evaluate import open_set
from train.log import Log
from train.settings import RunSettings, read_run
from train.sources import open_data
from train.validate import save_sheet, validate

VALIDATION_SEED = 20_26


def make_net(run: RunSettings) -> Avsac:
    """The network of the settings, from `start_from` if given; backbone_weights and audio_weights replace its own."""
    torch.manual_seed(run.train.seed)
    net = Avsac(run.model)
    if run.train.start_from:
        start_from(net, run)
    load_pretrained(net, run.train.backbone_weights, run.train.audio_weights)
    return net


def start_from(net: Avsac, run: RunSettings) -> None:
    """Weights of another run, all or only `start_parts`; UserError when they do not fit."""
    other, header = checkpoint.load(run.train.start_from)
    parts = run.train.start_parts
    try:
        if not parts:
            net.load_state_dict(other.state_dict())
        for part in parts:
            state.module_named(net, part).load_state_dict(state.module_named(other, part).state_dict())
    except RuntimeError:
        raise UserError(
            f"training: start_from {run.train.start_from} is {header['settings']['name']}, whose weights do not "
            f"fit {run.model.name}; give the config it was trained with, or start_parts that are the same"
        ) from None


def train(run: RunSettings) -> None:
    """One run, from its last checkpoint if there is one in `train.out`."""
    out = Path(run.train.out)
    out.mkdir(parents=True, exist_ok=True)
    loop.limit_threads(run.train.num_threads)
    rank, _ = loop.world()
    net = make_net(run).to(device.choose(run.train.device))
    kept = state.start(net, run.train)
    if (out / "state.pt").is_file():
        state.read(out / "state.pt", kept)
    log = Log(out, kept.step) if rank == 0 else None
    say = log.say if log else lambda text: None
    if kept.step:
        say(f"resumed {out} at step {kept.step}")
    data = open_data(run, net.audio_encoder, say)
    num = run.train.num_validation_scenes
    items = list(open_set(run.data.kind, Path(run.data.root), "val", num, VALIDATION_SEED, run.model.image_size).items)

    def check(now: state.State) -> dict[str, float]:
        if rank != 0:
            return {}
        save_sheet(out / f"masks-{now.step:06}.png", now.ema, items)
        return validate(now.ema, items)

    loop.run(run, data, kept, check, log)  # type: ignore[arg-type]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    parser.add_argument("config", help="configs/….toml; what it leaves out keeps its default")
    parser.add_argument("assignments", nargs="*", metavar="key=value", help="settings on top, such as lr=1e-4")
    arguments = parser.parse_args(argv)
    several = "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1
    try:
        if several:
            distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        train(read_run(arguments.config, split_assignments(arguments.assignments)))
    except UserError as error:
        print(f"python -m train: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("python -m train: stopped; the same command resumes at the last checkpoint", file=sys.stderr)
        return 130
    finally:
        if several and distributed.is_initialized():
            distributed.destroy_process_group()
    return 0
