"""What a person sees of a run: one line now and then, log.csv, validation.csv, and curves.png."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

EVERY_S = 10.0


def span(seconds: float) -> str:
    """1:02:03"""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


class Log:
    """Means over the steps since the last line; one process writes."""

    def __init__(self, out: Path, first_step: int) -> None:
        self.out = out
        self._sums: dict[str, float] = defaultdict(float)
        self._count = 0
        self._last_s = time.monotonic()
        for name in ("log.csv", "validation.csv"):
            _keep_rows_before(out / name, first_step)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def step(self, step: int, num_steps: int, values: dict[str, float], left_s: float) -> None:
        for name, value in values.items():
            self._sums[name] += value
        self._count += 1
        if time.monotonic() - self._last_s < EVERY_S and step < num_steps:
            return
        means = {name: value / self._count for name, value in self._sums.items()}
        self._sums.clear()
        self._count, self._last_s = 0, time.monotonic()
        _append(self.out / "log.csv", {"step": step, **means})
        parts = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
        self.say(f"step {step}/{num_steps}  {parts}  left {span(left_s)}")

    def validation(self, step: int, score: dict[str, float]) -> None:
        _append(self.out / "validation.csv", {"step": step, **score})
        self.say(f"validation {step}  " + "  ".join(f"{name} {value:.3f}" for name, value in score.items()))
        plot(self.out)


def _append(path: Path, row: dict[str, float]) -> None:
    new = not path.is_file()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, list(row), extrasaction="ignore")
        if new:
            writer.writeheader()
        writer.writerow({name: value if name == "step" else f"{value:.6g}" for name, value in row.items()})


def read_rows(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def _keep_rows_before(path: Path, step: int) -> None:
    """A resumed run writes the steps after its checkpoint again."""
    if not path.is_file():
        return
    with open(path, newline="") as file:
        header, *rows = list(csv.reader(file))
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="") as file:
        csv.writer(file).writerows([header, *(row for row in rows if int(row[0]) <= step)])
    os.replace(temporary, path)


def plot(out: Path) -> None:
    """curves.png: the parts of the loss, and the validation, over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, name in zip(figure.subplots(1, 2), ("log.csv", "validation.csv"), strict=True):
        rows = read_rows(out / name)
        for key in rows[0] if rows else ():
            if key not in ("step", "gradient"):
                axis.plot([row["step"] for row in rows], [row.get(key, float("nan")) for row in rows], label=key, lw=1)
        axis.set(title="losses" if name == "log.csv" else "validation (EMA)", xlabel="step")
        axis.grid(alpha=0.3)
        if rows:
            axis.legend(fontsize=7)
    if rows := read_rows(out / "log.csv"):
        figure.axes[0].set_ylim(0, max(row["total"] for row in rows[len(rows) // 10 :]) * 1.1)
    temporary = out / "curves.tmp"
    figure.savefig(temporary, format="png", dpi=110)
    os.replace(temporary, out / "curves.png")
