"""`rt-avsac view` on the terminal, its snapshots, and how masks and pictures come together."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import wire_samples
from live_process import LiveProcess
from moving_dog import DOG, FREE, HTTP, Show, moving, picture

from rt_avsac.client import MaskSubscriber
from rt_avsac.errors import AddressError
from rt_avsac.messages import MaskMessage, PreviewMessage
from rt_avsac.palette import color
from rt_avsac.publish import Publisher
from rt_avsac.screen import Screen
from rt_avsac.view import split_http


@pytest.fixture(scope="module")
def show() -> Iterator[Show]:
    with Show() as running:
        yield running


@pytest.mark.parametrize(
    ("address", "said"),
    [("nonsense", "tcp://HOST:PORT"), ("tcp://127.0.0.1:99999", "tcp://HOST:PORT"), ("tcp://*:5555", "wildcard")],
)
def test_a_wrong_address_is_one_line(address: str, said: str) -> None:
    with LiveProcess("view", address, "--no-window") as view:
        assert view.wait() == 2
        assert view.lines == []
        (line,) = view.errors
        assert said in line


def test_nobody_there_is_said_and_waited_for(show: Show) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with LiveProcess("view", address, *HTTP, "--max-seconds", "60") as view:
        view.until_line(f"{address}: nothing published yet; not connected")
        with Show(address):
            view.until_line("receiving cam0")
        view.signal(signal.SIGINT)
        assert view.wait() == 0
        assert view.errors == []
    with LiveProcess("view", address, *HTTP, "--max-seconds", "0.5", "-q") as view:
        assert (view.wait(), view.said()) == (0, "")


def test_a_taken_port(show: Show) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        asked = f"127.0.0.1:{taken.getsockname()[1]}"
        with LiveProcess("view", show.address, "--http", asked) as view:
            assert view.wait() == 4
            (line,) = view.errors
            assert f"page {asked}: cannot be served there: Address already in use" in line


def test_snapshot_has_picture_and_mask(show: Show, tmp_path: Path) -> None:
    with LiveProcess("view", show.address, "--snapshot", str(tmp_path / "now.png")) as view:
        assert view.wait() == 0, view.said()
    assert [file.name for file in tmp_path.iterdir()] == ["now.png"]
    image = cv2.cvtColor(cv2.imread(str(tmp_path / "now.png")), cv2.COLOR_BGR2RGB)
    scale = image.shape[1] // 320
    row = image[100 * scale, 20 * scale :: 40 * scale].astype(int)
    dog = int(row.sum(1).argmax())
    assert np.abs(row[dog] - (255 * 0.55 + np.array(color(DOG)) * 0.45)).max() < 8
    assert np.abs(np.delete(row, dog, 0) - 20).max() < 8


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [("now.gif", 2, "can be .png or .jpg"), ("nowhere/now.png", 5, "No such file"), ("", 4, "nothing to show within")],
)
def test_snapshots_that_cannot_be(show: Show, tmp_path: Path, name: str, code: int, said: str) -> None:
    words = ["view", show.address, "--snapshot", str(tmp_path / (name or "now.png")), "--max-seconds", "5"]
    if not name:
        words += ["--source", "another", "--max-seconds", "0.5"]
    with LiveProcess(*words) as view:
        assert view.wait() == code
        (line,) = view.errors
        assert said in line
    assert list(tmp_path.iterdir()) == []


def test_a_window_needs_a_display(show: Show) -> None:
    with LiveProcess("view", show.address, "--window", env={"DISPLAY": "", "WAYLAND_DISPLAY": ""}) as view:
        assert view.wait() == 2
        (line,) = view.errors
        assert "there is no display" in line


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("8081", ("127.0.0.1", 8081)),
        (":8081", ("127.0.0.1", 8081)),
        ("0.0.0.0", ("0.0.0.0", 8080)),
        ("[::1]:0", ("::1", 0)),
    ],
)
def test_where_to_serve(text: str, wanted: tuple[str, int]) -> None:
    assert split_http(text) == wanted


@pytest.mark.parametrize("text", ["a:b", "127.0.0.1:99999", "http://127.0.0.1:80", "::"])
def test_where_not_to_serve(text: str) -> None:
    with pytest.raises(AddressError, match="HOST:PORT"):
        split_http(text)


def test_masks_wait_for_their_pictures_and_do_without_when_they_stop() -> None:
    with Publisher(FREE) as publisher, MaskSubscriber(publisher.endpoint) as subscriber:
        screen = Screen(subscriber)
        wire_samples.wait_until(lambda: subscriber.info, doing=lambda: publisher.send(wire_samples.info()))

        def send(*messages: MaskMessage | PreviewMessage) -> None:
            for message in messages:
                publisher.send(message)

        send(moving(0))
        first = screen.next(10)
        assert first is not None
        assert first.picture is None
        shown = []
        seq = 1
        while len(shown) < 12:
            for _ in range(1 + seq % 3):  # at times the masks of a picture are skipped
                send(moving(seq), picture(seq - 1))
                seq += 1
            shown += [item for item in [screen.next(10)] if item and item.picture]
        assert all(item.picture.seq == item.masks.seq for item in shown if item.picture)

        def no_picture() -> bool:
            nonlocal seq
            seq += 1
            send(moving(seq))
            item = screen.next(10)
            return item is not None and item.picture is None

        wire_samples.wait_until(no_picture)
