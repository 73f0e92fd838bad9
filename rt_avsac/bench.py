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
from dataclasses import replace
from pathlib import Path
from typing import Any

from rt_avsac import machine
from rt_avsac.bench_compare import moves, other_machine, read_result
from rt_avsac.bench_compare import text as moves_text
from rt_avsac.bench_load import CAMERA_STAGES, FLAT_STAGES, Measured, camera_rate, demo_windows, single_stream
from rt_avsac.config import LiveSettings, override
from rt_avsac.errors import DiskError, UserError
from rt_avsac.latency import Series, table

NUM, NUM_QUICK = 1024, 200  # MLPerf's single-stream wants 1,024 queries for its 90th percentile
FPS = 30.0
NUM_WINDOWS = 256
MAX_GROWTH_MB_PER_HOUR = 8.0
SOAK_SAMPLE_S = 20.0


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


def show(title: str, result: dict[str, Any]) -> None:
    print(f"\n{title}")
    for name, measured in result.items():
        print(f"\n{name}: {measured['throughput_fps']} windows/s, {measured['drops']} dropped")
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


def soak(settings: LiveSettings, hours: float) -> dict[str, Any]:
    """The pipeline on the demo for so long; memory every 20 s, and how it grows after the first tenth."""
    import threading

    import numpy as np

    from rt_avsac.pipeline import run
    from rt_avsac.stop import stop_on_signals

    samples: list[tuple[float, float]] = []
    began = time.monotonic()
    with stop_on_signals() as stop:

        def watch() -> None:
            while not stop.wait(min(SOAK_SAMPLE_S, hours * 3600 / 50)):
                samples.append(((time.monotonic() - began) / 3600, machine.memory_mb().get("resident", 0.0)))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        seconds = hours * 3600
        summary = run(
            replace(settings, camera="demo", mic="auto", bind="tcp://127.0.0.1:0", duration_s=seconds), stop=stop
        )
        stop.set()
        watcher.join()
    settled = np.array(samples[len(samples) // 10 :] or [(0.0, 0.0)])
    growth = float(np.polyfit(settled[:, 0], settled[:, 1], 1)[0]) if len(settled) > 4 else 0.0
    # over a short soak the slope is noise: what was really gained must be visible too
    gained = float(settled[-1, 1] - settled[0, 1])
    return {
        "hours": round((time.monotonic() - began) / 3600, 4),
        "masks": summary.masks,
        "fps": round(summary.fps, 2),
        "drops": summary.drops,
        "latency_ms": summary.latency_ms,
        "memory_mb": [round(value, 1) for _, value in samples],
        "growth_mb_per_hour": round(growth, 2),
        "gained_mb": round(gained, 2),
        "grows": growth > MAX_GROWTH_MB_PER_HOUR and gained > MAX_GROWTH_MB_PER_HOUR,
    }


def measure(
    args: argparse.Namespace, engines: dict[str, LiveSettings], num: int
) -> tuple[dict[str, Any], dict[str, Measured]]:
    """Both loads → the JSON table, and the single-stream series for the picture."""

    def say(text: str) -> None:
        print(f"bench: {text}", file=sys.stderr, flush=True)

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
        "engines": {
            name: {"threads": settings.num_threads, "backend": settings.backend, "precision": settings.precision}
            for name, settings in engines.items()
        },
        "machine": machine.describe() | {"load_before": round(before, 2)},
        "loads": loads,
        "memory_mb": machine.memory_mb(),
        "watts": watts or None,
        "own_cost_share": round(own_cost_ns() / p50_ns, 6),
    }
    return result, flat


def write(out: Path, result: dict[str, Any], flat: dict[str, Measured]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        temporary = out / f".{os.getpid()}.bench.json"
        temporary.write_text(json.dumps(result) + "\n", "utf-8")
        os.replace(temporary, out / "bench.json")
    except OSError as error:
        raise DiskError(f"bench --out {out}: cannot be written: {error.strerror}") from None
    about = result["machine"]
    title = (
        f"{about['cpu']} {about['gpu']}, {about['cpus']} cores, load {about['load_before']}, commit {about['commit']}"
    )
    try:
        import matplotlib  # noqa: F401

        from rt_avsac.bench_chart import draw
    except ImportError:
        print(f"\n{out / 'bench.json'}; no picture: pip install matplotlib")
        return
    draw({name: measured.stages["total"] for name, measured in flat.items()}, title, out / "bench.png")
    print(f"\n{out / 'bench.json'}, {out / 'bench.png'}")


def main(args: argparse.Namespace) -> int:
    old = read_result(args.compare) if args.compare else None
    if args.soak < 0:
        raise UserError(f"bench --soak {args.soak}: asked less than nothing")
    if args.samples < 0:
        raise UserError(f"bench --samples {args.samples}: asked less than nothing")
    engines = engines_of(args)
    if args.soak:
        result = {"bench": "soak", "machine": machine.describe(), **soak(next(iter(engines.values())), args.soak)}
        print(f"{result['masks']} masks at {result['fps']} fps; memory grows {result['growth_mb_per_hour']} MB an hour")
        print(json.dumps(result))
        return 1 if result["grows"] else 0
    num = args.samples or (NUM_QUICK if args.quick else NUM)
    result, flat = measure(args, engines, num)
    about = result["machine"]
    print(f"{about['cpu']} {about['gpu']}, {about['cpus']} cores, load before {about['load_before']}")
    show("single stream: the next window when the last one is received", result["loads"]["single_stream"])
    show(f"camera's rate: the demo at {FPS:g} fps through the whole pipeline", result["loads"]["camera_rate"])
    print(f"\nmemory MB {result['memory_mb']}; watts {result['watts'] or 'not readable'}")
    print(f"measuring itself takes {100 * result['own_cost_share']:.3f} % of a window")
    if args.out:
        write(Path(args.out), result, flat)
    slower = False
    if old is not None:
        found = moves(old, result)
        slower = any(move["ratio"] > 1 for move in found)
        other = other_machine(old, result)
        print(f"\nagainst {args.compare}:{f' (another machine: {other})' if other else ''}\n{moves_text(found)}")
        result["moves"] = found
    print(json.dumps(result))
    return 1 if slower else 0
