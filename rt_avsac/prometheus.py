"""prometheus: what a subscriber knows of a publisher, as text for Prometheus (stdlib only)."""

from __future__ import annotations

from collections import Counter

from rt_avsac.client import MaskSubscriber
from rt_avsac.messages import MaskMessage

Samples = dict[tuple[tuple[str, str], ...], float]


def metrics(subscriber: MaskSubscriber, newest: MaskMessage | None, num_masks: int) -> str:
    """Text format 0.0.4. `newest`: the last masks, if any; `num_masks`: shown since the start."""
    status = subscriber.status
    families: list[tuple[str, str, str, Samples]] = [
        ("up", "gauge", "1 if the publisher was heard in the last seconds", {(): float(not subscriber.stale)}),
        ("masks_shown_total", "counter", "mask messages taken", {(): num_masks}),
        ("masks_skipped_total", "counter", "replaced by a newer one before they were taken", {(): subscriber.skipped}),
        ("masks_lost_total", "counter", "never arrived, by gaps of seq", {(): subscriber.dropped}),
        ("messages_refused_total", "counter", "messages that were none", {(): subscriber.refused}),
        ("publisher_restarts_total", "counter", "new sessions seen", {(): subscriber.restarts}),
    ]
    if status is not None:
        families += [
            ("publisher_state", "gauge", "1 for the state it says", {(("state", status.state),): 1}),
            ("publisher_fps", "gauge", "masks per second, by the publisher", {(): status.fps}),
            ("publisher_latency_ms", "gauge", "capture to publish", _by("quantile", status.latency_ms)),
        ]
    drops = dict(status.drops if status is not None else {}) | dict(newest.drops if newest is not None else {})
    if drops:
        families.append(("publisher_drops_total", "counter", "by reason, by the publisher", _by("reason", drops)))
    if newest is not None:
        sounding = Counter(item.label for item in newest.objects)
        families += [
            ("age_ms", "gauge", "since the newest masks' picture was taken", {(): subscriber.age_ms(newest)}),
            ("latency_ms", "gauge", "of the newest masks, by stage", _by("stage", newest.latency_ms)),
            ("audio_rms_dbfs", "gauge", "level of the newest masks' sound", {(): newest.audio.rms_dbfs}),
            ("av_skew_ms", "gauge", "sound after picture", {(): newest.t.av_skew_ms}),
            ("sounding_objects", "gauge", "in the newest masks, by class", _by("label", sounding)),
        ]
    lines = []
    for name, kind, text, samples in families:
        lines += [f"# HELP rtavsac_{name} {text}", f"# TYPE rtavsac_{name} {kind}"]
        for labels, value in samples.items():
            inside = ",".join(f'{key}="{_escape(word)}"' for key, word in labels)
            lines.append(f"rtavsac_{name}{{{inside}}} {value:.15g}" if inside else f"rtavsac_{name} {value:.15g}")
    return "\n".join(lines) + "\n"


def _by(label: str, values: dict[str, float] | dict[str, int] | Counter[str]) -> Samples:
    return {((label, key),): float(value) for key, value in values.items()}


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
