"""`rt-avsac view` against a real publisher: the page's server, a real browser, the terminal, snapshots."""

from __future__ import annotations

import base64
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import cv2
import numpy as np
import pytest
import wire_samples
from live_process import LiveProcess

from rt_avsac.client import MaskSubscriber
from rt_avsac.clock import Clock
from rt_avsac.errors import AddressError
from rt_avsac.flow import Frame
from rt_avsac.messages import Image, Mask, MaskMessage, MaskObject, PreviewMessage
from rt_avsac.page_server import MAX_VIEWERS, SEND_TIMEOUT_S, PageServer
from rt_avsac.palette import color
from rt_avsac.preview import decode_jpeg, make_preview
from rt_avsac.publish import Publisher
from rt_avsac.screen import Screen
from rt_avsac.view import split_http

FREE = "tcp://127.0.0.1:0"
DOG = 17  # in the info of wire_samples
GREY = "getComputedStyle(document.getElementById('picture')).filter"
HTTP = ("--http", "127.0.0.1:0")


def place(seq: int) -> int:
    """Where the object of a message is: column 0-7 of the picture, an eighth of it wide."""
    return seq % 8


def moving(seq: int, **more: Any) -> MaskMessage:
    """Masks of 40x30 on a picture of 320x240: one dog, in another column each time."""
    mask = np.zeros((30, 40), np.bool_)
    mask[10:20, place(seq) * 5 : place(seq) * 5 + 5] = True
    x = place(seq) * 40
    dog = MaskObject(0, DOG, "dog", 0.91, (x, 80, 40, 80), (x + 20.0, 120.0), 50, mask)
    grid = Mask(40, 30, (8.0, 0.0, 0.0, 0.0, 8.0, 0.0))
    return wire_samples.masks(seq, image=Image(320, 240, seq), mask=grid, objects=(dog,), **more)


def picture(seq: int) -> PreviewMessage:
    """The picture of those masks: white where the dog is."""
    image = np.full((240, 320, 3), 20, np.uint8)
    image[80:160, place(seq) * 40 : place(seq) * 40 + 40] = 255
    return make_preview(Frame(image, 1, seq), session="8f3c2a11", source="cam0", seq=seq, clock=Clock.here())


class Show:
    """A publisher of moving masks at 30 Hz, pictures a moment after their masks; a context manager."""

    def __init__(self, bind: str = FREE, pictures: bool = True, session: str = "8f3c2a11") -> None:
        self.publisher = Publisher(bind)
        self.address = self.publisher.endpoint
        self._pictures, self._session = pictures, session
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Show:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self.publisher.close()

    def _run(self) -> None:
        self.publisher.send(wire_samples.info(session=self._session))
        seq = 0
        while not self._stop.wait(1 / 30):
            self.publisher.send(moving(seq, session=self._session))
            if self._pictures:
                self.publisher.send(picture(seq))
            if seq % 30 == 0:
                self.publisher.send(wire_samples.status(session=self._session))
            seq += 1


@pytest.fixture(scope="module")
def show() -> Iterator[Show]:
    with Show() as running:
        yield running


@pytest.fixture(scope="module")
def page(show: Show) -> Iterator[str]:
    """The address of a page that shows it."""
    with LiveProcess("view", show.address, *HTTP) as view:
        url = view.until_line(r"page: (http\S+)").group(1)
        view.until_line("receiving cam0")
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Browser]:
    with chromium.Browser() as browser:
        yield browser


def get(url: str, **headers: str) -> tuple[int, str, Any]:
    """Status, text and headers; of a stream its headers only."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            endless = answer.headers["Content-Length"] is None
            return answer.status, "" if endless else answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


def events(url: str, wanted: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
    """So many events of each kind, as they come."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in wanted}
    kind = ""
    with urllib.request.urlopen(url + "events", timeout=20) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        for line in stream:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                found.setdefault(kind, []).append(json.loads(value))
            if all(len(found[kind]) >= number for kind, number in wanted.items()):
                return found
    raise AssertionError(f"the stream has ended: {found}")


