"""The error of each layer rounded alone, as a picture."""

from __future__ import annotations

from pathlib import Path

from rt_avsac.errors import DiskError

LABELLED = 25


def layer_errors(alone: dict[str, float], float_layers: list[str], path: Path) -> None:
    """PNG: one bar a layer in the order of the network, red = left in floating point; the worst are named."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(alone)
    figure = Figure(figsize=(14, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colors = ["tab:red" if name in float_layers else "tab:blue" for name in names]
    axes.bar(range(len(names)), [max(alone[name], 1e-6) for name in names], color=colors)
    axes.set_yscale("log")
    axes.set_ylabel("relative error of the sounding map, this layer alone in int8")
    worst = sorted(names, key=lambda name: -alone[name])[:LABELLED]
    ticks = sorted(names.index(name) for name in worst)
    axes.set_xticks(ticks, [names[index] for index in ticks], rotation=90, fontsize=7)
    axes.set_title(f"{len(names)} layers; red: {len(float_layers)} stay in floating point")
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise DiskError(f"chart {path}: cannot be written: {error.strerror}") from None
