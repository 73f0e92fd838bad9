"""StatusLine: what a person or a log reads of a run: one refreshing line, plain lines, or JSON lines."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from typing import TextIO

from rt_avsac import header
from rt_avsac.messages import StatusMessage

PLAIN_EVERY_S = 5.0  # without a terminal, beside every change


def sentence(status: StatusMessage) -> str:
    """fps, latency, what sounds, drops by reason, and what is wrong."""
    parts = [status.state]
    if status.latency_ms:
        parts.append(f"{status.fps:.1f} fps")
        parts.append(f"p50 {status.latency_ms['p50']:.1f} p99 {status.latency_ms['p99']:.1f} ms")
        parts.append(f"sounding: {', '.join(status.sounding) or '–'}")
    if status.drops:
        parts.append("drops: " + " ".join(f"{reason} {count}" for reason, count in status.drops.items()))
    if status.text:
        parts.append(status.text)
    return " | ".join(parts)


class StatusLine(logging.Handler):
    """Prints statuses to `out` and log records to stderr without tearing the line; a context manager.

    A terminal gets one line that refreshes, anything else a line on every change and every 5 s; `as_json`: one JSON
    object per status (the header of the wire's status message).
    """

    def __init__(
        self, as_json: bool = False, quiet: bool = False, verbose: bool = False, out: TextIO | None = None
    ) -> None:
        super().__init__(logging.ERROR if quiet else logging.DEBUG if verbose else logging.WARNING)
        self._out = out or sys.stdout
        self._as_json, self._quiet, self._verbose = as_json, quiet, verbose
        self._refresh = self._out.isatty() and not as_json
        self._drawn = False
        self._last: tuple[object, ...] = ()
        self._last_s = 0.0

    def __enter__(self) -> StatusLine:
        logger = logging.getLogger("rt_avsac")
        logger.addHandler(self)
        logger.setLevel(self.level)
        logger.propagate = False
        return self

    def __exit__(self, *exc: object) -> None:
        logger = logging.getLogger("rt_avsac")
        logger.removeHandler(self)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        self._end_line()

    def show(self, status: StatusMessage) -> None:
        if self._quiet:
            return
        if self._as_json:
            self._print(json.dumps({"schema": "rt-avsac.status"} | header.plain(status)))
        elif self._refresh:
            width = shutil.get_terminal_size().columns - 1
            self._print(f"\r\x1b[K{sentence(status)[:width]}", end="")
            self._drawn = True
        else:
            now_s = time.monotonic()
            new = (status.state, status.text, status.sounding)
            if new != self._last or now_s >= self._last_s + PLAIN_EVERY_S:
                self._last, self._last_s = new, now_s
                self._print(sentence(status))

    def say(self, text: str) -> None:
        """One line for a person, also with --log-json (there on stderr)."""
        if self._quiet:
            return
        self._end_line()
        if self._as_json:
            print(text, file=sys.stderr, flush=True)
        else:
            self._print(text)

    def emit(self, record: logging.LogRecord) -> None:
        self._end_line()
        if not self._verbose:
            record.exc_info = record.exc_text = None
        print(f"rt-avsac: {record.levelname.lower()}: {self.format(record)}", file=sys.stderr, flush=True)

    def _end_line(self) -> None:
        if self._drawn:
            self._drawn = False
            self._print("")

    def _print(self, text: str, end: str = "\n") -> None:
        try:
            print(text, file=self._out, end=end, flush=True)
        except (BrokenPipeError, ValueError):  # whoever read along went away; the masks go on
            self._quiet = True
