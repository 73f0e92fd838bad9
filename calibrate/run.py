"""`python -m calibrate CHECKPOINT --data DATA --out DIR`: measures ranges, leaves sensitive layers out, compares.

DIR gets NAME.calibration.json (lay it beside the checkpoint, or give it to `rt-avsac compile --calibration`),
NAME.int8.onnx and NAME.int8.pt2 (one quantized graph for TensorRT and OpenVINO), report.json, layers.png, and
windows.json: `python -m calibrate --verify windows.json --data DATA` draws the same windows again and compares them.
Exit code 1 when a compared precision costs more than the budget. Files in DIR change only when all are whole.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from calibrate.chart import layer_errors
from calibrate.compare import (
    JUDGED,
    REFERENCE,
    SIGNED,
    Budget,
    Row,
    backends_for,
    compare,
    engines_for,
    over_budget,
    table,
    verdict,
)
from calibrate.modelopt_ranges import MODELOPT, by_modelopt, import_modelopt
from calibrate.options import check, parser
from calibrate.ranges import METHODS, observe, ranges_of
from calibrate.samples import Choice, Sample, collect, digest, listing, verify
from calibrate.sensitivity import Sweep, cheapest, mask_iou, sounding, sweep
from rt_avsac.bundle import read
from rt_avsac.cli import guarded
from rt_avsac.errors import DiskError, ModelError, UserError
from rt_avsac.model.avsac import Avsac, Deployed
from rt_avsac.quantize import Calibration, Range, quantized
from rt_avsac.record import HEAD
from train.evaluate import EvalSet, open_set
from train.scores import plain

Say = Callable[[str], None]
Windows = dict[str, dict[str, dict[str, Any]]]
ENDING = ".calibration.json"


def choose_ranges(
    net: Avsac, samples: Sequence[Sample], probes: Sequence[Sample], asked: str, smooth: str, say: Say
) -> tuple[str, dict[str, Range], dict[str, float]]:
    """The method asked for; "auto" tries all and keeps the cheapest whose masks agree with fp32's as well as any do.

    SmoothQuant's divisors cost time where the engine runs.
    """
    observers = observe(net, samples, say)
    wanted = sounding(Deployed(net).eval(), probes)
    tried: dict[str, float] = {}
    found: dict[str, dict[str, Range]] = {}
    for method in METHODS if asked == "auto" else (asked,):
        for smoothed in (False, True) if smooth == "auto" else (smooth == "on",):
            if method == MODELOPT:
                ranges = by_modelopt(net, samples, smoothed, observers)
            else:
                ranges = ranges_of(net, observers, method, smoothed)  # type: ignore[arg-type]
            name = f"{method}+smooth" if smoothed else str(method)
            tried[name] = mask_iou(sounding(quantized(net, Calibration("", "", ranges, [])), probes), wanted)
            say(f"{name}: masks agree {tried[name]:.4f} with every layer in int8")
            found[name] = ranges
    chosen = cheapest(tried)
    return chosen, found[chosen], tried


def calibrated(args: argparse.Namespace, checkpoint: Path, net: Avsac, say: Say) -> tuple[Calibration, Sweep, Windows]:
    """Also the listing of the windows: those of the ranges, and the probes of the sweep and of the methods."""
    import torch

    from rt_avsac.model.checkpoint import sha256

    torch.set_num_threads(args.threads)
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
    say("once more with signed steps, as TensorRT and the exported graph have them")
    signed = sweep(net, Calibration("", "", kept, []).signed().ranges, probes, say)
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
            "signed_agreement_by_cut": {str(count): round(value, 5) for count, value in signed.cuts.items()},
        },
        signed_float_layers=signed.float_layers,
    )
    return calibration, found, windows


def write_json(path: Path, table: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(table, indent=1, allow_nan=False) + "\n", "utf-8")
    except OSError as error:
        raise DiskError(f"file {path}: cannot be written: {error.strerror}") from None


@contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """A folder for new files inside `out`, whose own change when all are whole: the calibration last. Else none do."""
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".calibrate-", dir=out))
    except OSError as error:
        raise DiskError(f"folder {out}: cannot be made or written to: {error.strerror}") from None
    try:
        yield work
        for path in sorted(work.iterdir(), key=lambda path: path.name.endswith(ENDING)):
            try:
                os.replace(path, out / path.name)
            except OSError as error:
                raise DiskError(f"file {out / path.name}: cannot be replaced: {error.strerror}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if new:
            with suppress(OSError):  # it holds the result
                out.rmdir()


def evaluation(args: argparse.Namespace, size: int, num: int) -> EvalSet:
    return open_set(args.kind, Path(args.eval_data or args.data), args.eval_split, num, args.seed, size)


def compared(
    args: argparse.Namespace, checkpoint: Path, calibration: Path, backends: dict[str, str], say: Say
) -> list[Row]:
    with tempfile.TemporaryDirectory() as work:
        bundles = engines_for(checkpoint, calibration, backends, Path(work), say)
        return compare(bundles, evaluation(args, read(bundles[REFERENCE]).image_size, args.eval_num), say)


def run(args: argparse.Namespace) -> int:
    from rt_avsac.export import exported, write_onnx, write_pt2
    from rt_avsac.model.checkpoint import load
    from rt_avsac.model_path import find

    started = time.monotonic()

    def say(text: str) -> None:
        print(f"calibrate {time.monotonic() - started:5.0f} s: {text}", file=sys.stderr, flush=True)

    if args.verify:
        return 0 if verify(Path(args.verify), args.data, print) else 1
    if not args.checkpoint or not args.out:
        raise UserError(f"calibration: {'--out' if args.checkpoint else 'CHECKPOINT'} is missing; see --help")
    check(args)
    if args.method == MODELOPT:
        import_modelopt()
    checkpoint = find(args.checkpoint)
    if checkpoint.is_dir():
        raise ModelError(f"calibrate {args.checkpoint}: asked a checkpoint, got an engine bundle")
    net, _ = load(checkpoint)
    backends = {}
    if not args.no_compare:
        if not args.eval_data and (Path(args.data) / HEAD).is_file():
            raise UserError("evaluation: a recording has no masks; add --eval-data DATA, or --no-compare")
        backends = backends_for([word for word in args.precisions.split(",") if word])
        if next(evaluation(args, net.settings.image_size, 1).items, None) is None:
            raise UserError(f"evaluation data {args.eval_data or args.data}: no items in split {args.eval_split!r}")
    for module in () if args.no_export else ("onnx", "onnxscript"):
        if find_spec(module) is None:
            raise ModelError(f"export to ONNX: {module} is not installed; pip install it, or add --no-export")
    with workplace(Path(args.out)) as work:
        calibration, found, windows = calibrated(args, checkpoint, net, say)
        path = work / f"{checkpoint.stem}{ENDING}"
        write_json(work / "windows.json", windows)
        write_json(path, dataclasses.asdict(calibration))
        layer_errors(found.alone, found.float_layers, work / "layers.png")
        if not args.no_export:
            say("writing the quantized graph as .pt2 and ONNX")
            program = exported(net, calibration)
            write_pt2(program, work / f"{checkpoint.stem}.int8.pt2")
            write_onnx(program, work / f"{checkpoint.stem}.int8.onnx")
        report: dict[str, Any] = {
            "checkpoint": checkpoint.name,
            "checkpoint_sha256": calibration.checkpoint_sha256,
            "method": calibration.method,
            "num_windows": len(calibration.windows),
            "int8_layers": len(calibration.ranges),
            "float_layers": calibration.float_layers,
            "signed_float_layers": calibration.signed_float_layers,
            "alone": found.alone,
            **calibration.measured,
        }
        over = {}
        if backends:
            rows = compared(args, checkpoint, path, backends, say)
            budget = Budget(args.budget_miou, args.budget_alarm)
            over = over_budget(rows, budget)
            print(f"{table(rows)}\n\n{verdict(rows, over)}")
            judged = over.get(JUDGED)
            report |= {
                "evaluation": {"kind": args.kind, "split": args.eval_split, "num": args.eval_num, "seed": args.seed},
                "rows": rows,
                "budget": budget,
                "verdict": judged or "within",
                "over": over,
            }
            # "auto" takes int8 only where it is within
            calibration.measured["verdict"] = "over" if judged else "within"
            if SIGNED in backends:
                calibration.measured["signed_verdict"] = "over" if SIGNED in over else "within"
            write_json(path, dataclasses.asdict(calibration))
        report = plain(report)
        write_json(work / "report.json", report)
    for path in Path(args.out).glob(f"{checkpoint.stem}.int8.*") if args.no_export else ():
        say(f"{path} is of an earlier calibration")
    print(json.dumps({key: value for key, value in report.items() if key != "alone"}, allow_nan=False))
    return 1 if over else 0


def main(argv: Sequence[str] | None = None) -> int:
    def ended(number: int, frame: object) -> None:
        sys.exit(128 + number)  # through every `finally`: no temporary folder stays

    before = signal.signal(signal.SIGTERM, ended)
    try:
        return guarded("python -m calibrate", argv, lambda words: run(parser(__doc__).parse(words)))
    finally:
        signal.signal(signal.SIGTERM, before)
