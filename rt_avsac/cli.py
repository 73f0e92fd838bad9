"""The command line: words → one function per command. Nothing heavy is imported before its command runs."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import importlib
import io
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from rt_avsac import __version__
from rt_avsac.errors import DiskError, UserError
from rt_avsac.memory import WAY_OUT, is_lack_of_memory

EXIT_CODES = (
    "exit codes: 0 done (also after Ctrl-C), 1 a check was negative, 2 bad option, setting or model, "
    "3 camera, microphone or file, 4 address, 5 disk"
)
MANY = 5  # up to so many choices are listed, of more the closest is named
INTERNAL_ERROR = 70  # a fault of ours, as sysexits.h counts


class Parser(argparse.ArgumentParser):
    """Complains in one line, with a suggestion, instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong:
            choices = [word.strip(" '") for word in wrong.group(2).split(",")]
            message = (
                message[: wrong.start()] + f"unknown choice {wrong.group(1)!r}; {suggestion(wrong.group(1), choices)}"
            )
        raise UserError(message)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        found, unknown = self.parse_known_args(words)
        if unknown:
            command: Parser = getattr(found, "parser", self)
            name = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
            raise UserError(f"unknown option {name!r}; {suggestion(name, command.options())} ({command.prog} --help)")
        return found

    def options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]


def suggestion(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close and len(known) > MANY else f"choose from {', '.join(known)}"


def add_verbosity(parser: Parser, default: Any = False) -> None:
    more, less = "say more; errors with their traceback", "say nothing but errors"
    parser.add_argument("-v", "--verbose", action="store_true", default=default, help=more)
    parser.add_argument("-q", "--quiet", action="store_true", default=default, help=less)


def add_settings(parser: Parser) -> None:
    """--config and --set, the way to every setting that has no option of its own."""
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="any setting; wins over FILE, options win over both",
    )


def add_engine(parser: Parser) -> None:
    parser.add_argument("--model", metavar="MODEL", help="shipped name, .safetensors or engine bundle [avsac-edge]")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="[auto]")
    parser.add_argument("--backend", choices=("auto", "openvino", "torch", "cuda", "tensorrt"), help="[auto]")
    parser.add_argument("--precision", choices=("auto", "fp32", "fp16", "bf16", "int8"), help="[auto]")


def add_publishing(parser: Parser) -> None:
    parser.add_argument("--bind", metavar="ADDRESS", help="publish there [tcp://127.0.0.1:5555]; port 0 = any free one")
    parser.add_argument("--source", metavar="NAME", help="name in the topics [cam0]")
    parser.add_argument("--server-key", metavar="FILE", help="CURVE secret key of `rt-avsac keygen`: encrypt")
    parser.add_argument("--allowed-clients", metavar="PATH", help="file or folder of the clients' public keys")
    parser.add_argument("--log-json", action="store_true", default=None, help="status as JSON lines")


def add_sources(parser: Parser) -> None:
    parser.add_argument("--camera", metavar="CAMERA", help="index, /dev path, rtsp/http URL, file, or demo [0]")
    parser.add_argument(
        "--mic", metavar="MIC", help="default, name, index, file, none, or same (the camera's own) [auto]"
    )


def add_running(parser: Parser) -> None:
    add_sources(parser)
    add_publishing(parser)
    add_engine(parser)
    parser.add_argument("--duration", dest="duration_s", metavar="SECONDS", help="stop after so long [0 = never]")
    parser.add_argument("--threshold", metavar="P", help="probability from which a pixel sounds [0.5]")
    parser.add_argument("--preview", action="store_true", default=None, help="also publish JPEG pictures")
    parser.add_argument("--annotate", metavar="FILE.mp4", help="write a video with the masks drawn in")
    parser.add_argument("--loop", action="store_true", default=None, help="start a file again at its end")
    parser.add_argument(
        "--no-realtime",
        dest="realtime",
        action="store_const",
        const=False,
        help="a file as fast as it goes, every frame",
    )
    parser.add_argument(
        "--on-source-loss",
        choices=("auto", "reopen", "exit"),
        help="auto: reopen, but end if absent at the start [auto]",
    )
    add_settings(parser)


