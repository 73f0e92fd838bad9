"""The loads of the bench: single-stream (a window when the last is received) and the demo at its camera's rate.

Stages: capture (stamp to taken), wait (for its sound), pre, infer, post, pack (message to bytes on the socket), receive
(publish stamp to decoded at the robot; pack is in it), total. Windows in which the network has nothing to do are in no
figure.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rt_avsac import machine
from rt_avsac.client import MaskSubscriber
from rt_avsac.compose import Composer
from rt_avsac.config import LiveSettings
from rt_avsac.flow import Window
from rt_avsac.infer import Segmenter, open_segmenter, rms_dbfs
from rt_avsac.latency import Series
from rt_avsac.messages import MaskMessage
from rt_avsac.publish import Publisher

Say = Callable[[str], None]
WARM_UP_NS = 200_000_000
WARM_UP_RUNS = 30
BLOCK = 16  # windows of one engine before the next has its turn, at least
SETTLE = 10  # frames left out from the first with sound on, in each stretch at the camera's rate
ROUNDS = 4
RECEIVE_S = 10.0

FLAT_STAGES = ("pre", "infer", "post", "pack", "receive", "total")
CAMERA_STAGES = ("capture", "wait", "pre", "infer", "post", "pack", "receive", "total")


@dataclass
class Measured:
    """One engine under one load: what ran, a series a stage, and what was lost."""

    engine: dict[str, str] = field(default_factory=dict)  # backend, precision, device: what "auto" came to
    checkpoint: str = ""  # the first of its SHA-256
    stages: dict[str, Series] = field(default_factory=lambda: defaultdict(Series))
    num: int = 0  # windows in `seconds`
    seconds: float = 0.0
    drops: int = 0  # frames whose mask did not reach the robot

    @property
    def throughput(self) -> float:
        return self.num / self.seconds if self.seconds else 0.0


OPEN = "import json, sys; from rt_avsac.bench_load import opened_mb; print(opened_mb(json.loads(sys.argv[1])))"


def process_mb(settings: LiveSettings) -> float | None:
    """Resident megabytes of a process that opens this engine alone; None if it cannot be had.

    Here the first engine would have to pay for the libraries of all, and a later one moves into what that left.
    """
    done = subprocess.run([sys.executable, "-c", OPEN, json.dumps(asdict(settings))], capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else None


def opened_mb(settings: dict[str, Any]) -> float:
    with open_segmenter(LiveSettings(**settings)):
        return machine.memory_mb()["resident"]


def demo_windows(count: int) -> list[Window]:
    """The first windows of the demo clip, decoded before anything is timed; silence too, as it comes."""
    from rt_avsac.sources import open_sources

    found: list[Window] = []
    with open_sources(LiveSettings(camera="demo", realtime=False)) as sources:
        while len(found) < count and not sources.ended:
            window = sources.next(1.0)
            if window is not None:
                found.append(window)
    return found


class Stream:
    """One engine with its own publisher and subscriber: a window in, the decoded message at the robot out."""

    def __init__(self, segmenter: Segmenter, settings: LiveSettings, stack: ExitStack) -> None:
        self.segmenter = segmenter
        self.composer = Composer(settings)
        self.composer.set_model(segmenter.model)
        self.publisher = stack.enter_context(Publisher("tcp://127.0.0.1:0"))
        self.subscriber = stack.enter_context(MaskSubscriber(self.publisher.endpoint))
        model = segmenter.model
        ran = {"backend": model.backend, "precision": model.precision, "device": segmenter.device}
        self.measured = Measured(ran, model.sha256[:12])
        self._connect()

    def _connect(self) -> None:
        """A subscriber that is there late misses what went before: until the first status arrives, nothing counts."""
        deadline = time.monotonic() + RECEIVE_S
        while self.subscriber.status is None:
            self.publisher.send(self.composer.status("running", "", {}, 0.0, {}, {}, ()))
            time.sleep(0.01)
            if time.monotonic() > deadline:
                raise TimeoutError("the bench's own subscriber does not connect")

    def query(self, window: Window, measure: bool) -> None:
        began = time.monotonic_ns()
        prediction = self.segmenter(window)
        packing = time.monotonic_ns()
        message = self.composer.masks(window, prediction, began, {})
        self.publisher.send(message)
        sent = time.monotonic_ns()
        self.subscriber.recv(RECEIVE_S)
        received = time.monotonic_ns()
        if measure:
            index = window.frame.index
            for name, value in prediction.stages_ns.items():
                self.measured.stages[name].add(value, index)
            self.measured.stages["pack"].add(sent - packing, index)
            self.measured.stages["receive"].add(received - message.t.publish_ns, index)
            self.measured.stages["total"].add(received - began, index)
            self.measured.num += 1
            self.measured.seconds += (received - began) / 1e9


def single_stream(
    engines: dict[str, LiveSettings],
    num: int,
    min_s: float,
    windows: list[Window],
    say: Say,
    found: dict[str, Measured] | None = None,
    between: Callable[[], None] = lambda: None,
) -> dict[str, Measured]:
    """Each engine at least `num` windows and `min_s` seconds, in turns, after a warm-up; no silent windows.

    `found` has what was measured whenever it ends; `between` is called before and after every round of turns, untimed.
    """
    found = {} if found is None else found
    quiet = next(iter(engines.values())).silence_dbfs  # below it no network runs
    loud = [window for window in windows if rms_dbfs(window.audio) >= quiet] or windows
    with ExitStack() as stack:
        streams = {}
        for name, settings in engines.items():
            segmenter = stack.enter_context(open_segmenter(settings, say))
            streams[name] = Stream(segmenter, settings, stack)
        turns = {stream: turn_of(warm_up(stream, loud), num, min_s) for stream in streams.values()}
        found |= {name: stream.measured for name, stream in streams.items()}
        number = 0
        between()
        while left := [each for each in turns if each.measured.num < num or each.measured.seconds < min_s]:
            for stream in left[:: -1 if number % 2 else 1]:  # to and fro: a steady drift hits all alike
                done = stream.measured.num
                turn = turns[stream] if done >= num else min(turns[stream], num - done)
                if len(left) > 1:  # the other engines left nothing in the processor's caches
                    stream.query(loud[done % len(loud)], measure=False)
                for index in range(done, done + turn):
                    stream.query(loud[index % len(loud)], measure=True)
            between()
            number += 1
            if number % 16 == 0:
                say(f"single stream: {min(stream.measured.num for stream in turns)} windows of at least {num}")
        return found


def warm_up(stream: Stream, windows: list[Window]) -> int:
    """At least 30 runs and 200 ms → nanoseconds a window, of the last runs."""
    began, ends = time.monotonic_ns(), [time.monotonic_ns()]
    while len(ends) <= WARM_UP_RUNS or ends[-1] - began < WARM_UP_NS:
        stream.query(windows[len(ends) % len(windows)], measure=False)
        ends.append(time.monotonic_ns())
    return (ends[-1] - ends[-11]) // 10


def turn_of(query_ns: int, num: int, min_s: float) -> int:
    """Windows in a turn of one engine, more of a fast one: all have as many turns, and drift hits all alike."""
    turns = max(1, num // BLOCK)
    return max(BLOCK, math.ceil(min_s * 1e9 / query_ns / turns))


def camera_rate(
    engines: dict[str, LiveSettings], num: int, fps: float, say: Say, found: dict[str, Measured] | None = None
) -> dict[str, Measured]:
    """The whole pipeline on the demo in real time, `num` frames an engine in ROUNDS stretches, engines in turn.

    `found` has what was measured whenever it ends.
    """
    found = {} if found is None else found
    for number in range(ROUNDS):
        for name in list(engines)[:: -1 if number % 2 else 1]:
            say(f"camera's rate: {name}, stretch {number + 1} of {ROUNDS}")
            measured = found.get(name, Measured())
            stretch(measured, engines[name], silent_s() + (num / ROUNDS + 2 * SETTLE) / fps)
            found[name] = measured
    return found


def silent_s() -> float:
    """How long the demo is silent at first: seconds in which the network has nothing to do."""
    from rt_avsac import demo

    truth = demo.truth()
    first = next(index for index, names in enumerate(truth.sounding) if names)
    return float(truth.time_ns[first] - truth.time_ns[0]) / 1e9


def stretch(measured: Measured, settings: LiveSettings, seconds: float) -> None:
    """One run of the pipeline; what it and its subscriber saw is added to `measured`."""
    from rt_avsac.pipeline import run
    from rt_avsac.stop import Stop

    sent: dict[int, tuple[MaskMessage, int]] = {}
    received: dict[int, int] = {}
    done = threading.Event()
    with tempfile.TemporaryDirectory(prefix="rt-avsac-") as folder:
        bind = f"ipc://{Path(folder) / 'bench'}"
        settings = replace(settings, camera="demo", mic="auto", bind=bind, duration_s=seconds, realtime=True)

        def listen(subscriber: MaskSubscriber) -> None:
            while True:  # the last message may come when the run is over
                try:
                    message = subscriber.recv(0.2)
                except TimeoutError:
                    if done.is_set():
                        return
                    continue
                received[message.seq] = time.monotonic_ns()

        with MaskSubscriber(bind) as subscriber:
            listener = threading.Thread(target=listen, args=(subscriber,), daemon=True)
            listener.start()
            try:
                run(
                    settings,
                    stop=Stop(),
                    on_message=lambda message: sent.update({message.seq: (message, time.monotonic_ns())}),
                )
            finally:
                done.set()
                listener.join()
    count(measured, sent, received)


def count(measured: Measured, sent: dict[int, tuple[MaskMessage, int]], received: dict[int, int]) -> None:
    """What a stretch adds: windows with sound, once it has settled; what a slow engine does in silence is no speed.

    A rate is by the camera's clock (the first mask is late, and what follows it would seem faster than the camera);
    frames are dropped where the next mask's frame is not the next one, or its message did not come.
    """
    loud = [message.image.frame_index for message, _ in sent.values() if not message.audio.silent]
    settled, before = min(loud, default=0) + SETTLE, None
    for seq, (message, sent_ns) in sent.items():
        index, publish_ns = message.image.frame_index, message.t.publish_ns
        if message.audio.silent or index < settled:
            before = None
            continue
        if before is not None:
            measured.num += 1
            measured.seconds += (message.t.video_ns - before.t.video_ns) / 1e9
            measured.drops += index - before.image.frame_index - 1
        before = message
        for stage in ("capture", "wait", "pre", "infer", "post"):
            measured.stages[stage].add(round(message.latency_ms[stage] * 1e6), index)
        measured.stages["pack"].add(sent_ns - publish_ns, index)
        if seq in received:
            measured.stages["receive"].add(received[seq] - publish_ns, index)
            measured.stages["total"].add(received[seq] - message.t.video_ns, index)
        else:
            measured.drops += 1
