"""How old are the masks that a slow robot sees? It looks 5 times a second at a stream of 30 masks a second, 50 KB each.

    python benchmarks/slow_subscriber.py --seconds 30

Side by side in one run: MaskSubscriber.latest(), and a plain SUB socket with a queue of 2 that is read at that pace.
Age = time between publishing and looking. The last line is JSON; exit code 1 if MaskSubscriber's p99 is above 60 ms.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import threading
import time
from multiprocessing.connection import Connection

import numpy as np
import zmq

from rt_avsac.client import MaskSubscriber, StaleError
from rt_avsac.clock import Clock
from rt_avsac.messages import Audio, Image, Mask, MaskMessage, MaskObject, Model, Times, decode
from rt_avsac.publish import Publisher

STREAM_HZ, READER_HZ, OBJECTS = 30.0, 5.0, 8  # 8 masks of noise, which zlib cannot shrink: 50 KB
LIMIT_MS = 60.0


def publish(pipe: Connection) -> None:
    """A process of its own, until `pipe` says so: the masks of a camera."""
    noise = np.random.default_rng(0).random((OBJECTS, 224, 224)) < 0.5
    objects = tuple(
        MaskObject(number, 1, "noise", 1.0, (0, 0, 640, 480), (320.0, 240.0), int(mask.sum()), mask)
        for number, mask in enumerate(noise)
    )
    with Publisher("tcp://127.0.0.1:0") as publisher:
        pipe.send(publisher.endpoint)
        seq, due = 0, time.monotonic()
        while not pipe.poll(max(due - time.monotonic(), 0)):
            now = time.monotonic_ns()
            times = Times(now, "arrival", now - 975_000_000, now, now, 0.0)
            mask, model = Mask(224, 224, (2.857, 0, 0, 0, 2.143, 0)), Model("none", "", "none", "none", 0.5)
            image, audio = Image(640, 480, seq), Audio("ok", -30.0, False, False)
            publisher.send(
                MaskMessage("bench", "cam0", seq, Clock.here(), times, image, mask, model, audio, {}, {}, objects)
            )
            seq, due = seq + 1, due + 1 / STREAM_HZ


def pause() -> None:
    """A robot's step of 200 ms; not in step with the stream, or every look would come at the same phase."""
    time.sleep(1 / READER_HZ + random.uniform(-0.5, 0.5) / STREAM_HZ)


def look_with_client(endpoint: str, until: float, ages_ms: list[float]) -> None:
    with MaskSubscriber(endpoint) as masks:
        masks.recv(10)
        while time.monotonic() < until:
            pause()
            try:
                message = masks.latest(max_age_ms=60_000)
            except StaleError:
                continue
            ages_ms.append((time.monotonic_ns() - message.t.publish_ns) / 1e6)


def look_naively(endpoint: str, until: float, ages_ms: list[float]) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger, socket.rcvhwm, socket.rcvtimeo = 0, 2, 10_000
        socket.subscribe(b"rtavsac/v1/")
        socket.connect(endpoint)
        while time.monotonic() < until:
            pause()
            message = decode(socket.recv_multipart())
            if isinstance(message, MaskMessage):
                ages_ms.append((time.monotonic_ns() - message.t.publish_ns) / 1e6)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    seconds = parser.parse_args().seconds

    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=publish, args=(theirs,), daemon=True)
    process.start()
    endpoint = ours.recv()
    until = time.monotonic() + seconds
    ages: dict[str, list[float]] = {"client": [], "naive": []}
    readers = [
        threading.Thread(target=look_with_client, args=(endpoint, until, ages["client"])),
        threading.Thread(target=look_naively, args=(endpoint, until, ages["naive"])),
    ]
    for thread in readers:
        thread.start()
    for thread in readers:
        thread.join()
    ours.send("enough")
    process.join()

    result: dict[str, object] = {"benchmark": "slow_subscriber", "seconds": seconds, "limit_p99_ms": LIMIT_MS}
    print(f"{'reader at 5 Hz of 30 Hz':<30}{'looks':>7}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}")
    for name, text in (("client", "MaskSubscriber.latest()"), ("naive", "plain SUB, queue of 2")):
        p50, p99 = np.percentile(ages[name], [50, 99])
        worst = max(ages[name])
        print(f"{text:<30}{len(ages[name]):>7}{p50:>10.1f}{p99:>10.1f}{worst:>10.1f}")
        result |= {f"{name}_p50_ms": round(p50, 2), f"{name}_p99_ms": round(p99, 2), f"{name}_max_ms": round(worst, 2)}
    passed = float(np.percentile(ages["client"], 99)) <= LIMIT_MS
    print(json.dumps(result | {"pass": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
