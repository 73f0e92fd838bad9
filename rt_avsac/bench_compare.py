"""What moved between two bench results: said where it is more than noise, failed where it is large and counts.

Noise has two parts. Within a run: the standard error of the median, from medians of consecutive blocks, widened where
neighbouring blocks are alike (drift). Between runs: nothing in two results shows it, so there is a floor, and a high
one when other programs were using the processor in either run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rt_avsac.errors import UserError

SIGMAS = 4.0  # of the two medians' standard errors together; some 30 medians are looked at
NUM_BLOCKS = 32
MIN_BLOCKS = 16
GATED = ("infer", "total")  # whose p50 fails the comparison; of the other stages it is only told
TAILS = ("p90", "p95", "p99")  # of `total` they fail; max is one window, and only told
# (share, milliseconds or frames or MB): a smaller move is not worth a word; then the share from which it fails, and the
# one when others worked beside: with 1.6 of 2 cores taken, reruns of the same code had p50 2.2 times as high
FLOOR_P50 = (0.05, 0.02, 0.1, 1.5)  # reruns on a quiet machine differ by some per cent
FLOOR_TAIL = (0.5, 1.0, 0.5, 5.0)
FLOOR_THROUGHPUT = (0.1, 0.0, 0.1, 1.5)  # a mean, so noisier than p50
FLOOR_DROPS = (0.02, 2.0, 0.02, 0.5)  # of all frames; what cannot keep up soon drops 2 of 3 where it dropped none
FLOOR_MAX = (2.0, 1.0, 0.0, 0.0)
FLOOR_MEMORY = (0.25, 50.0, 0.0, 0.0)  # only told
BUSY_SHARE = 0.1  # of the processor, used by others
BUSY_LOAD = 0.5  # load average a core, where an older result has nothing better
MACHINE = ("cpu", "gpu", "system", "cpus", "python", "rt_avsac", "commit")


def block_medians(values: Sequence[float]) -> list[float]:
    """Of up to 32 consecutive blocks; none where there are too few to judge."""
    if len(values) < MIN_BLOCKS:
        return []
    blocks = np.array_split(np.asarray(values, np.float64), min(NUM_BLOCKS, len(values)))
    return [round(float(np.median(block)), 4) for block in blocks]


def standard_error(row: dict[str, Any]) -> float:
    """Of p50. Drift makes blocks alike and so counts as noise; a stall that hits a few blocks does not."""
    blocks = np.array(row.get("blocks") or [], np.float64)
    if len(blocks) < MIN_BLOCKS:
        return float(row["noise"])
    off = blocks - np.median(blocks)
    spread = 1.4826 * float(np.median(np.abs(off)))
    variance = float(np.mean(off**2))
    alike = float(np.clip(np.mean(off[1:] * off[:-1]) / variance, 0.0, 0.9)) if variance else 0.0
    return 1.25 * spread / math.sqrt(len(blocks)) * math.sqrt((1 + alike) / (1 - alike))


# the old result, before anything is run


def read_result(path: str | Path, engines: Iterable[str]) -> dict[str, Any]:
    """The JSON of an earlier bench: a file that is it, or a log whose last line is. UserError, also where none of
    `engines` is in it."""
    try:
        table = _parse(Path(path).read_text("utf-8"))
        _check(table)
    except OSError as error:
        raise UserError(f"bench --compare {path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"bench --compare {path}: not a result of `rt-avsac bench`: {error}; give its JSON") from None
    wanted = list(engines)
    there = list(dict.fromkeys(name for load in table["loads"].values() for name in load if load[name]["ms"]))
    if not set(wanted) & set(there):
        raise UserError(
            f"bench --compare {path}: nothing in common: asked {', '.join(wanted)}, got {', '.join(there) or 'none'}; "
            "give --engines that are in it"
        )
    return dict(table)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        lines = text.strip().splitlines()
        return json.loads(lines[-1] if lines else "")


def _check(table: Any) -> None:
    """ValueError, with the place, for what `differences` and `moves` would stumble over."""
    if not isinstance(table, dict) or table.get("bench") != "rt-avsac":
        raise ValueError('no "bench": "rt-avsac" in it')
    for key in ("machine", "loads", "engines"):
        _dict(table.get(key), key)
    for key in ("load_before", "others_cpus", "cpus"):
        _number(table["machine"].get(key, 0.0), f"machine.{key}")
    _dict(table["machine"].get("versions", {}), "machine.versions")
    for name, ran in table["engines"].items():
        _dict(ran, f"engines.{name}")
    for what in ("memory_mb", "process_mb"):
        memory = table.get(what, {})
        _dict(memory, what)
        for key, value in memory.items():
            _number(value, f"{what}.{key}")
    for load, engines in table["loads"].items():
        _dict(engines, f"loads.{load}")
        for engine, measured in engines.items():
            place = f"loads.{load}.{engine}"
            _dict(measured, place)
            _dict(measured.get("ms"), f"{place}.ms")
            for key in ("throughput_fps", "drops"):
                _number(measured.get(key), f"{place}.{key}")
            for stage, row in measured["ms"].items():
                _check_row(row, f"{place}.ms.{stage}")


def _check_row(row: Any, place: str) -> None:
    _dict(row, place)
    for key in ("n", "p50", "noise", "max"):
        _number(row.get(key), f"{place}.{key}")
    for key in TAILS:
        if row.get(key) is not None:  # too few samples to claim it
            _number(row[key], f"{place}.{key}")
    blocks = row.get("blocks", [])
    if not isinstance(blocks, list):
        raise ValueError(f"{place}.blocks is no list")
    for value in blocks:
        _number(value, f"{place}.blocks")


def _dict(value: Any, place: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{place} is {'missing' if value is None else 'no table'}")


def _number(value: Any, place: str) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12
    if not good:
        raise ValueError(f"{place} is no number: {str(value)[:40]}")


# both results


def others(result: dict[str, Any]) -> bool:
    """Whether other programs were using the processor."""
    machine = result["machine"]
    cpus = machine.get("cpus") or 1
    if "others_cpus" in machine:
        return bool(machine["others_cpus"] > BUSY_SHARE * cpus)
    return bool(machine.get("load_before", 0.0) > BUSY_LOAD * cpus)


@dataclass(frozen=True)
class Figure:
    """One number of both results, and how far it must move to be worth a word: beyond `noise` and `floor`, whose shares
    are of the smaller of the two, or of `share_of`."""

    load: str
    engine: str
    stage: str
    what: str
    old: float
    new: float
    floor: tuple[float, float, float, float]
    gated: bool = False
    less_is_worse: bool = False
    noise: float = 0.0
    share_of: float | None = None


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What else than speed is not the same, in words: the reader decides whether the two can be compared."""
    pairs = [(key, old["machine"].get(key), new["machine"].get(key)) for key in MACHINE]
    packages: list[dict[str, Any]] = [result["machine"].get("versions") or {} for result in (old, new)]
    pairs += [(name, packages[0].get(name), packages[1].get(name)) for name in sorted({*packages[0], *packages[1]})]
    pairs += [("model", old.get("model"), new.get("model")), ("interrupted", old.get("interrupted"), None)]
    if "checkpoint" in old:
        pairs.append(("checkpoint", old["checkpoint"], new.get("checkpoint")))
    for engine in sorted({*old["engines"], *new["engines"]}):
        then, now = old["engines"].get(engine), new["engines"].get(engine)
        if then is None or now is None:
            words = ["not run" if ran is None else "run" for ran in (then, now)]
            pairs.append((f"engine {engine}", words[0], words[1]))
            continue
        pairs += [(f"{engine}: {key}", then.get(key), now.get(key)) for key in now]
    found = [f"{name} {then or 'none'} then, {now or 'none'} now" for name, then, now in pairs if then != now]
    for when, result in (("then", old), ("now", new)):
        if others(result):
            busy = result["machine"].get("others_cpus", f"load {result['machine'].get('load_before')}")
            cores = result["machine"].get("cpus")
            found.append(f"other programs used the processor {when} ({busy} of {cores} cores): only large moves fail")
    return found


