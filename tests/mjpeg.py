"""A network camera for the tests: JPEG pictures over HTTP, as cheap cameras send them; frozen and killed at will."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


class MjpegServer:
    """Serves `picture(t)` (uint8 [H, W, 3] RGB; t = seconds since the start) at `rate_hz`; a context manager.

    `freeze` keeps the connections and sends nothing, `kill` closes everything; `start` serves the same port again.
    """

    def __init__(self, picture: Callable[[float], np.ndarray], rate_hz: float = 30.0) -> None:
        self.picture, self.rate_hz = picture, rate_hz
        self.port = 0
        self.began_ns = time.monotonic_ns()
        self._running = threading.Event()
        self._connections: list[socket.socket] = []
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._killed = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/stream"

    def __enter__(self) -> MjpegServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._serve(self)

            def log_message(self, *args: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = True

            def handle_error(self, *args: object) -> None: ...

        self._killed = threading.Event()
        self._running.set()
        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def freeze(self) -> None:
        self._running.clear()

    def thaw(self) -> None:
        self._running.set()

    def kill(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._killed.set()
        self._running.set()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = None

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        import cv2

        killed = self._killed
        self._connections.append(handler.connection)
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        while not killed.is_set():
            number = int((time.monotonic_ns() - self.began_ns) / 1e9 * self.rate_hz) + 1
            due_ns = self.began_ns + round(number / self.rate_hz * 1e9)
            killed.wait(max(0, due_ns - time.monotonic_ns()) / 1e9)
            self._running.wait()
            jpeg = cv2.imencode(".jpg", self.picture(number / self.rate_hz)[..., ::-1])[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
            handler.wfile.write(head + jpeg + b"\r\n")
