"""`python -m calibrate CHECKPOINT --data DATA --out DIR`: measures ranges, leaves sensitive layers out, compares.

DIR gets NAME.calibration.json (lay it beside the checkpoint, or give it to `rt-avsac compile --calibration`),
NAME.int8.onnx and NAME.int8.pt2 (one quantized graph for TensorRT and OpenVINO), report.json, layers.png, and
windows.json: `python -m calibrate --verify windows.json --data DATA` draws the same windows again and compares them.
Exit code 1 when int8 costs more than the budget.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from calibrate.chart import layer_errors
from calibrate.compare import Budget, Row, compare, engines_for, over_budget, table
from calibrate.modelopt_ranges import by_modelopt, import_modelopt
from calibrate.ranges import Method, observe, ranges_of
from calibrate.samples import Choice, Sample, collect, digest, listing, verify
from calibrate.sensitivity import Sweep, mask_iou, sounding, sweep
from rt_avsac.bundle import read
from rt_avsac.cli import Parser, guarded
from rt_avsac.errors import DiskError, ModelError, UserError
from rt_avsac.model.avsac import Avsac, Deployed
from rt_avsac.quantize import Calibration, Range, quantized

Say = Callable[[str], None]
Windows = dict[str, dict[str, dict[str, Any]]]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")  # of "auto"
MODELOPT = "modelopt"


def choose_ranges(
    net: Avsac, samples: Sequence[Sample], probes: Sequence[Sample], asked: str, smooth: str, say: Say
) -> tuple[str, dict[str, Range], dict[str, float]]:
    """The method asked for; "auto" tries all and keeps the one whose masks agree best with fp32 on `probes`."""
    observers = observe(net, samples, say)
    wanted = sounding(Deployed(net).eval(), probes)
    tried: dict[str, float] = {}
    best: tuple[str, dict[str, Range]] = ("", {})
    for method in METHODS if asked == "auto" else (asked,):
        for smoothed in (False, True) if smooth == "auto" else (smooth == "on",):
            if method == MODELOPT:
                ranges = by_modelopt(net, samples, smoothed, observers)
            else:
                ranges = ranges_of(net, observers, method, smoothed)  # type: ignore[arg-type]
            name = f"{method}+smooth" if smoothed else str(method)
            tried[name] = mask_iou(sounding(quantized(net, Calibration("", "", ranges, [])), probes), wanted)
            say(f"{name}: masks agree {tried[name]:.4f} with every layer in int8")
            if tried[name] >= max(tried.values()):
                best = (name, ranges)
    return *best, tried


def calibrated(args: argparse.Namespace, checkpoint: Path, say: Say) -> tuple[Avsac, Calibration, Sweep, Windows]:
    """Also the listing of the windows: those of the ranges, and the probes of the sweep and of the methods."""
    import torch

    from rt_avsac.model.checkpoint import load, sha256

    torch.set_num_threads(args.threads)
    net, _ = load(checkpoint)
    size = net.settings.image_size
    say(f"collecting {args.num} windows of {args.data}")
    choice = Choice(args.split, args.num, args.seed, size)
    # other scenes than those that set the ranges; a recording has no others
    probe_choice = Choice(args.split, args.probes, args.seed + 1, size)
    samples, probes = collect(args.data, choice), collect(args.data, probe_choice)
    windows = {"sets": {"ranges": listing(choice, samples), "probes": listing(probe_choice, probes)}}
    method, ranges, tried = choose_ranges(net, samples, probes, args.method, args.smooth, say)
    found = sweep(net, ranges, probes, say)
    kept = {name: measured for name, measured in ranges.items() if name not in found.float_layers}
    calibration = Calibration(
        checkpoint_sha256=sha256(checkpoint),
        method=method,
        ranges=kept,
        float_layers=found.float_layers,
        windows=windows["sets"]["ranges"]["windows"],
        measured={
            "seed": args.seed,
            "split": args.split,
            "num_probes": len(probes),
            "probes_sha256": digest(probes),
            "agreement_by_method": {name: round(value, 5) for name, value in tried.items()},
            "agreement_by_cut": {str(count): round(value, 5) for count, value in found.cuts.items()},
        },
    )
    return net, calibration, found, windows


def write_json(path: Path, table: dict[str, Any]) -> None:
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        temporary.write_text(json.dumps(table, indent=1) + "\n", "utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise DiskError(f"file {path}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def compared(args: argparse.Namespace, checkpoint: Path, calibration: Path, say: Say) -> list[Row]:
    from train.evaluate import open_set

    with tempfile.TemporaryDirectory() as work:
        bundles = engines_for(checkpoint, calibration, args.precisions.split(","), Path(work), say)
        data, size = Path(args.eval_data or args.data), read(bundles["fp32"]).image_size
        eval_set = open_set(args.kind, data, args.eval_split, args.eval_num, args.seed, size)
        return compare(bundles, eval_set, say)


def run(args: argparse.Namespace) -> int:
    from rt_avsac.export import exported, write_onnx, write_pt2
    from rt_avsac.model_path import find

    started = time.monotonic()

    def say(text: str) -> None:
        print(f"calibrate {time.monotonic() - started:5.0f} s: {text}", file=sys.stderr, flush=True)

    if args.verify:
        return 0 if verify(Path(args.verify), args.data, print) else 1
    if not args.checkpoint or not args.out:
        raise UserError(f"calibration: {'--out' if args.checkpoint else 'CHECKPOINT'} is missing; see --help")
    if args.probes < 1 or args.eval_num < 1:
        raise UserError("calibration: --probes and --eval-num must be at least 1")
    if args.method == MODELOPT:
        import_modelopt()  # before the work, not after it
    checkpoint = find(args.checkpoint)
    if checkpoint.is_dir():
        raise ModelError(f"calibrate {args.checkpoint}: asked a checkpoint, got an engine bundle")
    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"folder {out}: cannot be made: {error.strerror}") from None
    net, calibration, found, windows = calibrated(args, checkpoint, say)
    write_json(out / "windows.json", windows)
    path = out / f"{checkpoint.stem}.calibration.json"
    write_json(path, dataclasses.asdict(calibration))
    layer_errors(found.alone, found.float_layers, out / "layers.png")
    if not args.no_export:
        say("writing the quantized graph as .pt2 and ONNX")
        program = exported(net, calibration)
        write_pt2(program, out / f"{checkpoint.stem}.int8.pt2")
        write_onnx(program, out / f"{checkpoint.stem}.int8.onnx")
    report: dict[str, Any] = {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": calibration.checkpoint_sha256,
        "method": calibration.method,
        "num_windows": len(calibration.windows),
        "int8_layers": len(calibration.ranges),
        "float_layers": calibration.float_layers,
        "alone": {name: round(value, 6) for name, value in found.alone.items()},
        **calibration.measured,
    }
    code = 0
    if not args.no_compare:
        rows = compared(args, checkpoint, path, say)
        budget = Budget(args.budget_miou, args.budget_alarm)
        costs = over_budget(rows, budget)
        print(table(rows))
        print(f"\nint8 {'is over the budget: ' + '; '.join(costs) if costs else 'is within the budget'}")
        report |= {
            "rows": [dataclasses.asdict(each) for each in rows],
            "budget": dataclasses.asdict(budget),
            "verdict": costs or "within",
        }
        code = 1 if costs else 0
        calibration.measured["verdict"] = "over" if costs else "within"  # "auto" takes int8 only where it is within
        write_json(path, dataclasses.asdict(calibration))
    write_json(out / "report.json", report)
    print(json.dumps({key: value for key, value in report.items() if key != "alone"}))
    return code


def parser() -> Parser:
    made = Parser(prog="python -m calibrate", description=__doc__, allow_abbrev=False)
    made.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="shipped name or .safetensors")
    made.add_argument("--data", required=True, metavar="PATH", help="data folder, mapping file, or recording")
    made.add_argument("--out", metavar="DIR", help="folder to write to")
    made.add_argument(
        "--verify", metavar="FILE", help="draw the windows of this windows.json again; exit code 1 if other"
    )
    made.add_argument("--num", type=int, default=128, help="windows that set the ranges [128]")
    made.add_argument("--probes", type=int, default=16, help="windows of the sweep over the layers [16]")
    made.add_argument("--seed", type=int, default=0, help="which windows [0]")
    made.add_argument("--split", default="train", help="of --data [train]")
    made.add_argument(
        "--method",
        choices=("auto", *METHODS, MODELOPT),
        default="auto",
        help="auto: the best of the next three on the probes; modelopt: NVIDIA's, to be installed [auto]",
    )
    made.add_argument("--smooth", choices=("auto", "on", "off"), default="auto", help="SmoothQuant's divisors [auto]")
    made.add_argument("--eval-data", metavar="PATH", default="", help="where int8 is judged [--data]")
    made.add_argument("--eval-split", default="val", help="[val]")
    made.add_argument("--eval-num", type=int, default=200, help="evaluation items [200]")
    made.add_argument("--kind", default="composed", help="what the evaluation data are [composed]")
    made.add_argument("--precisions", default="fp16,bf16", help="judged beside fp32 and int8; fp16 is slow on CPUs")
    made.add_argument("--budget-miou", type=float, default=1.0, help="points of mIoU that int8 may cost [1.0]")
    made.add_argument("--budget-alarm", type=float, default=1.0, help="points of false alarms it may add [1.0]")
    made.add_argument("--no-compare", action="store_true", help="leave the comparison out")
    made.add_argument("--no-export", action="store_true", help="leave .pt2 and ONNX out")
    made.add_argument("--threads", type=int, default=1, help="of torch [1]")
    made.add_argument("-v", "--verbose", action="store_true", help="errors with their traceback")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    return guarded("python -m calibrate", argv, lambda words: run(parser().parse(words)))
