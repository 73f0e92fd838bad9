"""The command line: words → one function per command. Nothing heavy is imported before its command runs."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from rt_avsac import __version__
from rt_avsac.errors import DiskError, UserError
from rt_avsac.memory import WAY_OUT, is_lack_of_memory
from rt_avsac.options import (
    add_bench,
    add_compile,
    add_devices,
    add_inspect,
    add_keygen,
    add_live,
    add_record,
    add_replay,
    add_sync_test,
    add_verbosity,
    add_view,
)
from rt_avsac.parser import Parser

EXIT_CODES = (
    "exit codes: 0 done (also after Ctrl-C), 1 a check was negative, 2 bad option, setting or model, "
    "3 camera, microphone or file, 4 address, 5 disk"
)
INTERNAL_ERROR = 70  # a fault of ours, as sysexits.h counts

# name: (module with main(args), arguments, what it does)
COMMANDS: dict[str, tuple[str, Callable[[Parser], None], str]] = {
    "live": ("live", add_live, "camera and microphone in, masks of the sounding objects out"),
    "view": ("view", add_view, "show what a publisher sends, on a live page"),
    "devices": ("devices", add_devices, "list cameras and microphones"),
    "record": ("record", add_record, "live, recorded for replay; ends when the disk is full"),
    "replay": ("replay", add_replay, "run a recording again, publish its messages"),
    "sync-test": ("sync_test", add_sync_test, "measure camera and microphone latency from a flash and a beep"),
    "keygen": ("keys", add_keygen, "make CURVE keys for a publisher and its clients"),
    "compile": ("compile", add_compile, "checkpoint → engine bundle for this machine"),
    "inspect": ("bundle", add_inspect, "print a bundle's manifest, and whether it fits this machine"),
    "bench": ("bench", add_bench, "latency by stage, backends side by side"),
}


def make_parser() -> Parser:
    parser = Parser(
        prog="rt-avsac", description="Which pixels are making the sound.", epilog=EXIT_CODES, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"rt-avsac {__version__}")
    add_verbosity(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, (module, add_arguments, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, epilog=EXIT_CODES, allow_abbrev=False)
        add_arguments(command)
        add_verbosity(command, default=argparse.SUPPRESS)  # what stood before the command stays
        command.set_defaults(module=module, parser=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. Every error a user can meet is one line on stderr."""
    return guarded("rt-avsac", argv, run_command)


def run_command(words: Sequence[str]) -> int:
    parser = make_parser()
    args = parser.parse(words)
    if args.command is None:
        parser.print_help()
        return 2
    module = importlib.import_module(f"rt_avsac.{args.module}")
    return int(module.main(args))


def guarded(program: str, argv: Sequence[str] | None, run: Callable[[Sequence[str]], int]) -> int:
    """`run(words)`; an error is one line that begins with `program`, after its traceback with -v, and its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our dashes and arrows still gets its line
    try:
        try:
            code = run(words)
        except SystemExit:  # after --help
            sys.stdout.flush()
            raise
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if isinstance(error, OSError):
            unread = isinstance(error, BrokenPipeError) and nobody_reads()
            settle_output()
            if unread:
                return 128 + signal.SIGPIPE  # as for tools that do not catch it, and as quietly
        if {"-v", "--verbose"} & set(words):
            import traceback

            traceback.print_exc()
        text, code = explain(error)
        print(f"{program}: {' '.join(text.split())}", file=sys.stderr)
        return code


def settle_output() -> None:
    """What stdout does not take goes nowhere, so that the interpreter does not complain of it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def nobody_reads() -> bool:
    """Whether stdout is a pipe whose other end is closed."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def program() -> NoReturn:
    """`main` as a program of its own, whose end waits for no thread that hangs in a camera's driver."""
    code = main()
    if code > 128 or any(thread.name.endswith(" reading") for thread in threading.enumerate()):
        settle_output()
        sys.stderr.flush()
        # such a thread may wake up inside the driver while the interpreter is taken down, and libraries that were
        # interrupted may wait for their own threads for ever
        os._exit(code)
    sys.exit(code)


def explain(error: Exception) -> tuple[str, int]:
    """One line and the exit code."""
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("rt_avsac"):
        return f"{error.name} is not installed; pip install 'rt-avsac[app]'", 2
    if is_lack_of_memory(error):
        return WAY_OUT, 2
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {error}", DiskError.exit_code
    return f"internal error: {type(error).__name__}: {error}; -v shows where", INTERNAL_ERROR


if __name__ == "__main__":
    program()
