"""`rt-avsac bench`: latency by stage, single-stream and at the camera's rate, several engines side by side.

A table for each load, a picture with --out, and one JSON line last (with -q it alone). Exit code 1: --compare found
something worse that counts, beyond noise, or --soak found memory that grows. Ctrl-C and SIGTERM show what was measured
so far.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rt_avsac import machine
from rt_avsac.bench_chart import draw, draw_soak
from rt_avsac.bench_compare import GATED, block_medians, differences, moves, read_result
from rt_avsac.bench_compare import text as moves_text
from rt_avsac.bench_load import (
    CAMERA_STAGES,
    FLAT_STAGES,
    Measured,
    camera_rate,
    demo_windows,
    process_mb,
    single_stream,
)
from rt_avsac.bench_soak import growth_text, soak
from rt_avsac.compile import ended_by_signals
from rt_avsac.config import LiveSettings, override
from rt_avsac.errors import DiskError, UserError
from rt_avsac.latency import Series, table

NUM, NUM_QUICK = 1024, 200  # MLPerf's single-stream wants 1,024 queries for its 90th percentile
SECONDS, SECONDS_QUICK = 3.0, 0.5  # at least, of each engine's single stream; as trtexec
FPS = 30.0
NUM_WINDOWS = 256


def engines_of(args: argparse.Namespace) -> dict[str, LiveSettings]:
    """Name → settings, of --engines B:P,…; by default what `live` would take here, and torch fp32 beside it."""
    base = LiveSettings(model=args.model, device=args.device, num_threads=args.num_threads)
    words = [word.strip() for word in args.engines.split(",") if word.strip()]
    if Path(args.model).is_dir():
        if words:
            raise UserError(
                f"bench --engines {args.engines}: a bundle is one engine; leave it out, or give a checkpoint"
            )
        return {Path(args.model).name: base}
    found: dict[str, LiveSettings] = {}
    for word in words or ["auto:auto", "torch:fp32"]:
        backend, _, precision = word.partition(":")
        asked = override(base, {"backend": backend, "precision": precision or "auto"}, f"bench --engines {word}")
        if asked in found.values():
            raise UserError(f"bench --engines {args.engines}: asked {word} twice; give each engine once")
        found[word] = asked
    return found


Tell = Callable[[str], None]


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def silent(text: str) -> None:
    """What -q says."""


def rows_of(measured: Measured, stages: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    rows = {stage: measured.stages[stage].summary() for stage in stages if measured.stages[stage].values_ns}
    for stage in GATED:
        if stage in rows:  # for --compare
            rows[stage]["blocks"] = block_medians([value / 1e6 for value in measured.stages[stage].values_ns])
    return rows


def load_json(found: dict[str, Measured], stages: tuple[str, ...]) -> dict[str, Any]:
    return {
        name: {
            "ms": rows_of(measured, stages),
            "throughput_fps": round(measured.throughput, 2),
            "drops": measured.drops,
        }
        for name, measured in found.items()
    }


def show(title: str, result: dict[str, Any], engines: dict[str, dict[str, Any]], tell: Tell) -> None:
    tell(f"\n{title}; pack is part of receive, the others add up to total")
    for name, measured in result.items():
        ran = "{backend} {precision} on {device}".format(**engines[name])
        tell(f"\n{name} ({ran}): {measured['throughput_fps']} windows/s, {measured['drops']} dropped")
        tell(table(measured["ms"]))


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
    args: argparse.Namespace, engines: dict[str, LiveSettings], num: int, min_s: float, say: Tell
) -> tuple[dict[str, Any], dict[str, Measured]]:
    """Both loads → the JSON table, and the single-stream series for the picture. Ctrl-C ends it with what there is,
    marked "interrupted"; before the first window is measured it is raised."""
    about = machine.describe()  # now: the checkout may be another one when it is over
    others, meter = machine.OthersMeter(), machine.PowerMeter()
    flat: dict[str, Measured] = {}
    paced: dict[str, Measured] = {}
    watts: dict[str, float] = {}
    alone: dict[str, float] = {}
    interrupted = False
    try:
        single_stream(engines, num, min_s, demo_windows(NUM_WINDOWS), say, flat, meter.look)
        watts = meter.watts()
        camera_rate(engines, num, FPS, say, paced)
        alone = {name: mb for name, settings in engines.items() if (mb := process_mb(settings)) is not None}
    except KeyboardInterrupt:
        if not any(measured.num for measured in flat.values()):
            raise
        interrupted = True
    about |= {"load_before": about["load_average"], "load_average": round(os.getloadavg()[0], 2)}
    if (cpus := others.cpus()) is not None:
        about["others_cpus"] = cpus
    first = next(measured for measured in flat.values() if measured.num)
    p50_ns = first.stages["total"].summary()["p50"] * 1e6
    result = {
        "bench": "rt-avsac",
        "model": args.model,
        "checkpoint": first.checkpoint,
        "num": num,
        "engines": {name: flat[name].engine | {"threads": settings.num_threads} for name, settings in engines.items()},
        "machine": about,
        "loads": {"single_stream": load_json(flat, FLAT_STAGES), "camera_rate": load_json(paced, CAMERA_STAGES)},
        "memory_mb": machine.memory_mb(),
        "process_mb": alone,
        "watts": watts or None,
        "own_cost_share": round(own_cost_ns() / p50_ns, 6),
    }
    return result | ({"interrupted": True} if interrupted else {}), flat


def make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"bench --out {out}: cannot be made: {error.strerror}") from None


def write(out: Path, result: dict[str, Any], name: str, picture: Callable[[str, Path], None], tell: Tell) -> None:
    """NAME.json and NAME.png, the latter by `picture(title, path)`; DiskError."""
    temporary = out / f".{os.getpid()}.{name}.json"
    try:
        temporary.write_text(json.dumps(result) + "\n", "utf-8")
        os.replace(temporary, out / f"{name}.json")
    except OSError as error:
        raise DiskError(f"bench --out {out}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
    about = result["machine"]
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        tell(f"\n{out / name}.json; no picture: pip install matplotlib")
        return
    load = f", load {about['load_before']}" if "load_before" in about else ""
    picture(f"{machine.name(about)}{load}, commit {about['commit'] or 'unknown'}, {about['utc']}", out / f"{name}.png")
    tell(f"\n{out / name}.json, {out / name}.png")


def soaked(args: argparse.Namespace, settings: LiveSettings, tell: Tell, say: Tell) -> int:
    result = {"bench": "soak", "machine": machine.describe(), **soak(settings, args.soak, say)}
    tell(f"{result['masks']} masks at {result['fps']} fps; {growth_text(result)}")
    try:
        if args.out:
            write(Path(args.out), result, "soak", lambda title, path: draw_soak(result, title, path), tell)
    finally:  # a full disk does not take hours of measuring with it
        print(json.dumps(result))
    return 1 if result["grows"] else 0


def main(args: argparse.Namespace) -> int:
    with ended_by_signals() as came:
        try:
            return run(args, *((silent, silent) if args.quiet else (print, say)))
        except KeyboardInterrupt:
            by = signal.Signals(came[0]).name if came else "Ctrl-C"
            print(f"rt-avsac: bench: stopped by {by} before it was done", file=sys.stderr)
            return 128 + (came[0] if came else signal.SIGINT)


def run(args: argparse.Namespace, tell: Tell, say: Tell) -> int:
    """`tell`: the tables, `say`: what goes on."""
    if args.soak is not None and not 0 < args.soak < float("inf"):
        raise UserError(f"bench --soak {args.soak}: not a time to run; give hours above 0")
    if args.samples is not None and args.samples < 1:
        raise UserError(f"bench --samples {args.samples}: asked less than one window")
    engines = engines_of(args)
    if args.soak and args.engines and len(engines) > 1:
        raise UserError(f"bench --soak: asked one engine, got --engines {args.engines}")
    if args.soak and args.compare:
        raise UserError("bench --soak: asked --compare too, which looks at latency benches; leave one out")
    old = read_result(args.compare, engines) if args.compare else None
    if args.out:  # before the work, not after it
        make_folder(Path(args.out))
    if args.soak:
        return soaked(args, next(iter(engines.values())), tell, say)
    num, min_s = (NUM_QUICK, SECONDS_QUICK) if args.quick else (NUM, SECONDS)
    if args.samples:
        num, min_s = args.samples, 0.0
    result, flat = measure(args, engines, num, min_s, say)
    about = result["machine"]
    beside = f", other programs {about['others_cpus']} cores meanwhile" if "others_cpus" in about else ""
    tell(f"{machine.name(about)}, load before {about['load_before']}{beside}")
    loads, engines_run = result["loads"], result["engines"]
    show("single stream: the next window when the last one is received", loads["single_stream"], engines_run, tell)
    show(f"camera's rate: the demo at {FPS:g} fps through the whole pipeline", loads["camera_rate"], engines_run, tell)
    tell(f"\nmemory MB {result['process_mb']} alone in a process, {result['memory_mb']} all in this one")
    tell(f"watts {result['watts']}, mean of the single stream" if result["watts"] else "watts not readable")
    tell(f"measuring itself takes {100 * result['own_cost_share']:.3f} % of a window")
    if "interrupted" in result:  # not kept in --out, where a whole one may be
        print(json.dumps(result))
        raise KeyboardInterrupt
    fails = False
    if old is not None:
        (found, compared), differ = moves(old, result), differences(old, result)
        fails = any(move["fails"] for move in found)
        tell(f"\nagainst {args.compare}:\n{moves_text(found, compared, differ)}")
        result |= {"moves": found, "compared": compared, "not_the_same": differ}
    try:
        if args.out:
            totals = {name: measured.stages["total"] for name, measured in flat.items()}
            write(Path(args.out), result, "bench", lambda title, path: draw(totals, title, path), tell)
    finally:  # a full disk does not take minutes of measuring with it
        print(json.dumps(result))
    return 1 if fails else 0
