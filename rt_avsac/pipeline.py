"""run(): capture → sync → infer → publish, and the status of it all."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from rt_avsac.compose import Composer
from rt_avsac.config import LiveSettings
from rt_avsac.errors import UserError
from rt_avsac.infer import open_segmenter
from rt_avsac.messages import MaskMessage, StatusMessage
from rt_avsac.publish import Publisher
from rt_avsac.pulse import Pulse
from rt_avsac.sidecar import Sidecar
from rt_avsac.sinks import open_sinks
from rt_avsac.sources import Windows, open_sources
from rt_avsac.stop import Stop, Stopped

POLL_S = 0.1  # how soon a stop is seen when no window comes
REFUSE_S = 5.0  # how long a camera is given to be there or not before a model is compiled


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
        is_live = sources.kind != "file"
        publisher = stack.enter_context(
            Publisher(settings.bind, server_key=settings.server_key, allowed_clients=settings.allowed_clients)
        )
        say(f"camera {settings.camera}, microphone {settings.mic} → {settings.source} masks on {publisher.endpoint}")
        composer = Composer(settings, None if settings.realtime else sources.clock)
        pulse = Pulse(composer, publisher, sources, show, int(settings.max_frame_age_ms * 1e6))
        counters = pulse.counters
        pulse.beat("starting")
        if is_live:  # a camera takes its time to open, and so does a model
            stack.enter_context(sources)
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
            stack.enter_context(sources)
        gc.collect()
        gc.freeze()  # what was loaded stays; the collector need not walk through it between frames
        stack.callback(gc.unfreeze)
        began_ns, first_video_ns = time.monotonic_ns(), -1
        # One loop: a thread that cuts the next window meanwhile was measured, and brought neither frames nor latency
        # (the next frame's sound comes while the network works on this one, so the loop seldom waits for it).
        while not (stop.is_set() or sources.ended):
            window = sources.next(POLL_S)
            if window is not None:
                taken_ns = time.monotonic_ns()
                first_video_ns = window.frame.time_ns if first_video_ns < 0 else first_video_ns
                if not settings.realtime and is_over(settings, window.frame.time_ns - first_video_ns):
                    break
                prediction = segmenter(window)
                message = composer.masks(window, prediction, taken_ns, pulse.wire_drops())
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
