"""`rt-avsac compile` as a program: signals, pipes, quiet, and places that are none."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rt_avsac import build, cli
from rt_avsac.compile import Request, ended_by_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_interrupted_compile_leaves_nothing_and_says_so(
    checkpoint: Path, tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "rt_avsac", "compile", str(checkpoint), "--backend", "openvino"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "b")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # it may be ignored where the tests run
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("compiling tiny")
        assert len(os.listdir(tmp_path)) == 1
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert error == f"rt-avsac: compile: ended by {number.name}; {tmp_path / 'b'} is as it was\n"
    assert os.listdir(tmp_path) == []


def test_what_is_said_goes_through_a_pipe_at_once(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = io.BytesIO()
    seen: list[bytes] = []

    def look(request: Request, folder: Path, say: Any) -> Any:
        seen.append(pipe.getvalue())
        raise RuntimeError("enough")

    monkeypatch.setitem(build.BUILDERS, "torch", look)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe))
    assert cli.main(["compile", str(checkpoint), "--backend", "torch", "--out", str(tmp_path / "b")]) == 2
    assert seen[0].startswith(b"compiling tiny.safetensors")


def test_nobody_reads_what_compile_says(checkpoint: Path, tmp_path: Path) -> None:
    """As with `| head -1`: it ends quietly, and leaves nothing."""
    command = [sys.executable, "-m", "rt_avsac", "compile", str(checkpoint), "--backend", "openvino"]
    command += ["--out", str(tmp_path / "b")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 128 + signal.SIGPIPE
    assert os.listdir(tmp_path) == []


def test_a_hangup_that_is_ignored_stays_so() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals() as came:
            signal.raise_signal(signal.SIGHUP)
        assert came == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_quiet_says_nothing(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compile", str(checkpoint), "--backend", "torch", "--out", str(tmp_path / "b"), "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_what_is_no_place_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    code = (
        "import sys; from rt_avsac import cli; "
        "print(cli.main(['compile', 'avsac-edge', '--out', sys.argv[1]]), {'torch', 'openvino'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "2 set()\n"
    assert "is a file" in done.stderr
