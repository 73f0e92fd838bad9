"""PageServer: the live page, its events, /healthz and /metrics over HTTP (stdlib only)."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from rt_avsac.errors import AddressError

MAX_VIEWERS = 16  # pages open at the same time
SEND_TIMEOUT_S = 10.0  # a browser that takes nothing for so long is let go; it connects again when it wakes up
FILES = {"/": "index.html", "/view.js": "view.js", "/view.css": "view.css"}
TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Health = Callable[[], tuple[bool, dict[str, Any]]]


class _Slot:
    """The newest event of a kind, turned into bytes when the first viewer asks for it."""

    def __init__(self) -> None:
        self.version = 0
        self._make: Callable[[], dict[str, Any]] | None = None
        self._text = b""

    def put(self, make: Callable[[], dict[str, Any]]) -> None:
        self.version += 1
        self._make = make

    def text(self, name: str) -> bytes:
        if self._make is not None:
            self._text = f"event: {name}\ndata: {json.dumps(self._make(), separators=(',', ':'))}\n\n".encode()
            self._make = None
        return self._text


class PageServer:
    """A context manager. `put` hands over what is new; every viewer gets the newest of each kind at its own pace."""

    KINDS = ("info", "state", "frame")

    def __init__(self, host: str, port: int, health: Health, metrics: Callable[[], str]) -> None:
        self.health, self.metrics = health, metrics
        self.num_viewers = 0
        self._condition = threading.Condition()
        self._closed = False
        self._slots = {kind: _Slot() for kind in self.KINDS}
        self._connections: set[socket.socket] = set()
        self.files = {
            path: resources.files("rt_avsac").joinpath("page", name).read_bytes() for path, name in FILES.items()
        }
        try:
            self._http = _Http(host, port, self)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise AddressError(
                f"page {host}:{port}: cannot be served there: {reason}; choose another with --http HOST:PORT"
            ) from None
        self.host, self.port = host, int(self._http.server_address[1])
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.1,), name="page", daemon=True)

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"

    def __enter__(self) -> PageServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends every connection and waits for its thread."""
        with self._condition:
            if self._closed:
                return
            self._closed = True
            self._condition.notify_all()
            for connection in self._connections:  # one that is stuck in sending or waiting comes back from it
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def put(self, kind: str, make: Callable[[], dict[str, Any]]) -> None:
        """The newest event of `kind`; `make` builds its JSON if anybody looks, from another thread."""
        with self._condition:
            self._slots[kind].put(make)
            self._condition.notify_all()

    def stream(self, write: Callable[[bytes], Any]) -> None:
        """Events to one viewer until it leaves (OSError) or the server closes."""
        seen = dict.fromkeys(self.KINDS, 0)
        write(b"retry: 1000\n\n")
        while True:
            with self._condition:
                self._condition.wait_for(
                    lambda: self._closed or any(self._slots[kind].version > seen[kind] for kind in seen)
                )
                if self._closed:
                    return
                new = [kind for kind in self.KINDS if self._slots[kind].version > seen[kind]]
                text = b"".join(self._slots[kind].text(kind) for kind in new)
                seen.update({kind: self._slots[kind].version for kind in new})
            write(text)

    def know(self, connection: socket.socket, is_open: bool) -> None:
        """A connection begins or has ended: at the end of the server they all must."""
        with self._condition:
            (self._connections.add if is_open else self._connections.discard)(connection)
            if self._closed and is_open:
                connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def seat(self) -> Any:
        """Whether there is room for one more viewer."""
        with self._condition:
            free = self.num_viewers < MAX_VIEWERS
            self.num_viewers += free
        try:
            yield free
        finally:
            with self._condition:
                self.num_viewers -= free


class _Http(ThreadingHTTPServer):
    daemon_threads = False  # closing the server waits for them
    # two servers on one port would share the requests: no
    allow_reuse_port = False
    request_queue_size = 32

    def __init__(self, host: str, port: int, page: PageServer) -> None:
        self.page = page
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.page.know(request, True)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.page.know(request, False)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A viewer that goes away in the middle is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    timeout = SEND_TIMEOUT_S
    server_version, sys_version = "rt-avsac", ""

    def do_GET(self) -> None:
        page, path = self.server.page, urlsplit(self.path).path
        if not self._asked_by_address():
            self._answer(HTTPStatus.FORBIDDEN, "text/plain; charset=utf-8", b"ask by IP address or as localhost\n")
        elif path in page.files:
            self._answer(HTTPStatus.OK, TYPES[FILES[path].rpartition(".")[2]], page.files[path])
        elif path == "/healthz":
            good, fields = page.health()
            status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, "application/json", json.dumps(fields).encode() + b"\n")
        elif path == "/metrics":
            self._answer(HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", page.metrics().encode())
        elif path == "/events":
            self._events(page)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"not here; the page is at /\n")

    do_HEAD = do_GET

    def _events(self, page: PageServer) -> None:
        with page.seat() as free:
            if not free:
                text = f"{MAX_VIEWERS} pages are open already\n".encode()
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", text)
                return
            self._answer(HTTPStatus.OK, "text/event-stream; charset=utf-8", None)
            if self.command == "GET":
                page.stream(self.wfile.write)

    def _answer(self, status: HTTPStatus, kind: str, body: bytes | None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if body is not None and self.command == "GET":
            self.wfile.write(body)

    def _asked_by_address(self) -> bool:
        """Whether the Host header is an address or this machine's name: a page of a stranger whose name was made to
        point here (DNS rebinding) must not see the camera."""
        try:
            host = urlsplit(f"//{self.headers.get('Host', 'localhost')}").hostname or ""
        except ValueError:
            return False
        if host in ("localhost", self.server.page.host, socket.gethostname().lower()):
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for the state of the publisher."""
