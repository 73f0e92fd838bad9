"""The bench tells the truth: known delays, losses and drifts are put in, and it has to find them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rt_avsac import bench_chart, bench_load
from rt_avsac.bench_load import SETTLE, Measured, count, single_stream
from rt_avsac.bench_soak import soak
from rt_avsac.config import LiveSettings
from rt_avsac.flow import Frame, Window
from rt_avsac.infer import Segmenter
from rt_avsac.latency import Series
from rt_avsac.messages import MaskMessage
from tests.test_infer import FakeEngine

FRAME_NS = 33_000_000


def messages(frames: list[int], silent: Iterable[int] = ()) -> dict[int, tuple[MaskMessage, int]]:
    """What a run sends of these frames of a camera, and when: a mask 10 ms after its frame."""
    found = {}
    for seq, index in enumerate(frames):
        at_ns = index * FRAME_NS
        message = SimpleNamespace(
            seq=seq,
            audio=SimpleNamespace(silent=index in silent),
            image=SimpleNamespace(frame_index=index),
            t=SimpleNamespace(video_ns=at_ns, publish_ns=at_ns + 9_000_000),
            latency_ms=dict.fromkeys(("capture", "wait", "pre", "infer", "post"), 1.0),
        )
        found[seq] = message, at_ns + 10_000_000
    return found  # type: ignore[return-value]


def arrivals(sent: dict[int, tuple[MaskMessage, int]]) -> dict[int, int]:
    return {seq: sent_ns + 1_000_000 for seq, (_, sent_ns) in sent.items()}


def test_a_slow_engine_is_not_faster_for_a_silent_second() -> None:
    """Every frame while nothing sounds, then every fourth: a quarter of the rate, three frames lost of four."""
    loud = [*range(30, 30 + SETTLE, 4), *range(30 + SETTLE, 30 + SETTLE + 4 * 21, 4)]
    sent = messages([*range(30), *loud], silent=set(range(30)))
    measured = Measured()
    count(measured, sent, arrivals(sent))
    assert measured.throughput == pytest.approx(1e9 / FRAME_NS / 4)
    assert (measured.num, measured.drops) == (20, 60)
    assert len(measured.stages["total"].values_ns) == 21


def test_a_stretch_settles_by_windows_in_which_the_network_runs() -> None:
    sent = messages(list(range(60)), silent=set(range(30)))
    measured = Measured()
    count(measured, sent, arrivals(sent))
    assert measured.stages["infer"].frames == list(range(30 + SETTLE, 60))


def test_a_slow_engine_settles_as_soon() -> None:
    """Ten of its windows would be all that a short stretch has."""
    sent = messages([*range(30), *range(30, 70, 5)], silent=set(range(30)))
    measured = Measured()
    count(measured, sent, arrivals(sent))
    assert measured.stages["infer"].frames == [40, 45, 50, 55, 60, 65]


def test_a_message_that_does_not_arrive_is_dropped() -> None:
    sent = messages(list(range(40)))
    received = arrivals(sent)
    del received[20], received[39], received[3]  # the last before it settled
    measured = Measured()
    count(measured, sent, received)
    assert measured.drops == 2
    assert len(measured.stages["infer"].values_ns) == 40 - SETTLE
    assert len(measured.stages["total"].values_ns) == 40 - SETTLE - 2


@pytest.fixture
def spend_ms(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass that nobody has to wait for."""
    clock, passed_ns = time.monotonic_ns, [0]
    monkeypatch.setattr("time.monotonic_ns", lambda: clock() + passed_ns[0])

    def spend(milliseconds: float) -> None:
        passed_ns[0] += round(milliseconds * 1e6)

    return spend


def measured(
    monkeypatch: pytest.MonkeyPatch, engines: dict[str, Callable[[int], None]], num: int, num_windows: int = 70
) -> dict[str, Measured]:
    """The single stream of made-up engines, which get the number of their run."""

    def opened(settings: LiveSettings, progress: object) -> Segmenter:
        engine, number = FakeEngine(), iter(range(10**6))
        run, work = engine.run, engines[settings.source]
        monkeypatch.setattr(engine, "run", lambda *window: work(next(number)) or run(*window))
        return Segmenter(engine, settings)  # type: ignore[arg-type]

    monkeypatch.setattr(bench_load, "open_segmenter", opened)
    image, audio = np.zeros((12, 16, 3), np.uint8), np.ones(100, np.float32)
    windows = [Window(Frame(image, 0, 500 + index), audio, 0, 0, "ok") for index in range(num_windows)]
    return single_stream({name: LiveSettings(source=name) for name in engines}, num, 0.0, windows, lambda text: None)


