"""Charts of an evaluation, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.report import Report, write
from train.scores import ALL

CLASSES_CHART, ALARMS_CHART = "by_class.png", "listening.png"


def write_charts(report: Report, folder: Path) -> list[str]:
    """The names of the charts written into `folder`."""
    names = []
    if report.by_class:
        _save(by_class(report), folder / CLASSES_CHART)
        names.append(CLASSES_CHART)
    if report.groups[ALL].listening.negatives:
        _save(listening(report), folder / ALARMS_CHART)
        names.append(ALARMS_CHART)
    return names


def by_class(report: Report) -> Any:
    """mIoU, swap accuracy and class right of each sounding class, worst mIoU last."""
    names = sorted(report.by_class, key=lambda name: -report.by_class[name].masks.miou)
    series = {
        "mIoU": [report.by_class[name].masks.miou for name in names],
        "swap accuracy": [report.by_class[name].listening.swap_accuracy for name in names],
        "class right": [report.by_class[name].listening.class_accuracy for name in names],
    }
    labels = [f"{name} ({report.by_class[name].masks.num_frames})" for name in names]
    figure, axis = _figure(7.0, 1.2 + 0.32 * len(names))
    _bars(axis, labels, series)
    axis.set_title("By the class that sounds (frames)")
    return figure


def listening(report: Report) -> Any:
    """mIoU against the original's mask under each sound, and false alarms, by group."""
    original = {name: group.listening for name, group in report.groups.items() if group.listening.negatives}
    conditions = list(original[ALL].negatives)
    series = {
        f"false alarm, {condition}": [
            each.negatives[condition].frame_false_alarm if condition in each.negatives else float("nan")
            for each in original.values()
        ]
        for condition in conditions
    }
    series["swap accuracy"] = [each.swap_accuracy for each in original.values()]
    series["G"] = [each.g for each in original.values()]
    figure, axis = _figure(7.0, 1.5 + 0.6 * len(original))
    _bars(axis, list(original), series)
    axis.set_title("Does it listen?")
    return figure


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _bars(axis: Any, labels: Sequence[str], series: dict[str, list[float]]) -> None:
    places = np.arange(len(labels))
    thickness = 0.8 / len(series)
    for index, (name, values) in enumerate(series.items()):
        axis.barh(places - (len(series) / 2 - index - 0.5) * thickness, np.nan_to_num(values), thickness, label=name)
    axis.set(yticks=places, yticklabels=labels, xlim=(0, 1))
    axis.invert_yaxis()  # the first on top
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=3, frameon=False)


def _save(figure: Any, path: Path) -> None:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    write(path, data.getvalue())
