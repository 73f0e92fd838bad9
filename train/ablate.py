"""The ablation table: `python -m train.ablate CONFIG --out FOLDER [--seeds 3] key=value …` (paper, tables 3 to 6).

Trains every variant with every seed (runs that are done are not repeated), judges each by the listening protocol on
the validation split, and writes ablation.json and ablation.md: mean ± standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

from rt_avsac.config import split_assignments
from rt_avsac.errors import UserError
from rt_avsac.model import checkpoint
from train import device
from train.evaluate import open_set
from train.items import EvalItem
from train.run import train
from train.settings import read_run
from train.validate import validate

VARIANTS: dict[str, dict[str, str]] = {
    "AVSegFormer": {"decoder": "one_way", "generator_layers": "6", "audio_tokens": "1", "avfs_form": "off"},
    "one-way, no AVFS": {"decoder": "one_way", "avfs_form": "off"},
    "BAVD + AVFS": {},
    "BAVD, no AVFS": {"avfs_form": "off"},
    "no bridges": {"audio_to_vision": "false", "vision_to_audio": "false"},
    "audio to vision bridge alone": {"vision_to_audio": "false"},
    "vision to audio bridge alone": {"audio_to_vision": "false"},
    "one audio token": {"audio_tokens": "1"},
    "self-attention: picture": {"self_attention": "spatial"},
    "self-attention: both": {"self_attention": "both"},
    "self-attention: none": {"self_attention": "none"},
    "AVFS: KL per token": {"avfs_form": "kl_token"},
    "AVFS: L2 per frame": {"avfs_form": "l2_frame"},
    "AVFS: L2 per token": {"avfs_form": "l2_token"},
}
MEASURES = ("g", "miou", "miou_human", "swap", "class", "alarm_muted", "alarm_noise", "alarm_off-screen")
SEED = 4242  # of the scenes it is judged on


def folder_name(variant: str, seed: int) -> str:
    return "".join(c if c.isalnum() else "-" for c in variant.lower()) + f"-{seed}"


def ablate(config: str, assignments: dict[str, str], out: Path, variants: list[str], num_seeds: int, num: int) -> None:
    """All runs, seed by seed, so that an interrupted table has every variant as often as possible."""
    items: list[EvalItem] = []
    for seed in range(num_seeds):
        for variant in variants:
            folder = out / folder_name(variant, seed)
            if (folder / "measures.json").is_file():
                continue
            own = {"seed": str(seed), "out": str(folder), "bank_file": str(out / "bank.safetensors")}
            run = read_run(config, {**assignments, **VARIANTS[variant], **own})
            print(f"{variant}, seed {seed}", file=sys.stderr, flush=True)
            train(run)
            if not items:
                items = list(open_set(run.data.kind, Path(run.data.root), "val", num, SEED, run.model.image_size).items)
            net, _ = checkpoint.load(folder / "last.safetensors")
            net.to(device.choose(run.train.device))
            measures = {"variant": variant, "seed": seed, **validate(net, items)}
            _write(folder / "measures.json", json.dumps(measures))
            write_table(out)


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_table(out: Path) -> None:
    """ablation.json (every run) and ablation.md (mean ± standard deviation, best of each column in bold)."""
    rows = [json.loads(path.read_text()) for path in sorted(out.glob("*/measures.json"))]
    _write(out / "ablation.json", json.dumps(rows, indent=1))
    lines = ["| variant | seeds | " + " | ".join(MEASURES) + " |", "|---" * (len(MEASURES) + 2) + "|"]
    for variant in VARIANTS:
        runs = [row for row in rows if row["variant"] == variant]
        if runs:
            cells = [_mean_and_spread([row[name] for row in runs]) for name in MEASURES]
            lines.append(f"| {variant} | {len(runs)} | " + " | ".join(cells) + " |")
    _write(out / "ablation.md", "\n".join(lines) + "\n")


def _mean_and_spread(values: list[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train.ablate", description=__doc__.split("\n")[0] if __doc__ else ""
    )
    parser.add_argument("config")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num", type=int, default=300, help="scenes each run is judged on")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("assignments", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args(argv)
    try:
        changes = split_assignments(arguments.assignments)
        ablate(arguments.config, changes, arguments.out, arguments.only, arguments.seeds, arguments.num)
    except UserError as error:
        print(f"python -m train.ablate: {error}", file=sys.stderr)
        return error.exit_code
    print((arguments.out / "ablation.md").read_text())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
