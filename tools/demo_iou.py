"""How well a model does on the demo clip: IoU of the sounding pixels per thing that sounds, a table and a JSON line.

    python tools/demo_iou.py [--model avsac-edge] [--step 3] [--annotate FILE.mp4]

Only frames count in which the same things sound through the whole window. Silence and the off-screen sound have no
mask: a frame there is right (1) if nothing was found, else wrong (0).
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from contextlib import nullcontext

import av
import numpy as np

from rt_avsac import demo
from rt_avsac.annotate import VideoWriter, draw, to_pixels
from rt_avsac.config import LiveSettings
from rt_avsac.flow import Frame, Window
from rt_avsac.infer import open_segmenter


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="avsac-edge")
    parser.add_argument("--step", type=int, default=3, help="every so many frames [3]")
    parser.add_argument("--annotate", metavar="FILE.mp4", default="", help="write every frame with its masks")
    options = parser.parse_args()
    truth = demo.truth()
    with av.open(str(demo.clip_path())) as file:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])
    settled, rate = truth.settled(), truth.sample_rate_hz
    values: dict[str, list[float]] = defaultdict(list)
    found: dict[str, Counter[str]] = defaultdict(Counter)
    video = VideoWriter(options.annotate, demo.FRAMES_PER_S) if options.annotate else nullcontext()
    with open_segmenter(LiveSettings(model=options.model)) as segment, video as writer:
        length = segment.model.num_audio_samples
        padded = np.concatenate([np.zeros(length, np.float32), sound])
        with av.open(str(demo.clip_path())) as file:
            for index, picture in enumerate(file.decode(video=0)):
                wanted = settled[index] and index % options.step == 0
                if not (wanted or writer):
                    continue
                time_ns = int(truth.time_ns[index])
                end = time_ns * rate // 1_000_000_000
                frame = Frame(picture.to_ndarray(format="rgb24"), time_ns, index)
                heard = padded[end : end + length].copy()
                said = segment(Window(frame, heard, time_ns - length * 1_000_000_000 // rate, time_ns, "ok"))
                if writer:
                    writer.write(draw(frame.image, said.objects, rms_dbfs=said.rms_dbfs), time_ns, heard)
                if wanted:
                    name = _what(truth, index)
                    values[name].append(_iou(truth, index, said))
                    found[name] += Counter({item.label for item in said.objects})
    print(f"{'sounding':<22}{'frames':>7}{'IoU':>7}  found in so many frames")
    for name, numbers in values.items():
        labels = " ".join(f"{label} {count}" for label, count in found[name].most_common(6))
        print(f"{name:<22}{len(numbers):>7}{np.mean(numbers):>7.3f}  {labels}")
    mean = float(np.mean([np.mean(numbers) for numbers in values.values()]))
    table = {name: round(float(np.mean(numbers)), 4) for name, numbers in values.items()}
    print(json.dumps({"model": options.model, "mean_iou": round(mean, 4), "iou": table}))


def _what(truth: demo.Truth, index: int) -> str:
    end = int(truth.time_ns[index]) * truth.sample_rate_hz // 1_000_000_000
    hidden = any(not sound.on_screen and sound.start < end <= sound.end for sound in truth.sounds)
    return " + ".join(sorted(truth.sounding[index])) or ("off-screen" if hidden else "silence")


def _iou(truth: demo.Truth, index: int, said: object) -> float:
    wanted = truth.mask[index] > 0
    seen = np.zeros(wanted.shape, np.bool_)
    for item in said.objects:  # type: ignore[attr-defined]
        seen |= to_pixels(item.mask, wanted.shape[1], wanted.shape[0]) > 0
    either = int((seen | wanted).sum())
    return int((seen & wanted).sum()) / either if either else 1.0


if __name__ == "__main__":
    main()
