"""A real `rt-avsac` process for the tests: its lines as they come, its address, signals, and a sure end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

DEADLINE_S = 120.0  # on a loaded machine


class LiveProcess:
    """`rt-avsac WORDS`; a context manager. `limit`: the largest file it may write, bytes (a full disk)."""

    def __init__(self, *words: str, env: dict[str, str] | None = None, limit: int | None = None) -> None:
        command = [sys.executable, "-m", "rt_avsac", *words]
        if limit is not None:
            command = ["prlimit", f"--fsize={limit}", *command]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._news = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self.errors), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: object, into: list[str]) -> None:
        for line in stream:  # type: ignore[attr-defined]
            with self._news:
                into.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def __enter__(self) -> LiveProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def until(self, there: Callable[[list[str]], object], timeout_s: float = DEADLINE_S) -> None:
        """Waits for lines on stdout or stderr for which `there` is true; AssertionError with all that was said."""
        deadline = time.monotonic() + timeout_s
        with self._news:
            while not there(self.lines + self.errors):
                left = deadline - time.monotonic()
                ended = self.process.poll() is not None and not any(reader.is_alive() for reader in self._readers)
                assert left > 0, f"not in {timeout_s} s: {self.said()}"
                assert not ended, f"it ended first: {self.said()}"
                self._news.wait(min(left, 0.2))

    def until_line(self, pattern: str, timeout_s: float = DEADLINE_S) -> re.Match[str]:
        """The first line that has `pattern` in it."""
        found: list[re.Match[str]] = []

        def there(lines: list[str]) -> bool:
            found[:] = [match for line in lines if (match := re.search(pattern, line))]
            return bool(found)

        self.until(there, timeout_s)
        return found[0]

    @property
    def endpoint(self) -> str:
        return self.until_line(r"masks on (\S+)").group(1)

    def signal(self, number: int = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """The exit code, once all its lines are read."""
        code = self.process.wait(timeout_s)
        for reader in self._readers:
            reader.join()
        return code

    def said(self) -> str:
        return "\n".join(self.lines + self.errors)
