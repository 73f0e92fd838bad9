"""Options of each command of rt-avsac, and the words that tell what they do."""

from __future__ import annotations

import argparse
from typing import Any

from rt_avsac.parser import Parser


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