def add_live(parser: Parser) -> None:
    add_running(parser)
    parser.add_argument(
        "--record", metavar="DIR", help="keep pictures, sound and messages there, for `rt-avsac replay`"
    )


def add_record(parser: Parser) -> None:
    parser.add_argument("record", metavar="DIR", help="new folder to record into")
    add_running(parser)


def add_replay(parser: Parser) -> None:
    parser.add_argument("recording", metavar="DIR", help="folder of --record")
    add_publishing(parser)
    add_engine(parser)
    parser.add_argument("--no-realtime", dest="realtime", action="store_const", const=False, help="as fast as it goes")
    parser.add_argument(
        "--check", action="store_true", help="compare with the recorded messages; exit code 1 if others"
    )
    parser.add_argument("--annotate", metavar="FILE.mp4", help="write a video with the masks drawn in")
    add_settings(parser)


def add_view(parser: Parser) -> None:
    parser.add_argument("address", metavar="ADDRESS", help="of a publisher, e.g. tcp://127.0.0.1:5555")
    parser.add_argument("--source", default="", help="only this source")
    parser.add_argument(
        "--http", metavar="HOST:PORT", default="", help="serve the live page there [127.0.0.1:8080 without a window]"
    )
    parser.add_argument(
        "--window",
        action=argparse.BooleanOptionalAction,
        help="show a window [if there is a display, and neither --http nor --snapshot]",
    )
    parser.add_argument("--snapshot", metavar="FILE", default="", help="write one annotated .png or .jpg, and end")
    parser.add_argument(
        "--duration", "--max-seconds", type=float, default=0.0, metavar="SECONDS", help="stop after so long [0 = never]"
    )
    parser.add_argument("--client-key", metavar="FILE", default="", help="CURVE secret key of this client")
    parser.add_argument("--server-public-key", metavar="FILE", default="", help="CURVE public key of the publisher")


def add_devices(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS", help="for each kind of device [5]")


def add_sync_test(parser: Parser) -> None:
    add_sources(parser)
    parser.add_argument("--duration", type=float, default=15.0, metavar="SECONDS", help="to watch and listen [15]")
    parser.add_argument("--make-clip", metavar="FILE.mp4", help="write the flash+beep clip to play, and end")
    add_settings(parser)


def add_keygen(parser: Parser) -> None:
    parser.add_argument("directory", metavar="DIR", nargs="?", default="keys", help="folder to write to [keys]")
    parser.add_argument("--client", metavar="NAME", default="", help="one more client in a folder that has keys")


def thread_count(text: str) -> int:
    """Within what `live` allows."""
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of threads; give 1 to 256")
    return int(text)


def add_compile(parser: Parser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="shipped name or .safetensors")
    parser.add_argument("--backend", default="auto", help="auto, openvino, torch, cuda or tensorrt [auto]")
    parser.add_argument("--precision", default="auto", help="auto, fp32, fp16, bf16 or int8 [auto]")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="[auto]")
    parser.add_argument("--calibration", metavar="FILE", default="", help="of `python -m calibrate`, for int8")
    parser.add_argument("--num-threads", type=thread_count, default=1, help="on the CPU [1]")
    parser.add_argument("--out", metavar="BUNDLE", required=True, help="folder to write")


def add_inspect(parser: Parser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of `rt-avsac compile`")


def add_bench(parser: Parser) -> None:
    parser.add_argument("--model", metavar="MODEL", default="avsac-edge", help="shipped name, .safetensors or bundle")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="[auto]")
    parser.add_argument("--engines", metavar="B:P,…", default="", help="side by side, e.g. torch:fp32,openvino:int8")
    parser.add_argument("--num-threads", type=thread_count, default=1, help="of every engine, on the CPU [1]")
    parser.add_argument("--quick", action="store_true", help="200 windows and 0.5 s instead of 1,024 and 3 s")
    parser.add_argument("--samples", type=int, metavar="N", help="so many windows of each engine")
    parser.add_argument("--out", metavar="DIR", default="", help="for the plot and the JSON line")
    parser.add_argument(
        "--compare", metavar="OLD.json", default="", help="what moved beyond noise; exit code 1 if worse"
    )
    parser.add_argument("--soak", metavar="HOURS", type=float, help="run so long, watch memory")


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