def figures(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Figure]:
    """All that both have."""
    for load, engines in new["loads"].items():
        for engine, now in engines.items():
            before = old["loads"].get(load, {}).get(engine)
            if before is None:
                continue
            frames = min(frames_of(before), frames_of(now))
            for stage, row in now["ms"].items():
                then = before["ms"].get(stage)
                if then is None:
                    continue
                at, total = (load, engine, stage), stage == "total"
                noise = SIGMAS * math.hypot(standard_error(then), standard_error(row))
                yield Figure(*at, "p50", then["p50"], row["p50"], FLOOR_P50, stage in GATED, noise=noise)
                for tail in TAILS:
                    if then.get(tail) is not None and row.get(tail) is not None:
                        yield Figure(*at, tail, then[tail], row[tail], FLOOR_TAIL, total)
                yield Figure(*at, "max", then["max"], row["max"], FLOOR_MAX)
            names = (load, engine, "")
            speeds = before["throughput_fps"], now["throughput_fps"]
            yield Figure(*names, "throughput", *speeds, FLOOR_THROUGHPUT, True, less_is_worse=True)
            yield Figure(*names, "drops", before["drops"], now["drops"], FLOOR_DROPS, True, share_of=frames)
    memory, before = new.get("process_mb", {}), old.get("process_mb", {})
    for engine in [engine for engine in before if engine in memory]:
        yield Figure("", engine, "", "memory", before[engine], memory[engine], FLOOR_MEMORY)
    if old["engines"].keys() == new["engines"].keys():  # one figure for all of them
        memory = new["memory_mb"]
        for key in [key for key in old.get("memory_mb", {}) if key in memory]:
            yield Figure("", "all engines", "", f"memory {key}", old["memory_mb"][key], memory[key], FLOOR_MEMORY)


