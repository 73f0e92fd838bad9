"""What an evaluation found, as tables, JSON and charts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rt_avsac.errors import DiskError
from train.items import MUTED, NEGATIVES, NOISE, OFF_SCREEN
from train.metrics import SemanticResult
from train.predictor import About
from train.scores import ALL, HUMAN, GroupResult, plain
from train.shares import ShareResult

NAN = float("nan")


@dataclass(frozen=True)
class Report:
    """Everything that was measured."""

    about: About
    data: dict[str, Any]  # path, kind, split, seed, num_items, wall_s
    groups: dict[str, GroupResult]
    by_class: dict[str, GroupResult]
    semantic: SemanticResult | None
    share: ShareResult
    strangers: dict[str, dict[str, float]] = field(default_factory=dict)  # off-screen sound → num_frames, false_alarm


@dataclass(frozen=True)
class Goal:
    """One line of what the edge model must reach on composed scenes; `above`: more is better."""

    name: str
    value: Callable[[Report], float]
    must: float
    aim: float
    above: bool = True

    def met(self, value: float) -> bool:
        return value >= self.must if self.above else value <= self.must


def _alarm(name: str) -> Callable[[Report], float]:
    def value(report: Report) -> float:
        negatives = report.groups[ALL].listening.negatives
        return negatives[name].frame_false_alarm if name in negatives else NAN

    return value


def _human(report: Report) -> GroupResult:
    return report.groups.get(HUMAN, report.groups[ALL])


GOALS = (
    Goal("mIoU, human masks", lambda report: _human(report).masks.miou, 0.55, 0.70),
    Goal("F at 0.5, human masks", lambda report: _human(report).masks.f_half, 0.65, 0.80),
    Goal("swap accuracy", lambda report: report.groups[ALL].listening.swap_accuracy, 0.80, 0.95),
    Goal("false alarm, muted", _alarm(MUTED), 0.05, 0.01, above=False),
    Goal("false alarm, noise", _alarm(NOISE), 0.08, 0.02, above=False),
    Goal("false alarm, off-screen", _alarm(OFF_SCREEN), 0.15, 0.05, above=False),
    Goal("class right", lambda report: report.groups[ALL].listening.class_accuracy, 0.80, 0.92),
)


def goals_of(report: Report) -> list[dict[str, Any]]:
    """Each goal with what was measured, on composed scenes; what could not be measured is left out."""
    rows: list[dict[str, Any]] = []
    if report.data.get("kind") != "composed":
        return rows
    for goal in GOALS:
        value = goal.value(report)
        if value == value:
            rows.append({"name": goal.name, "value": value, "must": goal.must, "aim": goal.aim, "met": goal.met(value)})
    return rows


Row = tuple[str, Callable[[GroupResult], float | int]]


def _negative(name: str, field: str) -> Callable[[GroupResult], float]:
    def value(group: GroupResult) -> float:
        negatives = group.listening.negatives
        return float(getattr(negatives[name], field)) if name in negatives else NAN

    return value


MASK_ROWS: tuple[Row, ...] = (
    ("frames", lambda group: group.masks.num_frames),
    ("mIoU (M_J)", lambda group: group.masks.miou),
    ("F official (M_F, batch 1)", lambda group: group.masks.f_official),
    ("F of the mean curve", lambda group: group.masks.f_set),
    ("F at 0.5", lambda group: group.masks.f_half),
)
LISTENING_ROWS: tuple[Row, ...] = (
    ("swaps", lambda group: group.listening.num_swaps),
    ("swap accuracy", lambda group: group.listening.swap_accuracy),
    ("mIoU after the swap", lambda group: group.listening.swap_miou),
    ("class right", lambda group: group.listening.class_accuracy),
    *((f"frame false alarm, {name}", _negative(name, "frame_false_alarm")) for name in NEGATIVES),
    *((f"false-positive area, {name}", _negative(name, "false_positive_area")) for name in NEGATIVES),
    *((f"IoU with the original, {name}", _negative(name, "miou_original")) for name in NEGATIVES),
    ("G (ours)", lambda group: group.listening.g),
)
CLASS_COLUMNS: tuple[Row, ...] = (
    *MASK_ROWS[:2],
    MASK_ROWS[4],
    *LISTENING_ROWS[:2],
    LISTENING_ROWS[3],
    (OFF_SCREEN, _negative(OFF_SCREEN, "frame_false_alarm")),
)


@dataclass(frozen=True)
class Table:
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """Aligned columns; the first to the left, numbers to the right."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.head))]

        def aligned(line: Sequence[str]) -> str:
            cells = [line[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
            return "  ".join(cells).rstrip()

        return "\n".join([self.title, *map(aligned, lines)])


def number(value: float | int) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if value != value else f"{value:.3f}"


def tables(report: Report) -> list[Table]:
    """What stdout and the page show."""
    groups = list(report.groups.values())

    def by_group(title: str, rows: Sequence[Row]) -> Table:
        cells = tuple((name, *(number(of(group)) for group in groups)) for name, of in rows)
        kept = tuple(row for row in cells if set(row[1:]) - {"-", "0"})
        return Table(title, ("", *report.groups), kept)

    found = [by_group("Masks under the original sound", MASK_ROWS), by_group("Does it listen?", LISTENING_ROWS)]
    if report.by_class:
        rows = tuple((name, *(number(of(each)) for _, of in CLASS_COLUMNS)) for name, each in report.by_class.items())
        head = ("class", "frames", "mIoU", "F at 0.5", "swaps", "swap", "class right", "off-screen alarm")
        found.append(Table("By the class that sounds", head, rows))
    if report.strangers:
        worst = sorted(report.strangers.items(), key=lambda item: (-item[1]["false_alarm"], -item[1]["num_frames"]))
        rows = tuple((name, str(each["num_frames"]), number(each["false_alarm"])) for name, each in worst)
        found.append(Table("False alarms by the off-screen sound", ("sound", "frames", "frame false alarm"), rows))
    if report.semantic:
        each = report.semantic
        rows = (
            ("with background", number(each.miou), number(each.f)),
            ("without background", number(each.miou_foreground), number(each.f_foreground)),
        )
        title = f"AVSS measures (class means over {each.num_classes_met} classes met)"
        found.append(Table(title, ("", "mIoU", "F"), rows))
    if report.share.num_frames:
        share = report.share
        cells = (number(share.audio), number(share.vision), number(share.margin), number(share.audio_share))
        title = f"Audio's share of the foreground logit margin (Shapley, ours, {share.num_frames} frames)"
        found.append(Table(title, ("phi audio", "phi vision", "margin", "share of audio"), (cells,)))
    if report.about.gates:
        rows = tuple(
            (str(layer), number(gate["audio_to_vision"]), number(gate["vision_to_audio"]))
            for layer, gate in enumerate(report.about.gates, start=1)
        )
        found.append(Table("|w| of the decoder's layers", ("layer", "audio to vision", "vision to audio"), rows))
    if goals := goals_of(report):
        rows = tuple(
            (goal["name"], *(number(goal[key]) for key in ("value", "must", "aim")), "yes" if goal["met"] else "NO")
            for goal in goals
        )
        found.append(Table("What the edge model must reach on composed scenes", ("", "is", "must", "aim", "met"), rows))
    return found


def as_json(report: Report) -> dict[str, Any]:
    return {**plain(report), "goals": plain(goals_of(report))}  # type: ignore[dict-item]


def one_line(report: Report) -> str:
    """The last line on stdout: the measures of all items, flat."""
    whole = report.groups[ALL]
    values: dict[str, Any] = {
        "model": report.about.name,
        "sha256": report.about.sha256,
        "backend": report.about.backend,
        "precision": report.about.precision,
        **report.data,
        "miou": whole.masks.miou,
        "miou_human": report.groups[HUMAN].masks.miou if HUMAN in report.groups else NAN,
        "f_official": whole.masks.f_official,
        "f_set": whole.masks.f_set,
        "f_half": whole.masks.f_half,
        "f_half_human": report.groups[HUMAN].masks.f_half if HUMAN in report.groups else NAN,
        "swap_accuracy": whole.listening.swap_accuracy,
        "class_accuracy": whole.listening.class_accuracy,
        "g": whole.listening.g,
        "audio_share": report.share.audio_share,
    }
    for name, each in whole.listening.negatives.items():
        key = name.replace("-", "_")
        values[f"alarm_{key}"] = each.frame_false_alarm
        values[f"area_{key}"] = each.false_positive_area
    if report.semantic:
        values |= {"avss_miou": report.semantic.miou, "avss_miou_foreground": report.semantic.miou_foreground}
        values |= {"avss_f": report.semantic.f, "avss_f_foreground": report.semantic.f_foreground}
    return json.dumps(plain(values))


def check_writable(folder: Path) -> None:
    """DiskError now rather than after the work."""
    probe = folder / ".writable"
    write(probe, b"")
    probe.unlink(missing_ok=True)


def write(path: Path, data: bytes) -> None:
    """Atomically; DiskError when the folder cannot take it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror}; choose another --out") from None