def test_page_is_complete_and_asks_nobody_else(page: str) -> None:
    status, text, headers = get(page)
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    for name in ("view.js", "view.css"):
        status, code, _ = get(page + name)
        assert status == 200
        assert name in text
        assert "http://" not in code
        assert "https://" not in code
    assert get(page + "../view.py")[0] == get(page + "nothing")[0] == 404


def test_events_bring_masks_on_the_picture_they_belong_to(page: str) -> None:
    found = events(page, {"info": 1, "state": 1, "frame": 20})
    assert [item["name"] for item in found["info"][0]["classes"]] == ["background", "dog"]
    assert found["state"][0]["link"] == "connected"
    assert sum(frame["jpeg"] is not None for frame in found["frame"]) >= 18  # the first ones may come without
    for frame in found["frame"]:
        (dog,) = frame["objects"]
        assert (dog["label"], dog["color"]) == ("dog", list(color(DOG)))
        bits = np.frombuffer(base64.b64decode(dog["bits"]), np.uint8).reshape(30, 5)
        assert np.array_equal(np.unpackbits(bits, axis=1)[:, :40] > 0, moving(frame["seq"]).objects[0].mask)
        assert 0 <= frame["age_ms"] < 5000
        shown = decode_jpeg(base64.b64decode(frame["jpeg"] or ""))
        assert shown is None or int(shown[120, 20::40, 0].argmax()) == place(frame["seq"])
    assert len({frame["seq"] for frame in found["frame"]}) >= 18


def test_health_and_metrics(page: str) -> None:
    status, text, _ = get(page + "healthz")
    assert (status, json.loads(text)["ok"]) == (200, True)
    lines = get(page + "metrics")[1].splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values["rtavsac_up"] == "1"
    assert float(values["rtavsac_masks_shown_total"]) > 0
    assert values['rtavsac_sounding_objects{label="dog"}'] == "1"
    assert values['rtavsac_latency_ms{stage="infer"}'] == "18.4"
    assert values['rtavsac_publisher_drops_total{reason="network_busy"}'] == "3"
    named = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {name.split("{")[0] for name in values} <= named


def test_a_name_that_was_made_to_point_here_sees_nothing(page: str) -> None:
    assert get(page, Host="evil.example:80")[0] == get(page + "events", Host="evil.example")[0] == 403
    assert get(page, Host="localhost:1234")[0] == 200


