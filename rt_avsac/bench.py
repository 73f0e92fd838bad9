"""`rt-avsac bench`: latency by stage, single-stream and at the camera's rate, several engines side by side.

A table for each load, a picture with --out, and one JSON line last. Exit code 1: --compare found something slower
beyond noise, or --soak found memory that grows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rt_avsac import machine
from rt_avsac.bench_chart import draw, draw_soak
from rt_avsac.bench_compare import moves, other_machine, read_result
from rt_avsac.bench_compare import text as moves_text
from rt_avsac.bench_load import CAMERA_STAGES, FLAT_STAGES, Measured, camera_rate, demo_windows, single_stream
from rt_avsac.bench_soak import soak
from rt_avsac.config import LiveSettings, override
from rt_avsac.errors import DiskError, UserError
from rt_avsac.latency import Series, table

NUM, NUM_QUICK = 1024, 200  # MLPerf's single-stream wants 1,024 queries for its 90th percentile
FPS = 30.0
NUM_WINDOWS = 256


def engines_of(args: argparse.Namespace) -> dict[str, LiveSettings]:
    """Name → settings, of --engines B:P,…; by default what `live` would take here, and torch fp32 beside it."""
    base = LiveSettings(model=args.model, device=args.device, num_threads=args.num_threads)
    if Path(args.model).is_dir():
        return {Path(args.model).name: base}
    words = [word.strip() for word in args.engines.split(",") if word.strip()] or ["auto:auto", "torch:fp32"]
    found = {}
    for word in words:
        backend, _, precision = word.partition(":")
        found[word] = override(base, {"backend": backend, "precision": precision or "auto"}, f"bench --engines {word}")
    return found


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def rows_of(measured: Measured, stages: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    return {stage: measured.stages[stage].summary() for stage in stages if measured.stages[stage].values_ns}


def load_json(found: dict[str, Measured], stages: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: {
            "ms": rows_of(measured, stages),
            "throughput_fps": round(measured.throughput, 2),
            "drops": measured.drops,
        }
        for name, measured in found.items()
    }


def show(title: str, result: dict[str, Any], engines: dict[str, dict[str, Any]]) -> None:
    print(f"\n{title}")
    for name, measured in result.items():
        ran = "{backend} {precision} on {device}".format(**engines[name])
        print(f"\n{name} ({ran}): {measured['throughput_fps']} windows/s, {measured['drops']} dropped")
        print(table(measured["ms"]))


def own_cost_ns() -> int:
    """What measuring one window costs: the clock reads and the appends of all stages."""
    series = {stage: Series() for stage in FLAT_STAGES}
    rounds = 5000
    began = time.perf_counter_ns()
    for index in range(rounds):
        times = [time.monotonic_ns() for _ in range(4)]
        for each in series.values():
            each.add(times[0], index)
    return (time.perf_counter_ns() - began) // rounds


def measure(
    args: argparse.Namespace, engines: dict[str, LiveSettings], num: int
) -> tuple[dict[str, Any], dict[str, Measured]]:
    """Both loads → the JSON table, and the single-stream series for the picture."""
    before = os.getloadavg()[0]
    meter = machine.PowerMeter().start()
    flat = single_stream(engines, num, demo_windows(NUM_WINDOWS), say)
    watts = meter.watts()
    paced = camera_rate(engines, num, FPS, say)
    loads = {"single_stream": load_json(flat, FLAT_STAGES), "camera_rate": load_json(paced, CAMERA_STAGES)}
    first = next(iter(flat.values()))
    p50_ns = first.stages["total"].summary()["p50"] * 1e6
    result = {
        "bench": "rt-avsac",
        "model": args.model,
        "num": num,
        "engines": {name: flat[name].engine | {"threads": settings.num_threads} for name, settings in engines.items()},
        "machine": machine.describe() | {"load_before": round(before, 2)},
        "loads": loads,
        "memory_mb": machine.memory_mb(),
        "watts": watts or None,
        "own_cost_share": round(own_cost_ns() / p50_ns, 6),
    }
    return result, flat


def make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"bench --out {out}: cannot be made: {error.strerror}") from None


def write(out: Path, result: dict[str, Any], name: str, picture: Callable[[str, Path], None]) -> None:
    """NAME.json and NAME.png, the latter by `picture(title, path)`; DiskError."""
    try:
        temporary = out / f".{os.getpid()}.{name}.json"
        temporary.write_text(json.dumps(result) + "\n", "utf-8")
        os.replace(temporary, out / f"{name}.json")
    except OSError as error:
        raise DiskError(f"bench --out {out}: cannot be written: {error.strerror}") from None
    about = result["machine"]
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print(f"\n{out / name}.json; no picture: pip install matplotlib")
        return
    load = f", load {about['load_before']}" if "load_before" in about else ""
    picture(
        f"{about['cpu']} {about['gpu']}, {about['cpus']} cores{load}, commit {about['commit']}", out / f"{name}.png"
    )
    print(f"\n{out / name}.json, {out / name}.png")


def soaked(args: argparse.Namespace, settings: LiveSettings) -> int:
    result = {"bench": "soak", "machine": machine.describe(), **soak(settings, args.soak, say)}
    print(f"{result['masks']} masks at {result['fps']} fps; memory grows {result['growth_mb_per_hour']} MB an hour")
    if args.out:
        write(Path(args.out), result, "soak", lambda title, path: draw_soak(result, title, path))
    print(json.dumps(result))
    return 1 if result["grows"] else 0


def main(args: argparse.Namespace) -> int:
    old = read_result(args.compare) if args.compare else None
    if args.soak < 0:
        raise UserError(f"bench --soak {args.soak}: asked less than nothing")
    if args.samples < 0:
        raise UserError(f"bench --samples {args.samples}: asked less than nothing")
    engines = engines_of(args)
    if args.soak and args.engines and len(engines) > 1:
        raise UserError(f"bench --soak: asked one engine, got --engines {args.engines}")
    if args.out:  # before the work, not after it
        make_folder(Path(args.out))
    if args.soak:
        return soaked(args, next(iter(engines.values())))
    num = args.samples or (NUM_QUICK if args.quick else NUM)
    result, flat = measure(args, engines, num)
    about = result["machine"]
    print(f"{about['cpu']} {about['gpu']}, {about['cpus']} cores, load before {about['load_before']}")
    loads, engines_run = result["loads"], result["engines"]
    show("single stream: the next window when the last one is received", loads["single_stream"], engines_run)
    show(f"camera's rate: the demo at {FPS:g} fps through the whole pipeline", loads["camera_rate"], engines_run)
    print(f"\nmemory MB {result['memory_mb']}; watts {result['watts'] or 'not readable'}")
    print(f"measuring itself takes {100 * result['own_cost_share']:.3f} % of a window")
    if args.out:
        totals = {name: measured.stages["total"] for name, measured in flat.items()}
        write(Path(args.out), result, "bench", lambda title, path: draw(totals, title, path))
    slower = False
    if old is not None:
        found = moves(old, result)
        slower = any(move["ratio"] > 1 for move in found)
        other = other_machine(old, result)
        print(f"\nagainst {args.compare}:{f' (another machine: {other})' if other else ''}\n{moves_text(found)}")
        result["moves"] = found
    print(json.dumps(result))
    return 1 if slower else 0
