"""`rt-avsac live` on the demo clip, end to end: real process, real socket, real network."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from rt_avsac import demo
from rt_avsac.client import MaskSubscriber
from rt_avsac.config import LiveSettings
from rt_avsac.messages import MaskMessage, StatusMessage
from rt_avsac.pipeline import Summary, run
from rt_avsac.stop import Stop
from tests.live_process import DEADLINE_S, LiveProcess

LEAST_IOU = 0.5  # of the sounding pixels, where the same things sound through the whole window
DEMO = ("live", "--camera", "demo", "--bind", "tcp://127.0.0.1:0")


@pytest.fixture(scope="module")
def settings(model: str) -> LiveSettings:
    return LiveSettings(camera="demo", bind="tcp://127.0.0.1:0", model=model)


def collect(settings: LiveSettings) -> tuple[list[MaskMessage], list[StatusMessage], Summary]:
    masks: list[MaskMessage] = []
    statuses: list[StatusMessage] = []
    found = run(settings, stop=Stop(), show=statuses.append, on_message=masks.append)
    return masks, statuses, found


def test_the_demo_arrives_at_a_subscriber(model: str) -> None:
    with (
        LiveProcess(*DEMO, "--model", model, "--preview") as live,
        MaskSubscriber(live.endpoint, preview=True) as robot,
    ):
        messages = [robot.recv(DEADLINE_S) for _ in range(45)]
        info, status, preview = robot.info, robot.status, robot.preview
        live.signal()
        assert live.wait() == 0
        last = live.lines[-1]
    assert [m.source for m in messages] == ["cam0"] * 45
    assert len({m.session for m in messages}) == 1
    assert all(b.seq > a.seq and b.t.video_ns > a.t.video_ns for a, b in itertools.pairwise(messages))
    for message in messages:
        assert (message.image.width, message.image.height) == (320, 240)
        assert message.t.video_source == "pts"
        assert abs(message.t.av_skew_ms) <= 0.1
        assert message.t.video_ns <= message.t.publish_ns
        assert set(message.latency_ms) == {"capture", "wait", "pre", "infer", "post", "total"}
        assert message.latency_ms["total"] >= sum(message.latency_ms[part] for part in ("pre", "infer", "post"))
        for item in message.objects:
            assert item.area_px == np.count_nonzero(item.mask)
            assert item.mask.shape == (message.mask.height, message.mask.width)
    assert info is not None
    assert [c.name for c in info.classes] == list(demo.truth().classes)
    assert status is not None
    assert (status.camera, status.microphone) == ("ok", "ok")
    assert preview is not None
    assert preview.jpeg.startswith(b"\xff\xd8")
    assert "masks in" in last


def test_without_real_time_two_runs_differ_in_times_only(settings: LiveSettings) -> None:
    still = dataclasses.replace(settings, realtime=False, duration_s=2.0)
    first, _, found = collect(still)
    second, _, _ = collect(still)
    assert found.masks == len(first) == 60
    assert [timeless(m) for m in first] == [timeless(m) for m in second]
    assert [m.image.frame_index for m in first] == list(range(60))


def timeless(message: MaskMessage) -> tuple[bytes, dict[str, object], bytes]:
    topic, header, payload = message.encode()
    fields = json.loads(header)
    del fields["latency_ms"], fields["t"]["publish_ns"]
    return topic, fields, payload


def test_the_shipped_model_finds_what_sounds_in_the_demo(settings: LiveSettings) -> None:
    masks, _, found = collect(dataclasses.replace(settings, model="avsac-edge", realtime=False))
    truth = demo.truth()
    assert found.masks == len(truth.mask)
    settled = truth.settled()
    ious = [
        iou(message, truth.mask[index] > 0)
        for message in masks
        if settled[index := message.image.frame_index] and truth.mask[index].any()
    ]
    assert len(ious) > 200
    assert np.mean(ious) >= LEAST_IOU


def iou(message: MaskMessage, truth: np.ndarray) -> float:
    """Of all masks of the message together, at the network's size."""
    rows = (np.arange(message.mask.height) + 0.5) * truth.shape[0] / message.mask.height
    columns = (np.arange(message.mask.width) + 0.5) * truth.shape[1] / message.mask.width
    wanted = truth[rows.astype(int)][:, columns.astype(int)]
    got = np.any([item.mask for item in message.objects], axis=0) if message.objects else np.zeros_like(wanted)
    return float((got & wanted).sum() / (got | wanted).sum())


def test_duration_ends_a_run_and_it_says_how_it_went(settings: LiveSettings) -> None:
    masks, statuses, found = collect(dataclasses.replace(settings, duration_s=2.5))
    assert found.masks == len(masks) > 0
    assert [m.seq for m in masks] == list(range(len(masks)))
    assert statuses[0].state == "starting"
    assert statuses[-1].state == "stopping"
    assert "running" in {s.state for s in statuses}
    assert found.latency_ms["p50"] <= found.latency_ms["p99"]


def test_no_sound_is_no_object_and_says_so(settings: LiveSettings) -> None:
    masks, statuses, _ = collect(dataclasses.replace(settings, mic="none", realtime=False, duration_s=0.5))
    assert {m.audio.status for m in masks} == {"missing"}
    assert all(m.audio.silent and not m.objects for m in masks)
    assert statuses[-1].microphone == "none"


def test_the_annotated_video_has_every_picture(settings: LiveSettings, tmp_path: Path) -> None:
    import av

    video = tmp_path / "demo.mp4"
    collect(dataclasses.replace(settings, realtime=False, duration_s=1.0, annotate=str(video)))
    with av.open(video) as container:
        assert sum(1 for _ in container.decode(video=0)) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["demo.mp4"]


def test_status_as_json_lines_follows_the_wire(model: str) -> None:
    with LiveProcess(*DEMO, "--model", model, "--duration", "2.2", "--log-json") as live:
        assert live.wait() == 0
    statuses = [json.loads(line) for line in live.lines]
    assert {status["schema"] for status in statuses} == {"rt-avsac.status"}
    assert statuses[0]["state"] == "starting"
    assert statuses[-1]["state"] == "stopping"
    assert "masks in" in live.errors[-1]


def test_quiet_says_nothing(model: str) -> None:
    with LiveProcess(*DEMO, "--model", model, "--duration", "0.5", "-q") as live:
        assert live.wait() == 0
    assert live.said() == ""
