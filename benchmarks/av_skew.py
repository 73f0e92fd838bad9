"""Picture against sound on flash+beep, where the truth is known: a file, and the paths of a camera and a microphone.

    python benchmarks/av_skew.py --seconds 30

file: the clip of `rt-avsac sync-test --make-clip` as fast as it goes, and at its own pace. devices: a network camera
(MJPEG over HTTP, stamped when a picture arrives) that shows flashes, and a microphone (PortAudio on a private sound
server) that hears beeps, both by one clock; needs pulseaudio. A table, then one JSON line; exit code 1 unless the
fixture has |median| <= 5 ms and std <= 3 ms; the devices' row also shows how loaded the machine is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_avsac.config import LiveSettings
from rt_avsac.flash_beep import make_clip, pair
from rt_avsac.stop import Stop
from rt_avsac.sync_test import watch

ROOT = Path(__file__).parent.parent
MAX_MEDIAN_MS, MAX_STD_MS = 5.0, 3.0
RATE_HZ, PERIOD_S, ON_S = 16_000, 1.0, 0.1


def offsets_ms(settings: LiveSettings, seconds: float) -> NDArray[np.float64]:
    """Beep minus flash of every flash with its beep, the first one left out."""
    watcher = watch(settings, seconds, Stop())
    return pair(watcher.flashes, watcher.beeps)[1:]


def from_devices(seconds: float) -> NDArray[np.float64]:
    """As `offsets_ms`, with a camera and a microphone of which the true times are known; both run through live code."""
    sys.path.insert(0, str(ROOT))
    from tests.mjpeg import MjpegServer
    from tests.pulse import Feeder, Pulse

    time_s = np.arange(int(RATE_HZ * (seconds + 30))) / RATE_HZ
    beeps = np.where(time_s % PERIOD_S < ON_S, 0.8 * np.sin(2 * np.pi * 1000 * time_s), 0.0)
    pulse = Pulse()
    pulse.start("vfifo")
    os.environ.update(pulse.environment)
    try:
        with Feeder(pulse, beeps) as feeder:

            def picture(t: float) -> NDArray[np.uint8]:
                since_s = (camera.began_ns - feeder.began_ns) / 1e9 + t
                return np.full((480, 640, 3), 255 if since_s % PERIOD_S < ON_S else 0, np.uint8)

            with MjpegServer(picture) as camera:
                camera.began_ns = feeder.began_ns  # frames fall on the beeps' grid
                settings = LiveSettings(camera=camera.url, mic="default")
                return offsets_ms(settings, seconds)
    finally:
        pulse.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args()
    found: dict[str, NDArray[np.float64]] = {}
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "flash_beep.mp4"
        make_clip(clip, seconds=int(args.seconds) + 1)
        still = LiveSettings(camera=str(clip), mic="same", realtime=False)
        found["file, as fast as it goes"] = offsets_ms(still, args.seconds)
        found["file, at its own pace"] = offsets_ms(replace(still, realtime=True), args.seconds)
    if shutil.which("pulseaudio"):
        found["camera and microphone"] = from_devices(args.seconds)
    rows = {}
    print(f"{'beep minus flash, ms':<28}{'n':>5}{'median':>9}{'std':>8}{'min':>8}{'max':>8}")
    for name, values in found.items():
        row = [float(f(values)) for f in (np.median, np.std, np.min, np.max)] if len(values) else [float("nan")] * 4
        print(f"{name:<28}{len(values):5d}{row[0]:9.2f}" + "".join(f"{value:8.2f}" for value in row[1:]))
        rows[name] = {"n": len(values), "median_ms": round(row[0], 3), "std_ms": round(row[1], 3)}
    passed = all(
        len(values) > 3 and abs(np.median(values)) <= MAX_MEDIAN_MS and np.std(values) <= MAX_STD_MS
        for name, values in found.items()
        if name.startswith("file")
    )
    about = {"passed": bool(passed), "seconds": args.seconds, "load": round(os.getloadavg()[0], 2)}
    print(json.dumps({"bench": "av_skew", **about, **rows}))
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
