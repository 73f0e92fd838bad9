"""fp32, fp16, bf16 and int8 on the same evaluation items, and the verdict against a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rt_avsac.bundle import read
from rt_avsac.compile import Request, build
from rt_avsac.config import LiveSettings
from rt_avsac.engines import Engine, open_engine
from rt_avsac.engines.openvino import capabilities, open_core
from rt_avsac.errors import ModelError
from rt_avsac.infer import fit_audio
from rt_avsac.scale import scale
from train.evaluate import EvalSet
from train.items import NEGATIVES, ORIGINAL
from train.scores import ALL, Scores

REFERENCE = "fp32"


@dataclass(frozen=True)
class Budget:
    """What int8 may cost, in points of a hundred."""

    miou: float = 1.0
    false_alarm: float = 1.0


@dataclass(frozen=True)
class Row:
    """One precision. Shares are 0 … 1; agreement: mean IoU of its masks with those of fp32, original sounds."""

    precision: str
    backend: str
    num_items: int
    miou: float
    f: float
    false_alarm: float  # mean over muted, noise and off-screen sounds
    swap_accuracy: float
    class_accuracy: float
    agreement: float
    p50_ms: float


def engines_for(
    checkpoint: Path, calibration: Path, precisions: Sequence[str], work: Path, say: Callable[[str], None]
) -> dict[str, Path]:
    """Bundles of fp32, the `precisions`, and int8: on OpenVINO where the processor computes it, else in torch."""
    able = capabilities(open_core())
    backends = {
        "fp32": "torch",
        "fp16": "openvino" if "FP16" in able else "torch",
        "bf16": "openvino" if "BF16" in able else "torch",
        "int8": "openvino",
    }
    bundles = {}
    unknown = sorted(set(precisions) - set(backends))
    if unknown:
        raise ModelError(f"precision {unknown[0]}: unknown; choose from {', '.join(backends)}")
    for precision, backend in backends.items():
        if precision not in (REFERENCE, "int8", *precisions):
            continue
        bundles[precision] = work / f"{precision}-{backend}"
        build(Request(checkpoint, backend, precision, str(calibration)), bundles[precision], say)
    return bundles


def compare(bundles: dict[str, Path], eval_set: EvalSet, say: Callable[[str], None]) -> list[Row]:
    """Every item through every engine, one after the other, so that all see the same and drift hits all alike."""
    engines = {precision: open_engine(path, LiveSettings(device="cpu")) for precision, path in bundles.items()}
    manifest = read(bundles[REFERENCE])
    named = len(manifest.classes) > 2 and tuple(manifest.classes) == eval_set.classes
    scores = {precision: Scores(eval_set.classes, named) for precision in engines}
    agreement: dict[str, list[float]] = {precision: [] for precision in engines}
    times: dict[str, list[int]] = {precision: [] for precision in engines}
    done, said = 0, time.monotonic()
    for item in eval_set.items:
        image = scale(item.image, manifest.image_size)
        sounds = {
            name: np.ascontiguousarray(fit_audio(audio, manifest.num_audio_samples))
            for name, audio in item.conditions.items()
        }
        wanted = None
        for precision, engine in engines.items():
            outputs = {}
            for name, audio in sounds.items():
                started = time.perf_counter_ns()
                outputs[name] = engine.run(image, audio)
                times[precision].append(time.perf_counter_ns() - started)
            scores[precision].add(item, outputs)
            mask = outputs[ORIGINAL].sounding >= 0.5
            wanted = mask if wanted is None else wanted
            either = int((mask | wanted).sum())
            agreement[precision].append(int((mask & wanted).sum()) / either if either else 1.0)
        done += 1
        if time.monotonic() - said > 10:
            said = time.monotonic()
            say(f"{done} items compared")
    if not done:
        raise ModelError("calibration: no evaluation items; check --data and --split")
    rows = []
    for precision, engine in engines.items():
        rows.append(row(precision, engine, scores[precision], agreement[precision], times[precision]))
        engine.close()
    return rows


def row(precision: str, engine: Engine, scores: Scores, agreement: list[float], times: list[int]) -> Row:
    result = scores.results()[0][ALL]
    alarms = [
        result.listening.negatives[name].frame_false_alarm for name in NEGATIVES if name in result.listening.negatives
    ]
    return Row(
        precision=precision,
        backend=engine.backend,
        num_items=result.masks.num_frames,
        miou=result.masks.miou,
        f=result.masks.f_half,
        false_alarm=float(np.mean(alarms)) if alarms else 0.0,
        swap_accuracy=result.listening.swap_accuracy,
        class_accuracy=result.listening.class_accuracy,
        agreement=float(np.mean(agreement)),
        p50_ms=float(np.median(times)) / 1e6,
    )


def over_budget(rows: list[Row], budget: Budget) -> list[str]:
    """What int8 costs more than it may, in words; empty when it is within."""
    by_precision = {each.precision: each for each in rows}
    before, after = by_precision[REFERENCE], by_precision["int8"]
    lost = 100 * (before.miou - after.miou)
    gained = 100 * (after.false_alarm - before.false_alarm)
    found = []
    if lost > budget.miou:
        found.append(f"mIoU fell by {lost:.2f} points, the budget is {budget.miou:g}")
    if gained > budget.false_alarm:
        found.append(f"false alarms rose by {gained:.2f} points, the budget is {budget.false_alarm:g}")
    return found


def table(rows: list[Row]) -> str:
    """For people: percent, and the difference to fp32 in points."""
    before = rows[0]
    head = ("precision", "backend", "mIoU", "Δ", "F", "false alarm", "Δ", "swap", "class", "agrees", "p50 ms", "speed")
    lines = [head]
    for each in rows:
        lines.append(
            (
                each.precision,
                each.backend,
                f"{100 * each.miou:.2f}",
                f"{100 * (each.miou - before.miou):+.2f}",
                f"{100 * each.f:.2f}",
                f"{100 * each.false_alarm:.2f}",
                f"{100 * (each.false_alarm - before.false_alarm):+.2f}",
                f"{100 * each.swap_accuracy:.1f}",
                f"{100 * each.class_accuracy:.1f}",
                f"{100 * each.agreement:.2f}",
                f"{each.p50_ms:.1f}",
                f"{before.p50_ms / each.p50_ms:.1f}x",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