@pytest.mark.skipif(chromium.BINARY is None, reason="needs Chromium (apt-get install chromium)")
class TestInABrowser:
    def test_masks_are_drawn_on_the_picture(self, browser: chromium.Browser, page: str) -> None:
        browser.open(page)
        browser.wait_for("document.body.dataset.state === 'live' && document.getElementById('seq').textContent > 5")
        # one look, between two frames: what is drawn in each column, and which message it is
        look = """(() => {
            const c = document.getElementById('picture'), context = c.getContext('2d');
            const at = (x, y) => [...context.getImageData(c.width * x, c.height * y, 1, 1).data].slice(0, 3);
            return {seq: +document.getElementById('seq').textContent,
                    columns: [...Array(8).keys()].map((i) => at((i + .5) / 8, .6))};
        })()"""
        published = np.array(wire_samples.info().classes[1].color)
        for _ in range(5):
            seen = browser.ask(look)
            inside = np.array(seen["columns"].pop(place(seen["seq"])))
            assert np.abs(inside - (255 + (published - 255) * 115 / 255)).max() < 12, seen
            assert np.abs(np.array(seen["columns"]) - 20).max() < 12, seen
        assert "dog" in browser.ask("document.getElementById('sounding').innerText")
        assert browser.ask("[...document.querySelectorAll('#legend .on')].map((e) => e.innerText).join()") == "dog"
        assert "33.1 ms" in browser.ask("document.getElementById('latency').textContent")
        assert "-33 dBFS" in browser.ask("document.getElementById('audio').textContent")
        assert "12" in browser.ask("document.getElementById('drops').innerText")
        hosts = browser.ask("[...new Set(performance.getEntriesByType('resource').map((r) => new URL(r.name).host))]")
        assert hosts == [page.split("/")[2]]

    def test_it_says_what_is_wrong_and_comes_back_by_itself(self, browser: chromium.Browser) -> None:
        with Show(pictures=False, session="00000001") as first:
            address = first.address
            view = LiveProcess("view", address, *HTTP)
            with view:
                url = view.until_line(r"page: (http\S+)").group(1)
                browser.open(url)
                browser.wait_for("document.body.dataset.state === 'live'")
                browser.wait_for("!document.getElementById('hint').hidden")
                browser.ask("window.loaded_once = true")
                first.__exit__()
                browser.wait_for("document.body.dataset.state === 'stale'")
                assert "grayscale" in browser.ask(GREY)
                assert "nothing heard" in browser.ask("document.getElementById('banner').textContent")
                assert get(url + "healthz")[0] == 503
                with Show(address, session="00000002"):
                    browser.wait_for("document.body.dataset.state === 'live'")
                    assert browser.ask(GREY) == "none"
                view.signal(signal.SIGTERM)
                assert view.wait() == 0
            browser.wait_for("document.body.dataset.state === 'gone'")
            with (
                Show(session="00000003") as third,
                LiveProcess("view", third.address, "--http", url.split("/")[2]) as new,
            ):
                new.until_line("receiving")
                browser.wait_for("document.body.dataset.state === 'live'")
            assert browser.ask("window.loaded_once")


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


class TestServer:
    @pytest.fixture
    def server(self) -> Iterator[PageServer]:
        with PageServer("127.0.0.1", 0, lambda: (True, {}), lambda: "") as server:
            yield server

    def viewer(self, server: PageServer) -> socket.socket:
        """One that has asked for the events and got the first bytes."""
        viewer = socket.create_connection((server.host, server.port), 20)
        viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        viewer.sendall(b"GET /events HTTP/1.0\r\n\r\n")
        assert viewer.recv(4).startswith(b"HTTP")
        return viewer

    def test_a_viewer_that_reads_nothing_holds_nobody_up(self, server: PageServer) -> None:
        with self.viewer(server):
            for number in range(200):
                server.put("frame", lambda number=number: {"number": number, "fill": "x" * 100_000})
            server.put("state", lambda: {})
            found = events(server.url, {"frame": 1, "state": 1})
            assert found["frame"][0]["number"] == 199

    def test_its_end_waits_for_no_viewer_and_leaves_no_thread(self) -> None:
        before = set(threading.enumerate())
        with (
            PageServer("127.0.0.1", 0, lambda: (True, {}), lambda: "") as server,
            self.viewer(server),
            socket.create_connection((server.host, server.port)),  # says nothing, as browsers do ahead of time
        ):
            server.put("frame", lambda: {"fill": "x" * 50_000_000})
            wire_samples.wait_until(lambda: server.num_viewers == 1)
            began = time.monotonic()
            server.close()
            assert time.monotonic() - began < SEND_TIMEOUT_S / 2
        assert set(threading.enumerate()) == before

    def test_there_is_an_end_to_viewers(self, server: PageServer) -> None:
        viewers = [self.viewer(server) for _ in range(MAX_VIEWERS)]
        assert get(server.url + "events")[0] == 503
        assert get(server.url)[0] == 200
        viewers.pop().close()

        def admitted() -> bool:
            server.put("state", lambda: {})  # a viewer that has gone is noticed when something is sent
            with socket.create_connection((server.host, server.port), 20) as asking:
                asking.sendall(b"GET /events HTTP/1.0\r\n\r\n")
                return b" 200 " in asking.recv(64)

        wire_samples.wait_until(admitted)
        for viewer in viewers:
            viewer.close()
