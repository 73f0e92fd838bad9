"""The page of an evaluation: index.html with its tables, charts and example masks; needs nothing from elsewhere."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from train.charts import write_charts
from train.items import CONDITIONS, NEGATIVES, ORIGINAL, SWAP
from train.listening import has_moved, named_class, raises_alarm
from train.overlay import CELL, GAP, encode, strip
from train.report import Report, Table, tables, write
from train.scores import Judged

STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: .5em 0 1.5em; } td, th { padding: .15em .7em; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr:nth-child(even) { background: #f4f4f4; }
th { border-bottom: 1px solid #888; } img { max-width: 100%; } .charts img { max-width: 49%; vertical-align: top; }
figure { margin: 0 0 1em; } figcaption { color: #555; font-size: 12px; } .no { color: #b00; font-weight: 600; }
.head { display: flex; font-size: 12px; color: #555; } .head span { text-align: center; }
"""


@dataclass(frozen=True)
class Example:
    name: str
    caption: str
    jpeg: bytes


class Examples:
    """The first items as they come (not the best ones), and the worst of all; memory for those alone."""

    def __init__(self, classes: tuple[str, ...], num_first: int = 24, num_worst: int = 12) -> None:
        self.classes, self.num_first, self.num_worst = classes, num_first, num_worst
        self.first: list[Example] = []
        self._worst: list[tuple[float, int, Example]] = []  # a heap, the best of the worst on top
        self._count = 0

    def add(self, judged: Judged) -> None:
        self._count += 1
        is_first = len(self.first) < self.num_first
        is_worst = self.num_worst > 0 and (
            len(self._worst) < self.num_worst or -judged.iou > self._worst[0][0]  # the heap holds -IoU
        )
        if not is_first and not is_worst:
            return
        example = Example(f"{self._count:05}.jpg", caption(judged, self.classes), encode(strip(judged), ".jpg"))
        if is_first:
            self.first.append(example)
        if is_worst:
            heapq.heappush(self._worst, (-judged.iou, self._count, example))
            if len(self._worst) > self.num_worst:
                heapq.heappop(self._worst)

    @property
    def worst(self) -> list[Example]:
        return [example for _, _, example in sorted(self._worst, key=lambda entry: (-entry[0], entry[1]))]


def caption(judged: Judged, classes: tuple[str, ...]) -> str:
    """What sounds, what was said, and where it all comes from."""
    item = judged.item

    def names(ids: tuple[int, ...]) -> str:
        return " + ".join(classes[i] if i < len(classes) else "sounding" for i in ids) or "nothing"

    parts = [f"{item.id}: {names(item.sounding())}, IoU {judged.iou:.2f}"]
    if judged.class_map:
        said = named_class(judged.predicted(ORIGINAL), judged.class_map[ORIGINAL])
        parts.append(f"called {classes[said] if said else 'nothing'}")
    alarms = [name for name in NEGATIVES if name in judged.sounding and raises_alarm(judged.predicted(name))]
    if alarms:
        parts.append(f"false alarm: {', '.join(alarms)}")
    if SWAP in judged.sounding:
        old, new = item.mask_by_condition[ORIGINAL], item.mask_by_condition[SWAP]
        valid = (old != 255) & (new != 255)
        moved = has_moved(judged.predicted(SWAP), (new != 0) & valid, (old != 0) & valid, valid)
        parts.append(f"swap to {names(item.sounding(SWAP))}: {'moved' if moved else 'did not move'}")
    return "; ".join([*parts, f"masks {item.mask_quality}", f"from {', '.join(item.sources)}"])


def write_page(report: Report, examples: Examples, folder: Path, clips: Sequence[str] = ()) -> Path:
    """index.html, charts and examples/*.jpg; DiskError when the folder cannot take them. `clips`: sheets in clips/."""
    for old in (folder / "examples").glob("[0-9][0-9][0-9][0-9][0-9].jpg"):
        old.unlink(missing_ok=True)  # of an earlier evaluation
    for example in [*examples.first, *examples.worst]:
        write(folder / "examples" / example.name, example.jpeg)
    charts = write_charts(report, folder)
    about, data = report.about, report.data
    text = "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(about.name)}: evaluation</title><style>{STYLE}</style></head><body>",
            f"<h1>{escape(about.name)}</h1>",
            f"<p>{escape(about.backend)}, {escape(about.precision)}; checkpoint sha256 {about.sha256[:16]}…<br>"
            f"{escape(str(data['path']))}, {escape(str(data['kind']))}, split {escape(str(data['split']))}, "
            f"seed {data['seed']}, {data['num_items']} items, {data['wall_s']:.0f} s. The network alone: the live "
            "pipeline's silence gate and its smallest object size are not applied.</p>",
            *(_table(each) for each in tables(report)),
            '<p class="charts">' + "".join(f'<img src="{name}" alt="{name}">' for name in charts) + "</p>",
            "<h2>The first items</h2><p>As they came, not chosen. Colour: predicted; white outline: what sounds.</p>",
            _strips(examples.first),
            "<h2>The worst masks</h2>" if examples.worst else "",
            _strips(examples.worst),
            "<h2>Real clips</h2>" if clips else "",
            *(f'<p><img src="clips/{escape(clip)}.png" loading="lazy" alt="{escape(clip)}"></p>' for clip in clips),
            "</body></html>",
        ]
    )
    write(folder / "index.html", text.encode())
    return folder / "index.html"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = []
    for row in table.rows:
        cells = "".join(f"<td{' class=no' if cell == 'NO' else ''}>{escape(cell)}</td>" for cell in row)
        rows.append(f"<tr>{cells}</tr>")
    return f"<h2>{escape(table.title)}</h2><table><tr>{head}</tr>{''.join(rows)}</table>"


def _strips(examples: list[Example]) -> str:
    width = 100 * CELL / ((len(CONDITIONS) + 1) * (CELL + GAP) - GAP)
    gap = width * GAP / CELL
    head = "".join(
        f'<span style="width:{width:.3f}%;margin-right:{gap:.3f}%">{escape(name)}</span>'
        for name in ("picture", *CONDITIONS)
    )
    figures = (
        f'<figure><div class="head">{head}</div><img src="examples/{each.name}" loading="lazy" alt="">'
        f"<figcaption>{escape(each.caption)}</figcaption></figure>"
        for each in examples
    )
    return "\n".join(figures)
