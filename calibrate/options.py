"""Options of `python -m calibrate`, and between which limits its numbers have to be."""

from __future__ import annotations

import argparse

from calibrate.modelopt_ranges import MODELOPT
from calibrate.ranges import METHODS
from rt_avsac.errors import UserError
from rt_avsac.parser import Parser
from train.evaluate import KINDS

COUNT = (1, 10**6)
LIMITS = {
    "num": COUNT,
    "probes": COUNT,
    "eval_num": COUNT,
    "threads": (1, 1024),
    "seed": (0, 2**62),
    "budget_miou": (0, 100),
    "budget_alarm": (0, 100),
}


def parser(description: str | None) -> Parser:
    made = Parser(prog="python -m calibrate", description=description, allow_abbrev=False)
    made.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="shipped name or .safetensors")
    made.add_argument("--data", required=True, metavar="PATH", help="data folder, mapping file, or recording")
    made.add_argument("--out", metavar="DIR", help="folder to write to")
    made.add_argument(
        "--verify", metavar="FILE", help="draw the windows of this windows.json again; exit code 1 if other"
    )
    made.add_argument("--num", type=int, default=128, help="windows that set the ranges [128]")
    made.add_argument("--probes", type=int, default=32, help="windows of the sweep over the layers [32]")
    made.add_argument("--seed", type=int, default=0, help="which windows [0]")
    made.add_argument("--split", default="train", help="of --data [train]")
    made.add_argument(
        "--method",
        choices=("auto", *METHODS, MODELOPT),
        default="auto",
        help="auto: the cheapest of the next three that is as good as any; modelopt: NVIDIA's, to be installed [auto]",
    )
    made.add_argument("--smooth", choices=("auto", "on", "off"), default="auto", help="SmoothQuant's divisors [auto]")
    made.add_argument("--eval-data", metavar="PATH", default="", help="where int8 is judged [--data]")
    made.add_argument("--eval-split", default="val", help="[val]")
    made.add_argument("--eval-num", type=int, default=200, help="evaluation items [200]")
    made.add_argument("--kind", choices=KINDS, default="composed", help="what the evaluation data are [composed]")
    made.add_argument("--precisions", default="fp16,bf16,signed", help="judged too; fp16 and signed: slow")
    made.add_argument("--budget-miou", type=float, default=1.0, help="points of mIoU that each may cost [1.0]")
    made.add_argument("--budget-alarm", type=float, default=1.0, help="points of false alarms it may add [1.0]")
    made.add_argument("--no-compare", action="store_true", help="leave the comparison out")
    made.add_argument("--no-export", action="store_true", help="leave .pt2 and ONNX out")
    made.add_argument("--threads", type=int, default=1, help="of torch [1]")
    made.add_argument("-v", "--verbose", action="store_true", help="errors with their traceback")
    return made


def check(args: argparse.Namespace) -> None:
    """UserError for a number that cannot be; what a number says is asked before the work, not after it."""
    for name, (least, most) in LIMITS.items():
        value = getattr(args, name)
        if not least <= value <= most:  # nan neither
            raise UserError(
                f"option --{name.replace('_', '-')}: asked {value}; give at least {least} and at most {most}"
            )
