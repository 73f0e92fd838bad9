"""The command line: help, suggestions, one-line errors with their exit codes, settings from file, --set and options."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rt_avsac import cli, live
from rt_avsac.config import LiveSettings
from rt_avsac.errors import UserError

HEAVY = {"numpy", "torch", "cv2", "av", "zmq", "sounddevice", "soxr", "openvino"}


def settings_of(*words: str) -> LiveSettings:
    return live.settings_of(cli.make_parser().parse(["live", *words]))


@pytest.mark.parametrize("words", [["-v", "live"], ["live", "-v"], ["-v", "live", "-q"]])
def test_verbosity_stands_before_the_command_or_after_it(words: list[str]) -> None:
    args = cli.make_parser().parse(words)
    assert args.verbose
    assert args.quiet == ("-q" in words)


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from rt_avsac import cli; cli.make_parser().print_help(); print(*sys.modules, sep='\\n')"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "live" in out
    assert not HEAVY & set(out.split())


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_and_says_the_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main([command, "--help"])
    assert exit_info.value.code == 0
    assert "exit codes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (["live", "--camra", "0"], 2, ["--camra", "'--camera'"]),
        (["liev"], 2, ["liev", "'live'"]),
        (["live", "--device", "gpu"], 2, ["gpu", "auto, cpu, cuda"]),
        (["live", "--set", "thresold=0.4"], 2, ["thresold", "'threshold'"]),
        (["live", "--set", "threshold"], 2, ["threshold", "key=value"]),
        (["live", "--set", "threshold=high"], 2, ["threshold", "high"]),
        (["live", "--threshold", "7"], 2, ["threshold", "7", "between"]),
        (["live", "--duration", "soon"], 2, ["duration_s", "soon"]),
        (["live", "--config", "no-such.toml"], 2, ["no-such.toml"]),
        (["live", "--set", "source=a/b"], 2, ["source", "a/b"]),
        (["live", "--camera", "no-such.mp4"], 3, ["no-such.mp4", "no such file"]),
        (["live", "--camera", "demo", "--mic", "no-such.wav"], 3, ["no-such.wav"]),
        (["live", "--camera", "demo", "--model", "no-such"], 2, ["no-such"]),
        (["live", "--camera", "demo", "--bind", "tcp://127.0.0.1:99999"], 2, ["99999"]),
        (["live", "--camera", "demo", "--bind", "nonsense"], 2, ["nonsense"]),
        (["live", "--camera", "0", "--no-realtime"], 2, ["--no-realtime"]),
        (["live", "--camera", "demo", "--annotate", "video.avi"], 2, ["video.avi", ".mp4"]),
        (["live", "--camera", "demo", "--annotate", "no-such-folder/v.mp4"], 5, ["no-such-folder"]),
        (["replay", "no-such-recording"], 2, ["no-such-recording"]),
        (["compile", "x.safetensors"], 2, ["--out"]),
        (["compile", "avsac-edge", "--out", "/"], 2, ["mount point"]),
        (["compile", "avsac-edge", "--out", "x" * 300], 5, ["File name too long"]),
        (
            ["compile", "avsac-edge", "--out", "b", "--calibration", "nope.json", "--precision", "fp32"],
            2,
            ["nope.json"],
        ),
        (["compile", "avsac-edge", "--out", "b", "--backend", "openvino", "--device", "cuda"], 2, ["device cpu"]),
        (["compile", "x" * 300, "--out", "b"], 2, ["File name too long"]),
        (["live", "--camera", "demo", "--backend", "openvino", "--device", "cuda"], 2, ["asked on device cuda"]),
        (["live", "--camera", "demo", "--backend", "cuda", "--device", "cpu"], 2, ["use --backend openvino or torch"]),
        (["inspect", "no-such-bundle"], 2, ["no such folder"]),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    words: list[str], code: int, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if words[0] == "live" and "--bind" not in words:
        words = [*words, "--bind", "tcp://127.0.0.1:0"]
    assert cli.main(words) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("rt-avsac: ")
    for part in parts:
        assert part in lines[0]


def test_verbose_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["live", "--camera", "no-such.mp4", "-v", "--bind", "tcp://127.0.0.1:0"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(args: argparse.Namespace) -> int:
        raise IndexError("two\nlines")

    monkeypatch.setattr(live, "main", broken)
    assert cli.main(["live"]) == cli.INTERNAL_ERROR
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError(errno.EAGAIN, "Resource temporarily unavailable"),
        ImportError("libtorch.so: failed to map segment from shared object"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
    ],
)
def test_a_lack_of_memory_is_said(error: Exception) -> None:
    text, code = cli.explain(error)
    assert text.startswith("out of memory")
    assert code == 2


def test_a_full_disk_is_said() -> None:
    text, code = cli.explain(OSError(errno.ENOSPC, "No space left on device", "masks.json"))
    assert "No space left" in text
    assert "masks.json" in text
    assert code == 5


def run_program(words: list[str], stdout: int) -> subprocess.CompletedProcess[str]:
    """With a buffer at stdout, as everywhere by default."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "rt_avsac", *words]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("words", [["--version"], ["devices", "--json", "--timeout", "0.1"]])
def test_nobody_reads_what_is_said(words: list[str]) -> None:
    """As with `rt-avsac … | head -0`: an end as of other tools, without a word."""
    reader, writer = os.pipe()
    os.close(reader)
    done = run_program(words, writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_what_is_said_goes_to_a_full_disk() -> None:
    with open("/dev/full", "w") as full:
        done = run_program(["--version"], full.fileno())
    assert done.returncode == 5
    assert done.stderr == "rt-avsac: the disk is full: [Errno 28] No space left on device\n"


def test_a_missing_package_says_what_to_install() -> None:
    text, code = cli.explain(ModuleNotFoundError("No module named 'cv2'", name="cv2"))
    assert "cv2" in text
    assert "rt-avsac[app]" in text
    assert code == 2


def test_options_win_over_set_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "live.toml"
    file.write_text("threshold = 0.3\nsource = 'head'\nnum_threads = 2\n")
    settings = settings_of("--config", str(file), "--set", "threshold=0.4", "--set", "source=left", "--source", "right")
    assert (settings.num_threads, settings.threshold, settings.source) == (2, 0.4, "right")
    assert settings.bind == LiveSettings().bind


def test_every_option_of_live_reaches_its_setting() -> None:
    options = (
        "--camera demo --mic none --bind ipc://x --source s --server-key k --allowed-clients a --log-json --model m "
        "--device cpu --backend torch --precision fp32 --duration 3 --threshold 0.7 --preview --annotate v.mp4 --loop "
        "--no-realtime --on-source-loss exit --record r"
    )
    settings = settings_of(*options.split())
    default = LiveSettings()
    changed = {key for key, value in vars(settings).items() if value != getattr(default, key)}
    assert changed == {
        *("camera", "mic", "bind", "source", "server_key", "allowed_clients", "log_json", "model", "device", "backend"),
        *(
            "precision",
            "duration_s",
            "threshold",
            "preview",
            "annotate",
            "loop",
            "realtime",
            "on_source_loss",
            "record",
        ),
    }


def test_a_broken_settings_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "live.toml"
    file.write_text("threshold = = 3")
    with pytest.raises(UserError, match=r"live\.toml: not TOML"):
        settings_of("--config", str(file))
    file.write_text("threshold = 'often'")
    with pytest.raises(UserError, match="threshold"):
        settings_of("--config", str(file))