def test_a_steady_drift_hits_all_engines_alike(
    spend_ms: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine gets slower by a second a window: by 16 a turn, did the second engine always come after the first."""
    runs = iter(range(10**6))

    def work(number: int) -> None:
        spend_ms(1e6 + 1e3 * next(runs))

    found = measured(monkeypatch, {"a": work, "b": work, "c": work}, 64)
    means = [each.stages["infer"].summary()["mean"] for each in found.values()]
    assert max(means) - min(means) < 1e3


def test_what_the_other_engines_cost_is_not_measured(
    spend_ms: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first window after another engine's turn finds nothing in the caches: a sixteenth of all, so all of p95."""
    last = ""

    def work_of(name: str) -> Callable[[int], None]:
        def work(number: int) -> None:
            nonlocal last
            spend_ms(1e6 if last == name else 2e6)
            last = name

        return work

    found = measured(monkeypatch, {name: work_of(name) for name in "ab"}, 64)
    assert all(each.num == 64 for each in found.values())
    assert max(each.stages["infer"].summary()["max"] for each in found.values()) < 1.1e6


@pytest.mark.parametrize("slow", ["infer", "pack"])
def test_a_delay_is_found_in_its_stage_and_its_window(
    slow: str, spend_ms: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One window of 70 takes a minute more."""
    worst = 500 + 33

    def work(number: int) -> None:
        spend_ms(1e3)
        if slow == "infer" and (number - bench_load.WARM_UP_RUNS) % 70 == 33:
            spend_ms(6e4)

    masks = bench_load.Composer.masks

    def packed(composer: bench_load.Composer, window: Window, *rest: object) -> MaskMessage:
        if slow == "pack" and window.frame.index == worst:
            spend_ms(6e4)
        return masks(composer, window, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(bench_load.Composer, "masks", packed)
    found = measured(monkeypatch, {"a": work}, 140)["a"]
    rows = {stage: series.summary() for stage, series in found.stages.items()}
    for stage in (slow, "total"):
        assert rows[stage]["worst_frame"] == worst, stage
        assert rows[stage]["max"] > 6e4
        assert rows[stage]["p50"] < 2e3
        assert rows[stage]["p90"] < 2e3
        assert rows[stage]["p99"] is None  # 140 windows are too few
    assert rows["infer"]["p50"] == pytest.approx(1e3, rel=0.2)
    other = {"infer": "pack", "pack": "infer"}[slow]
    assert rows[other]["max"] < 5e3
    assert found.throughput == pytest.approx(1e3 / rows["total"]["mean"], rel=1e-3)


def test_silence_in_a_soak_is_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(settings: LiveSettings, on_message: Callable[[Any], None], **rest: object) -> SimpleNamespace:
        for number in range(40):
            silent = number % 20 < 10
            audio, latency_ms = SimpleNamespace(silent=silent), {"total": 1.0 if silent else 50.0}
            on_message(SimpleNamespace(audio=audio, latency_ms=latency_ms))
        return SimpleNamespace(masks=40, seconds=1.0, fps=30.0, drops={}, latency_ms={})

    monkeypatch.setattr("rt_avsac.pipeline.run", run)
    assert set(soak(LiveSettings(), 1e-12, lambda text: None)["p50_ms"]) == {50.0}


def test_what_happens_at_one_time_is_drawn_at_one_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A fast engine has more windows in the same time; and both axes have more than powers of ten."""
    figures: list[Any] = []
    monkeypatch.setattr(bench_chart, "_save", lambda figure, path: figures.append(figure))
    slow, fast = Series(), Series()
    for index in range(1000):
        fast.add(10_000_000 if index < 600 else 20_000_000, index)
    for index in range(100):
        slow.add(40_000_000 if index < 60 else 90_000_000, index)
    bench_chart.draw({"slow": slow, "fast": fast}, "", tmp_path / "a.png")
    (figure,) = figures
    figure.canvas.draw()
    histogram, timeline = figure.axes
    for line in [line for line in timeline.lines if line.get_marker() == "."]:
        x, y = line.get_data()
        assert x[np.argmax(np.diff(y))] == pytest.approx(60, abs=1)
    for axis in (histogram.xaxis, timeline.yaxis):
        assert {"20", "40"} <= {label.get_text() for label in axis.get_ticklabels("both")}
