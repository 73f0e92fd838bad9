"""A real browser for tests: headless Chromium, driven through its debugging pipe (stdlib only)."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
    "--window-size=1280,1100",
]


class Browser:
    """One page; a context manager."""

    def __init__(self) -> None:
        assert BINARY
        self._home = tempfile.mkdtemp()
        read, child_write = os.pipe()
        child_read, write = os.pipe()
        self._read, self._write = read, write
        command = [BINARY, *OPTIONS, f"--user-data-dir={self._home}", "about:blank"]
        shell = ["bash", "-c", f'exec "$@" 3<&{child_read} 4>&{child_write}', "bash", *command]
        self._process = subprocess.Popen(
            shell, pass_fds=(child_read, child_write), stderr=subprocess.DEVNULL, start_new_session=True
        )
        os.close(child_read)
        os.close(child_write)
        self._number, self._rest, self._session = 0, b"", ""
        target = next(t for t in self._ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._write)  # Chromium ends when its pipe does
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        os.close(self._read)
        shutil.rmtree(self._home, ignore_errors=True)

    def open(self, url: str) -> None:
        self._ask("Page.navigate", url=url)
        self.wait_for(f"document.readyState === 'complete' && location.href === {url!r}")

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str, timeout_s: float = 30.0) -> Any:
        """The first true value of an expression."""
        end = time.monotonic() + timeout_s
        while not (value := self.ask(script)):
            assert time.monotonic() < end, (
                f"never: {script}; page: {self.ask('document.body && document.body.innerText')}"
            )
            wait([], 0.05)
        return value

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot")["data"]))

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        request: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            request["sessionId"] = self._session
        os.write(self._write, json.dumps(request).encode() + b"\0")
        end = time.monotonic() + 60
        while True:
            while b"\0" not in self._rest:
                assert wait([self._read], max(end - time.monotonic(), 0.0)), f"no answer to {method}"
                data = os.read(self._read, 1 << 20)
                assert data, "the browser has ended"
                self._rest += data
            text, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
