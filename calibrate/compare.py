"""fp32, fp16, bf16 and int8 on the same evaluation items, and the verdict against a budget."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_avsac.bundle import read
from rt_avsac.compile import Request, build
from rt_avsac.config import LiveSettings
from rt_avsac.engines import Engine, open_engine
from rt_avsac.engines.openvino import capabilities, open_core
from rt_avsac.errors import UserError
from rt_avsac.infer import fit_audio
from rt_avsac.quantize import read_calibration
from rt_avsac.scale import scale
from train.evaluate import EvalSet
from train.items import NEGATIVES, ORIGINAL
from train.listening import raises_alarm
from train.scores import ALL, Scores

REFERENCE, JUDGED = "fp32", "int8"
SIGNED = "signed"  # int8 as TensorRT and the exported graph have it
MIN_MIOU = 0.05  # of fp32: with less there is nothing to lose


@dataclass(frozen=True)
class Budget:
    """What a precision may cost against fp32, in points of a hundred."""

    miou: float = 1.0
    false_alarm: float = 1.0


@dataclass(frozen=True)
class Row:
    """One precision. Shares are 0 … 1; agreement: mean IoU of its masks with those of fp32, original sounds.

    `…_error`: standard error, over the items, of the difference to fp32.
    """

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
    miou_error: float = 0.0
    false_alarm_error: float = 0.0


def backends_for(precisions: Sequence[str]) -> dict[str, str]:
    """Of fp32, the `precisions`, and int8: OpenVINO where the processor computes it, else torch. UserError: unknown.

    "signed" is int8 in torch, which rounds as TensorRT does.
    """
    able = capabilities(open_core())
    backends = {
        REFERENCE: "torch",
        "fp16": "openvino" if "FP16" in able else "torch",
        "bf16": "openvino" if "BF16" in able else "torch",
        JUDGED: "openvino",
        SIGNED: "torch",
    }
    unknown = sorted(set(precisions) - set(backends))
    if unknown:
        raise UserError(f"option --precisions: asked {unknown[0]!r}; choose from {', '.join(backends)}")
    return {each: backend for each, backend in backends.items() if each in (REFERENCE, JUDGED, *precisions)}


def engines_for(
    checkpoint: Path, calibration: Path, backends: dict[str, str], work: Path, say: Callable[[str], None]
) -> dict[str, Path]:
    """A bundle of each precision in `work`."""
    bundles = {precision: work / f"{precision}-{backend}" for precision, backend in backends.items()}
    signed = work / "signed.json"
    signed.write_text(json.dumps(asdict(read_calibration(calibration).signed())), "utf-8")
    for precision, backend in backends.items():
        if precision == SIGNED:
            request = Request(checkpoint, backend, JUDGED, str(signed))
        else:
            request = Request(checkpoint, backend, precision, str(calibration))
        build(request, bundles[precision], say)
    return bundles


def compare(bundles: dict[str, Path], eval_set: EvalSet, say: Callable[[str], None]) -> list[Row]:
    """Every item through every engine, one after the other, so that all see the same and drift hits all alike."""
    engines = {precision: open_engine(path, LiveSettings(device="cpu")) for precision, path in bundles.items()}
    manifest = read(bundles[REFERENCE])
    named = len(manifest.classes) > 2 and tuple(manifest.classes) == eval_set.classes
    scores = {precision: Scores(eval_set.classes, named) for precision in engines}
    agreement: dict[str, list[float]] = {precision: [] for precision in engines}
    times: dict[str, list[int]] = {precision: [] for precision in engines}
    by_item: dict[str, list[tuple[float, float]]] = {precision: [] for precision in engines}  # IoU, false alarms
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
            judged = scores[precision].add(item, outputs)
            alarms = [raises_alarm(judged.predicted(name)) for name in NEGATIVES if name in outputs]
            by_item[precision].append((judged.iou, float(np.mean(alarms)) if alarms else 0.0))
            mask = outputs[ORIGINAL].sounding >= 0.5
            wanted = mask if wanted is None else wanted
            either = int((mask | wanted).sum())
            agreement[precision].append(int((mask & wanted).sum()) / either if either else 1.0)
        done += 1
        if time.monotonic() - said > 10:
            said = time.monotonic()
            say(f"{done} items compared")
    if not done:
        raise UserError("calibration: no evaluation items; check --eval-data and --eval-split")
    rows = []
    for precision, engine in engines.items():
        errors = paired_errors(by_item[precision], by_item[REFERENCE])
        rows.append(row(precision, engine, scores[precision], agreement[precision], times[precision], errors))
        engine.close()
    return rows


def paired_errors(after: Sequence[tuple[float, ...]], before: Sequence[tuple[float, ...]]) -> NDArray[np.float64]:
    """Standard error of each column's mean difference; nan with less than two items."""
    if len(after) < 2:
        return np.full(len(after[0]), np.nan)
    return np.asarray((np.array(after) - np.array(before)).std(axis=0, ddof=1) / np.sqrt(len(after)))


def row(
    precision: str,
    engine: Engine,
    scores: Scores,
    agreement: list[float],
    times: list[int],
    errors: NDArray[np.float64],
) -> Row:
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
        miou_error=float(errors[0]),
        false_alarm_error=float(errors[1]),
    )


def differences(before: Row, after: Row) -> tuple[float, float]:
    """Points of mIoU lost and of false alarms gained."""
    return 100 * (before.miou - after.miou), 100 * (after.false_alarm - before.false_alarm)


def over_budget(rows: list[Row], budget: Budget) -> dict[str, list[str]]:
    """Precision → what it costs more than it may, in words; what cannot be told (nan) is over. Empty: all within."""
    before = next(each for each in rows if each.precision == REFERENCE)
    found = {}
    for after in rows:
        lost, gained = differences(before, after)
        costs = []
        if not lost <= budget.miou:
            costs.append(f"mIoU fell by {lost:.2f} points, the budget is {budget.miou:g}")
        if not gained <= budget.false_alarm:
            costs.append(f"false alarms rose by {gained:.2f} points, the budget is {budget.false_alarm:g}")
        if costs:
            found[after.precision] = costs
    return found


def verdict(rows: list[Row], over: dict[str, list[str]]) -> str:
    """A line for each precision but fp32, with how sure it is; and a warning where fp32 has nothing to lose."""
    before = next(each for each in rows if each.precision == REFERENCE)
    lines = []
    if not before.miou >= MIN_MIOU:
        lines.append(
            f"fp32 has {100 * before.miou:.1f} points of mIoU itself: what the others keep of so little tells nothing"
        )
    for after in rows:
        lost, gained = differences(before, after)
        costs = over.get(after.precision)
        if after is not before or costs:
            lines.append(
                f"{after.precision} {'is over the budget: ' + '; '.join(costs) if costs else 'is within the budget'} "
                f"({after.num_items} items, ± standard error of the difference: mIoU {-lost:+.2f} ± "
                f"{100 * after.miou_error:.2f}, false alarms {gained:+.2f} ± {100 * after.false_alarm_error:.2f})"
            )
    return "\n".join(lines)


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
