"""Series of durations with the frame of each: percentiles only where there are enough samples to claim them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

PERCENTILES = (50, 90, 95, 99)
MIN_BEYOND = 10  # samples that must lie beyond a percentile before it is claimed: p90 from 100, p99 from 1,000
NUM_BLOCKS = 8


@dataclass
class Series:
    """One stage of one engine. `add` costs well under a microsecond."""

    values_ns: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)

    def add(self, value_ns: int, frame_index: int) -> None:
        self.values_ns.append(value_ns)
        self.frames.append(frame_index)

    def summary(self) -> dict[str, Any]:
        """Milliseconds; a percentile is None where there are too few samples. `noise`: standard error of p50."""
        values = np.array(self.values_ns, np.float64) / 1e6
        if not len(values):
            return {"n": 0}
        worst = int(values.argmax())
        found: dict[str, Any] = {"n": len(values), "min": values.min(), "mean": values.mean()}
        for percent in PERCENTILES:
            enough = percent == 50 or len(values) * (100 - percent) / 100 >= MIN_BEYOND
            found[f"p{percent}"] = np.percentile(values, percent) if enough else None
        found |= {"max": values[worst], "noise": noise(values)}
        rounded = {key: round(float(value), 4) if isinstance(value, float) else value for key, value in found.items()}
        return rounded | {"worst_frame": self.frames[worst]}


def noise(values: np.ndarray) -> float:
    """Standard error of the median, from the medians of consecutive blocks: drift counts as noise, as it should."""
    if len(values) < 2 * NUM_BLOCKS:
        return float(values.std())
    medians = [float(np.median(block)) for block in np.array_split(values, NUM_BLOCKS)]
    return float(np.std(medians, ddof=1) / np.sqrt(NUM_BLOCKS))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Stage → summary, as lines for people."""
    columns = ("n", "min", "mean", *(f"p{percent}" for percent in PERCENTILES), "max", "worst_frame")
    heads = [("", *(column.replace("_", " ") for column in columns))]
    for name, row in rows.items():
        heads.append((name, *(_cell(row.get(column)) for column in columns)))
    widths = [max(len(line[index]) for line in heads) for index in range(len(columns) + 1)]
    return "\n".join(
        "  ".join(cell.ljust(width) if not index else cell.rjust(width) for index, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in heads)
    )


def _cell(value: Any) -> str:
    if value is None:
        return "n/a"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
