"""`rt-avsac view`: shows what a publisher sends: a window where there is a display, else a live page."""

from __future__ import annotations

import argparse
import os
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rt_avsac import prometheus
from rt_avsac.client import MaskSubscriber
from rt_avsac.errors import AddressError, BadAddressError, DiskError, UserError
from rt_avsac.messages import InfoMessage
from rt_avsac.page_server import PageServer
from rt_avsac.screen import Screen, Shown, frame_fields, info_fields, overlay
from rt_avsac.stop import stop_on_signals

HOST, PORT = "127.0.0.1", 8080
TICK_S = 0.25  # how long to wait for masks before looking after the rest
STATE_EVERY_S = 1.0
PATIENCE_S = 1.0  # so that a publisher that answers at once is not reported missing first
PICTURE_WAIT_S = 1.5  # how long a snapshot waits for the picture of its masks


class Sink(Protocol):
    def update(self, shown: Shown | None) -> bool:
        """Several times a second, with what is new; True when enough was seen."""


def main(args: argparse.Namespace) -> int:
    """Until a signal, --duration, the window's end or a snapshot. AddressError: an address that cannot be one."""
    with stop_on_signals() as stop, ExitStack() as stack:
        snapshot = _Snapshot(Path(args.snapshot)) if args.snapshot else None
        keys = {"client_key": args.client_key, "server_public_key": args.server_public_key}
        subscriber = stack.enter_context(MaskSubscriber(args.address, source=args.source, **keys))
        screen = Screen(subscriber)
        sinks: list[Sink] = [_Sayer(screen, args.quiet)]
        if snapshot:
            sinks.append(snapshot)
        if not snapshot and _want_window(args.window, bool(args.http)):
            from rt_avsac.window import Window

            sinks.append(stack.enter_context(Window(f"rt-avsac {args.address}", screen)))
        if args.http or len(sinks) == 1:
            page = _Page(subscriber, screen, args.http)
            stack.enter_context(page.server)
            if not args.quiet:
                print(f"page: {page.server.url}", flush=True)
            sinks.append(page)
        enough = _watch(screen, sinks, stop, args.duration)
        if snapshot and not enough and not stop.is_set():
            raise AddressError(f"snapshot {snapshot.path}: nothing to show within {args.duration:g} s; {screen.why()}")
    return 0


def _watch(screen: Screen, sinks: list[Sink], stop: threading.Event, duration_s: float) -> bool:
    """Shows what comes; True when a sink has seen enough."""
    end_s = time.monotonic() + (duration_s or float("inf"))
    while not stop.is_set() and (left_s := end_s - time.monotonic()) > 0:
        shown = screen.next(min(TICK_S, left_s))
        if any([sink.update(shown) for sink in sinks]):
            return True
    return False


def _want_window(asked: bool | None, page: bool) -> bool:
    """`asked`: True, False, or None = where there can be one, unless a page is asked for."""
    if asked is False or (asked is None and page):
        return False
    from rt_avsac.window import why_not

    reason = why_not()
    if asked and reason:
        raise UserError(f"window: asked for one, but {reason}; --no-window serves a page instead")
    return not reason


def split_http(text: str) -> tuple[str, int]:
    """HOST:PORT, or one of them; AddressError for what is neither. Port 0 is any free one."""
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = (HOST, text) if text.isdecimal() else (text, str(PORT))
    host = host.removeprefix("[").removesuffix("]") or HOST
    if not port.isdecimal() or int(port) > 65535 or "/" in host:
        raise BadAddressError(f"page {text!a}: asked HOST:PORT, such as {HOST}:{PORT}")
    return host, int(port)


class _Page:
    """The live page as a sink."""

    def __init__(self, subscriber: MaskSubscriber, screen: Screen, http: str) -> None:
        self._subscriber, self._screen = subscriber, screen
        self._info: InfoMessage | None = None
        self._next_state_s = 0.0
        self._why: str | None = None
        if http:
            self.server = self._open(*split_http(http))
        else:  # nobody asked for this port: if it is taken, another one does
            try:
                self.server = self._open(HOST, PORT)
            except AddressError:
                self.server = self._open(HOST, 0)

    def _open(self, host: str, port: int) -> PageServer:
        return PageServer(host, port, self._health, self._metrics)

    def update(self, shown: Shown | None) -> bool:
        info, why, now_s = self._subscriber.info, self._screen.why(), time.monotonic()
        if info is not None and info is not self._info:
            self._info = info
            self.server.put("info", partial(info_fields, info))
        if now_s >= self._next_state_s or why != self._why:
            self._next_state_s, self._why = now_s + STATE_EVERY_S, why
            self.server.put("state", self._screen.state)
        if shown is not None:
            self.server.put("frame", partial(frame_fields, shown))
        return False

    def _health(self) -> tuple[bool, dict[str, Any]]:
        why = self._screen.why()
        return not why, {"ok": not why, "why": why, "masks": self._screen.num_masks, "link": self._subscriber.link}

    def _metrics(self) -> str:
        last = self._screen.last
        return prometheus.metrics(self._subscriber, last.masks if last else None, self._screen.num_masks)


class _Sayer:
    """Says on the terminal what changes: waiting, receiving, lost."""

    def __init__(self, screen: Screen, quiet: bool) -> None:
        self._screen, self._quiet = screen, quiet
        self._began_s = time.monotonic()
        self._said = ""

    def update(self, shown: Shown | None) -> bool:
        why = self._screen.why()
        if why and time.monotonic() - self._began_s < PATIENCE_S:
            return False
        text = why or f"receiving {self._screen.last.masks.source}" if self._screen.last else why
        if text and text != self._said and not self._quiet:
            print(text, flush=True)
        self._said = text
        return False


class _Snapshot:
    """One annotated picture, written to a file; UserError for a kind of file that it cannot be."""

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise UserError(f"snapshot {path}: asked {path.suffix or 'no suffix'}, it can be .png or .jpg")
        self.path = path
        self._first_s = 0.0

    def update(self, shown: Shown | None) -> bool:
        if shown is None:
            return False
        self._first_s = self._first_s or time.monotonic()
        if shown.picture is None and time.monotonic() - self._first_s < PICTURE_WAIT_S:
            return False
        import cv2

        data = cv2.imencode(self.path.suffix.lower(), cv2.cvtColor(overlay(shown), cv2.COLOR_RGB2BGR))[1]
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            part.write_bytes(bytes(data))
            os.replace(part, self.path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise DiskError(f"snapshot {self.path}: cannot be written: {error.strerror}") from None
        return True
