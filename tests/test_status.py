"""The status line: refreshing on a terminal, lines elsewhere, JSON, quiet, and readers that go away."""

from __future__ import annotations

import io
import json
import logging

import pytest

from rt_avsac.clock import Clock
from rt_avsac.messages import StatusMessage
from rt_avsac.status import StatusLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def status(state: str = "running", text: str = "", sounding: tuple[str, ...] = ("dog",)) -> StatusMessage:
    latency = {"p50": 12.3, "p99": 45.6}
    return StatusMessage(
        "s", "cam0", Clock.here(), 0, state, text, "ok", "ok", 29.9, latency, {"network_busy": 3}, sounding, 7
    )


def test_a_terminal_has_one_line_that_refreshes() -> None:
    out = Terminal()
    with StatusLine(out=out) as line:
        line.show(status())
        line.show(status(sounding=()))
        line.say("done")
    text = out.getvalue()
    assert text.count("\n") == 2  # after the refreshed line, and after what was said
    assert text.count("\r") == 2
    for part in ("29.9 fps", "p50 12.3 p99 45.6", "sounding: dog", "network_busy 3"):
        assert part in text


def test_elsewhere_it_is_a_line_on_every_change() -> None:
    out = io.StringIO()
    with StatusLine(out=out) as line:
        for _ in range(3):
            line.show(status())
        line.show(status(state="degraded", text="camera 0: lost"))
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert "camera 0: lost" in lines[1]


def test_json_lines_are_statuses_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with StatusLine(as_json=True) as line:
        line.show(status())
        line.say("compiling")
    found = capsys.readouterr()
    assert json.loads(found.out)["sounding"] == ["dog"]
    assert found.err == "compiling\n"


def test_quiet_leaves_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with StatusLine(quiet=True) as line:
        line.show(status())
        line.say("compiling")
        logging.getLogger("rt_avsac.x").warning("open bind")
        logging.getLogger("rt_avsac.x").error("disk full")
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err == "rt-avsac: error: disk full\n"


@pytest.mark.parametrize("verbose", [False, True])
def test_tracebacks_are_for_verbose(verbose: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with StatusLine(verbose=verbose):
        try:
            raise ValueError("odd")
        except ValueError:
            logging.getLogger("rt_avsac.x").error("stopped", exc_info=True)
    assert ("Traceback" in capsys.readouterr().err) is verbose


def test_a_reader_that_went_away_is_no_error() -> None:
    with StatusLine(out=Closed()) as line:
        line.show(status())
        line.say("done")