def frames_of(measured: dict[str, Any]) -> float:
    """All that the camera had."""
    return float(max([row["n"] for row in measured["ms"].values()], default=0) + measured["drops"])


def moves(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """(what moved beyond noise, how many figures were compared); `fails`: for the worse, and far enough; they first."""
    busy = others(old) or others(new)
    found = []
    compared = list(figures(old, new))
    for each in compared:
        share, least, fails, fails_busy = each.floor
        change = abs(each.new - each.old)
        of = min(each.old, each.new) if each.share_of is None else each.share_of
        if change <= max(share * of, least, each.noise):
            continue
        worse = (each.new < each.old) == each.less_is_worse
        far = change > (fails_busy if busy else fails) * of
        found.append(
            {
                "load": each.load,
                "engine": each.engine,
                "stage": each.stage,
                "what": each.what,
                "old": each.old,
                "new": each.new,
                "ratio": round(each.new / each.old, 4) if each.old else None,
                "worse": worse,
                "fails": each.gated and worse and far,
            }
        )
    return sorted(found, key=lambda move: (not move["fails"], not move["worse"])), len(compared)


def text(found: list[dict[str, Any]], compared: int, differ: list[str]) -> str:
    lines = [f"not the same: {each}" for each in differ]
    if not found:
        return "\n".join([*lines, f"{compared} figures compared, none moved beyond noise"])
    for move in found:
        where = ", ".join(part for part in (move["load"], move["engine"], move["stage"]) if part)
        verdict = "FAILS" if move["fails"] else "worse, told only" if move["worse"] else "better"
        ratio = "" if move["ratio"] is None else f", x {move['ratio']:.2f}"
        lines.append(f"{where}: {move['what']} {move['old']:g} → {move['new']:g} ({verdict}{ratio})")
    return "\n".join([*lines, f"{compared} figures compared, {sum(move['fails'] for move in found)} fail"])
