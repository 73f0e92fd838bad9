"""run(): capture → sync → infer → publish, and the status of it all."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from rt_avsac.ahead import Ahead, InTurn, Windows
from rt_avsac.clock import Clock
from rt_avsac.compose import Composer
from rt_avsac.config import LiveSettings
from rt_avsac.counters import Counters
from rt_avsac.errors import UserError
from rt_avsac.infer import open_segmenter
from rt_avsac.messages import MaskMessage, StatusMessage
from rt_avsac.publish import Publisher
from rt_avsac.sidecar import Sidecar
from rt_avsac.sinks import open_sinks
from rt_avsac.sources import open_sources
from rt_avsac.stop import Stop, Stopped

POLL_S = 0.1  # how soon a stop is seen when no window comes
REFUSE_S = 5.0  # how long a camera is given to be there or not before a model is compiled
STATUS_NS = 1_000_000_000


@dataclass(frozen=True)
class Summary:
    """What a run was: `drops` by reason, latencies in ms; `error`: what ended or spoilt it although masks went out."""

    masks: int
    seconds: float
    fps: float
    first_mask_s: float  # from the call of run()
    latency_ms: dict[str, float]
    overhead_ms: dict[str, float]  # without the network and the wait for sound
    drops: dict[str, int]
    error: UserError | None = None


@dataclass
class Pulse:
    """Publishes and shows the status: at 1 Hz and on change. From the loop, so that a hung loop shows as silence."""

    composer: Composer
    publisher: Publisher
    windows: Windows
    show: Callable[[StatusMessage], None]
    max_frame_age_ns: int
    counters: Counters = field(default_factory=Counters)
    sounding: tuple[str, ...] = ()
    sidecar: Sidecar | None = None
    overwritten: int = 0
    _last: tuple[object, ...] = ()
    _last_ns: int = 0

    def drops(self) -> dict[str, int]:
        """By reason, for the status."""
        lost = self.sidecar.dropped if self.sidecar else 0
        own = {"network_busy": self.overwritten, "publish": self.publisher.drops, "sidecar_busy": lost}
        return {reason: count for reason, count in (self.windows.drops | own).items() if count}

    def wire_drops(self) -> dict[str, int]:
        """For every mask message: frames and samples lost on the way to the network, messages that never left."""
        totals = {"video": self.overwritten, "audio": 0, "publish": self.publisher.drops}
        for reason, count in self.windows.drops.items():
            if not reason.startswith("window_"):
                totals["audio" if reason.startswith("audio") else "video"] += count
        return totals

    def state(self, now_ns: int) -> tuple[str, str]:
        """running or degraded, and why."""
        states = self.windows.states.values()
        is_whole = all(state in ("ok", "ended") for state in states)
        reasons = [] if is_whole else [str(self.windows.describe()["text"])]
        age_ns = now_ns - self.counters.last_ns
        if self.counters.masks and age_ns > self.max_frame_age_ns and not self.windows.ended:
            reasons.append(f"no frame for {age_ns / 1e9:.0f} s")
        if self.sidecar and self.sidecar.error:
            reasons.append(str(self.sidecar.error))
        text = "; ".join(filter(None, reasons))
        if not self.counters.masks and "lost" not in states:
            return "starting", text
        return ("degraded" if text else "running"), text

    def beat(self, state: str = "") -> None:
        """A status, if it is time for one."""
        now_ns = time.monotonic_ns()
        states = dict(self.windows.states)
        found, text = self.state(now_ns)
        new = (state or found, text, *sorted(states.items()))
        if new == self._last and now_ns < self._last_ns + STATUS_NS:
            return
        self._last, self._last_ns = new, now_ns
        fps, latency_ms = self.counters.lately(now_ns)
        status = self.composer.status(state or found, text, states, fps, latency_ms, self.drops(), self.sounding)
        self.publisher.send(status)
        self.show(status)


def run(
    settings: LiveSettings,
    *,
    stop: Stop,
    windows: Windows | None = None,
    show: Callable[[StatusMessage], None] = lambda status: None,
    say: Callable[[str], None] = lambda text: None,
    on_message: Callable[[MaskMessage], None] | None = None,
) -> Summary:
    """Until the stop, the end of the file or `duration_s`. `windows`: other than the settings' sources.

    `show` gets every status, `say` what takes long in words, `on_message` every mask message.
    UserErrors: the model, a source, the address.
    """
    called_ns = time.monotonic_ns()

    def progress(text: str) -> None:
        say(text)
        if is_live:
            refuse_early(sources)

    with ExitStack() as stack:
        sources = windows or open_sources(settings)
        is_live = getattr(sources, "kind", "file") != "file"
        publisher = stack.enter_context(
            Publisher(settings.bind, server_key=settings.server_key, allowed_clients=settings.allowed_clients)
        )
        say(f"camera {settings.camera}, microphone {settings.mic} → {settings.source} masks on {publisher.endpoint}")
        clock = None if settings.realtime else getattr(sources, "clock", None) or Clock("media", 0)
        composer = Composer(settings, clock)
        pulse = Pulse(composer, publisher, sources, show, int(settings.max_frame_age_ms * 1e6))
        counters = pulse.counters
        pulse.beat("starting")
        if is_live:  # a camera takes its time to open, and so does a model
            stack.enter_context(sources)  # type: ignore[arg-type]
        try:
            with stop.at_once():
                segmenter = stack.enter_context(open_segmenter(settings, progress))
        except Stopped:
            return summary(called_ns, pulse)
        composer.set_model(segmenter.model)
        publisher.send(composer.info(settings.camera_fps))
        sinks = stack.enter_context(open_sinks(settings, segmenter.model, composer, publisher))
        pulse.sidecar = sidecar = stack.enter_context(Sidecar(sinks, patient=not settings.realtime))
        if not is_live:  # a file plays from its first frame on
            stack.enter_context(sources)  # type: ignore[arg-type]
        in_turn = not settings.realtime or windows is not None  # each window counts
        queue: Ahead | InTurn = InTurn(sources) if in_turn else Ahead(sources)
        stack.enter_context(queue)
        gc.collect()
        gc.freeze()  # what was loaded stays; the collector need not walk through it between frames
        began_ns, first_video_ns = time.monotonic_ns(), -1
        while not (stop.is_set() or queue.ended):
            taken = queue.take(POLL_S)
            pulse.overwritten = queue.overwritten
            if taken is not None:
                window, taken_ns = taken
                first_video_ns = window.frame.time_ns if first_video_ns < 0 else first_video_ns
                if not settings.realtime and is_over(settings, window.frame.time_ns - first_video_ns):
                    break
                loop_ns = time.monotonic_ns()
                prediction = segmenter(window)
                message = composer.masks(window, prediction, taken_ns, loop_ns, pulse.wire_drops())
                publisher.send(message)
                counters.add(time.monotonic_ns(), message.latency_ms)
                pulse.sounding = tuple(sorted({item.label for item in message.objects}))
                sidecar.put(window, prediction, message)
                if on_message is not None:
                    on_message(message)
                if sidecar.error and settings.on_disk_full == "exit":
                    raise sidecar.error
            if settings.realtime and is_over(settings, time.monotonic_ns() - began_ns):
                break
            pulse.beat()
        pulse.beat("stopping")
    return summary(called_ns, pulse)


def refuse_early(sources: Windows) -> None:
    """A camera that is not there is known at once, and not only after a model was compiled for it. SourceError."""
    deadline = time.monotonic() + REFUSE_S
    while sources.states["camera"] == "opening" and time.monotonic() < deadline:
        time.sleep(POLL_S / 10)
    sources.check()


def is_over(settings: LiveSettings, elapsed_ns: int) -> bool:
    return settings.duration_s > 0 and elapsed_ns >= settings.duration_s * 1e9


def summary(called_ns: int, pulse: Pulse) -> Summary:
    counters = pulse.counters
    seconds = (counters.last_ns - counters.first_ns) / 1e9
    return Summary(
        masks=counters.masks,
        seconds=seconds,
        fps=(counters.masks - 1) / seconds if seconds > 0 else 0.0,
        first_mask_s=(counters.first_ns - called_ns) / 1e9 if counters.masks else 0.0,
        latency_ms={f"p{percent}": counters.total.percentile(percent) for percent in (50, 99)},
        overhead_ms={f"p{percent}": counters.overhead.percentile(percent) for percent in (50, 99)},
        drops=pulse.drops(),
        error=pulse.sidecar.error if pulse.sidecar else None,
    )
