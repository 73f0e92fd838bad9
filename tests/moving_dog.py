"""A publisher of a dog that moves, with pictures, and a reader of the page that shows it."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import wire_samples

from rt_avsac.clock import Clock
from rt_avsac.flow import Frame
from rt_avsac.messages import Image, Mask, MaskMessage, MaskObject, PreviewMessage
from rt_avsac.preview import make_preview
from rt_avsac.publish import Publisher

FREE = "tcp://127.0.0.1:0"
DOG = 17  # in the info of wire_samples
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
