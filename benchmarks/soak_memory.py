"""Is memory flat? An hour of demo (108,000 frames) through the whole pipeline to a socket, as fast as it goes.

    python benchmarks/soak_memory.py --minutes 60

With a subscriber that never reads connected all the time. RSS is read every 200 frames; the slope is fitted after the
first fifth. `--mic none` leaves out the network (the silence gate is closed), ten times as fast. One JSON line last;
exit code 1 if it grows by more than 5 MB in an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import numpy as np
import psutil
import zmq

from rt_avsac.config import LiveSettings
from rt_avsac.messages import MaskMessage, StatusMessage
from rt_avsac.pipeline import run
from rt_avsac.stop import Stop

LIMIT_MB_PER_HOUR = 5.0
EVERY = 200  # frames
FRAMES_PER_HOUR = 108_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="of demo")
    parser.add_argument("--model", default="avsac-edge")
    parser.add_argument("--mic", default="same", choices=("same", "none"))
    parser.add_argument("--plot", default="", metavar="FILE.png")
    args = parser.parse_args()
    process, rss_mb, frames = psutil.Process(), [], []
    context = zmq.Context()
    stuck = context.socket(zmq.SUB)
    stuck.linger, stuck.rcvhwm = 0, 1
    stuck.subscribe(b"")
    endpoint = f"ipc://@rt-avsac-soak-{os.getpid()}"
    stuck.connect(endpoint)
    began = time.monotonic()

    def watch(message: MaskMessage) -> None:
        if message.seq % EVERY == 0:
            rss_mb.append(process.memory_info().rss / 1e6)
            frames.append(message.seq)

    def show(status: StatusMessage) -> None:
        if not sys.stdout.isatty():
            return
        print(
            f"\r{status.seq} frames, {status.fps} per second, {rss_mb[-1] if rss_mb else 0:.1f} MB", end="", flush=True
        )

    settings = LiveSettings(
        camera="demo", realtime=False, duration_s=args.minutes * 60, bind=endpoint, model=args.model, mic=args.mic
    )
    summary = run(settings, stop=Stop(), show=show, on_message=watch)
    stuck.close()
    context.term()
    settled = len(frames) // 5
    slope = float(np.polyfit(frames[settled:], rss_mb[settled:], 1)[0]) * FRAMES_PER_HOUR
    passed = slope <= LIMIT_MB_PER_HOUR
    print(f"\n{summary.masks} frames in {time.monotonic() - began:.0f} s: {slope:+.2f} MB per hour of 30 fps")
    if args.plot:
        plot(args.plot, frames, rss_mb)
    found = {
        "bench": "soak_memory",
        "passed": passed,
        "network": args.mic == "same",
        "frames": summary.masks,
        "mb_per_hour": round(slope, 3),
        "rss_mb": {"first": round(rss_mb[0], 1), "settled": round(rss_mb[settled], 1), "last": round(rss_mb[-1], 1)},
        "faster_than_real_time": round(summary.masks / 30 / max(summary.seconds, 1e-9), 2),
    }
    print(json.dumps(found))
    return 0 if passed else 1


def plot(path: str, frames: list[int], rss_mb: list[float]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3))
    axes.plot(np.array(frames) / 1800, rss_mb, linewidth=1)
    axes.set(xlabel="minutes of demo at 30 fps", ylabel="RSS, MB", ylim=(0, max(rss_mb) * 1.1))
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    raise SystemExit(main())
