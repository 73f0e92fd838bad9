"""The live page of `rt-avsac view`: what its server says, and what a real browser makes of it."""

from __future__ import annotations

import base64
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator

import chromium
import numpy as np
import pytest
import wire_samples
from live_process import LiveProcess
from moving_dog import DOG, HTTP, Show, events, get, moving, place

from rt_avsac.page_server import MAX_VIEWERS, SEND_TIMEOUT_S, PageServer
from rt_avsac.palette import color
from rt_avsac.preview import decode_jpeg

GREY = "getComputedStyle(document.getElementById('picture')).filter"


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
