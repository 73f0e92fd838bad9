"""The bench as a picture: end-to-end latency of each engine as histogram and timeline; a soak's memory and latency."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rt_avsac.bench_soak import growth_text
from rt_avsac.errors import DiskError
from rt_avsac.latency import Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTH = 25
FEW = 250  # windows that are drawn larger, to be seen


def draw(series: dict[str, Series], title: str, path: Path) -> None:
    """PNG, written atomically; DiskError when it cannot be."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(12, 7), layout="constrained")
    histogram, timeline = figure.subplots(2, 1)
    everything = np.concatenate([np.array(each.values_ns) for each in series.values()]) / 1e6
    bins = np.geomspace(max(everything.min(), 1e-3), everything.max() * 1.01, 120).tolist()
    for name, each in series.items():
        values = np.array(each.values_ns) / 1e6
        histogram.hist(values, bins, alpha=0.6, label=f"{name}: p50 {np.median(values):.2f} ms, n {len(values)}")
        few = len(values) < FEW
        share = 100 * (np.arange(len(values)) + 0.5) / len(values)  # all have as many turns, a fast one more windows
        (dots,) = timeline.plot(share, values, ".", markersize=9 if few else 2, alpha=0.8 if few else 0.4)
        if len(values) > SMOOTH:
            middle = np.convolve(values, np.ones(SMOOTH) / SMOOTH, "valid")
            timeline.plot(share[SMOOTH // 2 :][: len(middle)], middle, color=dots.get_color())
    histogram.set_xscale("log")
    histogram.set_xlabel("ms, window to message received")
    histogram.set_ylabel("windows")
    histogram.legend(fontsize=8)
    timeline.set_yscale("log")
    timeline.set_xlabel(f"% of the run (line: mean of {SMOOTH} windows)")
    timeline.set_ylabel("ms")
    for axis in (histogram.xaxis, timeline.yaxis):  # 20 and 50 too, not only powers of ten
        axis.set_major_formatter(LogFormatter())
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(3, 1)))
    figure.suptitle(title, fontsize=9)
    _save(figure, path)


def draw_soak(result: dict[str, Any], title: str, path: Path) -> None:
    """PNG of what `soak` returned, written atomically; DiskError when it cannot be."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    memory, latency = figure.subplots(2, 1, sharex=True)
    memory.plot(result["at_hours"], result["memory_mb"])
    memory.set_ylabel("MB resident")
    memory.set_title(growth_text(result), fontsize=9)
    latency.plot(result["at_hours"], result["p50_ms"], label="p50")
    latency.plot(result["at_hours"], result["max_ms"], ".", markersize=3, label="max")
    latency.set_yscale("log")
    latency.set_ylabel("ms, capture to publish")
    latency.set_xlabel("hours")
    latency.legend(fontsize=8)
    figure.suptitle(title, fontsize=9)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        figure.savefig(temporary, dpi=100, format="png")
        os.replace(temporary, path)
    except OSError as error:
        raise DiskError(f"chart {path}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
