"""Makes the demo clip and its truth from pictures with masks and sounds of clear licence.

    python tools/make_demo.py DATA [--seed 0] [--out rt_avsac/demo]

DATA holds images.json, audio.json and what they list. Every item used is named in demo_scene.py with its author and
licence, and an item that DATA does not list under a free licence is refused. The same seed, the same clip.
"""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from demo_scene import CREDITS, PARTS, SHOTS, Actor
from numpy.typing import NDArray

WIDTH, HEIGHT, FPS, SAMPLE_RATE_HZ = 320, 240, 30, 16_000
FREE = ("CC0", "CC BY", "CC BY-SA")
LEVEL = 0.1  # RMS of every sound, -20 dBFS


class Data:
    """The pictures and sounds of a data folder; remembers what was used."""

    def __init__(self, root: Path) -> None:
        self.root = root
        images = json.loads((root / "images.json").read_text())
        self.classes: list[str] = images["classes"]
        self.items = {item["id"]: item for item in images["items"]}
        self.items |= {item["path"]: item for item in json.loads((root / "audio.json").read_text())}
        self.used: dict[str, dict[str, Any]] = {}

    def take(self, name: str) -> dict[str, Any]:
        item = self.items[name]
        if not item["licence"].startswith(FREE) or item["licence"].startswith("CC BY-NC"):
            raise SystemExit(f"{name}: licence {item['licence']!r} is not free; choose another item")
        self.used[name] = item
        return item

    def picture(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """RGB and class ids."""
        item = self.take(name)
        image = cv2.cvtColor(cv2.imread(str(self.root / item["image"])), cv2.COLOR_BGR2RGB)
        return image, cv2.imread(str(self.root / item["label"]), cv2.IMREAD_UNCHANGED)

    def sound(self, name: str) -> NDArray[np.float32]:
        """Mono, 16 kHz."""
        with av.open(str(self.root / self.take(name)["path"])) as file:
            mono = av.AudioResampler("fltp", "mono", SAMPLE_RATE_HZ)
            frames = [out for frame in file.decode(audio=0) for out in mono.resample(frame)]
        return np.concatenate([frame.to_ndarray()[0] for frame in frames])


class Sprite:
    """A cut-out, scaled once to its size in the frame; its edges are soft."""

    def __init__(self, data: Data, actor: Actor) -> None:
        image, label = data.picture(actor.image)
        alpha = (label == data.classes.index(actor.label)).astype(np.float32)
        alpha = _biggest(alpha)
        rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        image, alpha = _spread(image, alpha)[box], alpha[box]
        size = np.sqrt(actor.area * WIDTH * HEIGHT / alpha.sum())
        how = cv2.INTER_AREA if size < 1 else cv2.INTER_CUBIC
        pad = 3  # so that the edge fades inside the picture
        self.image = cv2.copyMakeBorder(cv2.resize(image, None, fx=size, fy=size, interpolation=how), *[pad] * 4, 1)
        alpha = cv2.copyMakeBorder(cv2.resize(alpha, None, fx=size, fy=size, interpolation=how), *[pad] * 4, 0)
        self.alpha = cv2.GaussianBlur(np.clip(alpha, 0, 1), (0, 0), 0.8)
        self.pose = actor.pose

    def draw(self, canvas: NDArray[np.float32], t: float) -> NDArray[np.float32]:
        """Onto `canvas`, at t seconds; returns where: alpha [h, w]."""
        x, y, scale, degrees = self.pose(t)
        height, width = self.alpha.shape
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, scale)
        matrix[:, 2] += (x - width / 2, y - height / 2)
        picture = cv2.warpAffine(self.image, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
        alpha: NDArray[np.float32] = cv2.warpAffine(self.alpha, matrix, (WIDTH, HEIGHT))
        canvas += (picture - canvas) * alpha[..., None]
        return alpha


def _biggest(alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest connected piece: what else the mask has is dirt."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((alpha > 0).astype(np.uint8))
    return (labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])).astype(np.float32)


def _spread(image: NDArray[np.uint8], alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The object's colours continued a few pixels outwards, so that no rim of the old background shows."""
    inside = cv2.erode(alpha, np.ones((3, 3), np.uint8))
    ring = (cv2.dilate(alpha, np.ones((9, 9), np.uint8)) > 0) & (inside == 0)
    return np.asarray(cv2.inpaint(image, ring.astype(np.uint8), 3, cv2.INPAINT_TELEA))


def backdrop(data: Data, name: str) -> NDArray[np.float32]:
    """A picture without its object, out of focus."""
    image, label = data.picture(name)
    hole = cv2.dilate((label > 0).astype(np.uint8), np.ones((25, 25), np.uint8))
    image = cv2.inpaint(image, hole, 9, cv2.INPAINT_TELEA)
    factor = max(WIDTH / image.shape[1], HEIGHT / image.shape[0])
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    top, left = (image.shape[0] - HEIGHT) // 2, (image.shape[1] - WIDTH) // 2
    blurred = cv2.GaussianBlur(image[top : top + HEIGHT, left : left + WIDTH], (0, 0), 5)
    return blurred.astype(np.float32)


def soundtrack(data: Data, num_samples: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], list[list[int]]]:
    """Samples in [-1, 1], and [class id, first sample, end, on screen] of every part; exact zeros elsewhere."""
    track, sounds = np.zeros(num_samples, np.float32), []
    for part in PARTS:
        first = round(part.start_s * SAMPLE_RATE_HZ)
        length = round(part.piece_s * SAMPLE_RATE_HZ)
        sound = np.zeros(length * len(part.pieces), np.float32)
        for index, (name, from_s) in enumerate(part.pieces):
            piece = data.sound(name)[round(from_s * SAMPLE_RATE_HZ) :]
            # from the first audible sample on, so that the onset is where the truth says it is
            piece = piece[np.argmax(np.abs(piece) > 0.05 * np.abs(piece).max()) :][:length].copy()
            piece *= rng.uniform(0.9, 1.0) / np.sqrt(np.mean(piece**2))
            fade = np.linspace(1, 0, 320, dtype=np.float32)
            piece[-len(fade) :] *= fade
            sound[index * length : index * length + len(piece)] = piece
        sound *= LEVEL / np.sqrt(np.mean(sound**2))
        track[first : first + len(sound)] += sound
        sounds.append([data.classes.index(part.label), first, first + len(sound), int(part.on_screen)])
    return np.tanh(track), sounds


def render(data: Data, sounds: list[list[int]]) -> tuple[list[NDArray[np.uint8]], list[tuple[int, int, Any]]]:
    """The frames, and (frame, class id, visible mask) of every visible object that sounds then."""
    frames, masks = [], []
    for shot in SHOTS:
        empty = backdrop(data, shot.background)
        sprites = [(data.classes.index(actor.label), Sprite(data, actor)) for actor in shot.actors]
        for index in range(round(shot.start_s * FPS), round(shot.end_s * FPS)):
            sample = index * SAMPLE_RATE_HZ // FPS
            heard = {number for number, first, end, on_screen in sounds if on_screen and first <= sample < end}
            canvas, visible = empty.copy(), {}
            for class_id, sprite in sprites:  # what is drawn later hides what was drawn before
                alpha = sprite.draw(canvas, index / FPS)
                visible = {number: mask & (alpha < 0.5) for number, mask in visible.items()}
                visible[class_id] = alpha >= 0.5
            masks += [(index, number, visible[number]) for number in sorted(heard)]
            frames.append(np.clip(np.rint(canvas), 0, 255).astype(np.uint8))
    return frames, masks


def encode(path: Path, frames: list[NDArray[np.uint8]], track: NDArray[np.float32]) -> None:
    """h264 without B-frames (a frame's index is its place in the file) and aac."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as file:
        video = file.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt, video.time_base = WIDTH, HEIGHT, "yuv420p", Fraction(1, FPS)
        # one thread: the same bytes every time
        video.options = {"crf": "21", "preset": "slow", "bf": "0", "g": "60", "threads": "1"}
        audio = file.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        audio.bit_rate = 64_000
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        for first in range(0, len(track), 1024):
            sound = av.AudioFrame.from_ndarray(track[None, first : first + 1024], "fltp", "mono")
            sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE_HZ, first, Fraction(1, SAMPLE_RATE_HZ)
            file.mux(audio.encode(sound))
        file.mux(audio.encode(None))


def credits(data: Data) -> str:
    """CREDITS.md: who made what is in the clip."""
    rows: dict[tuple[str, str], list[str]] = {}
    for name, item in sorted(data.used.items()):
        credit = next(credit for start, credit in CREDITS.items() if name.startswith(start))
        short = name.removeprefix("cal_") if name.startswith("cal_") else "/".join(Path(name).with_suffix("").parts[1:])
        rows.setdefault(credit, []).append(short + ("" if item["split"] == "train" else "*"))
    terms = {"CC BY 4.0": "licenses/by/4.0/", "CC BY 3.0": "licenses/by/3.0/", "CC0": "publicdomain/zero/1.0/"}
    lines = ["# The demo clip", ""]
    lines += [
        "`demo.mp4` and `truth.npz` are made by `tools/make_demo.py` from these pictures and sounds, which it cuts,"
    ]
    lines += ["changes and mixes. The clip as a whole may be used under CC BY 4.0 with these names kept.", ""]
    lines += ["| items (* = held out: not in the training split) | from | licence |", "|---|---|---|"]
    lines += [f"| {', '.join(names)} | {source} | {licence} |" for (source, licence), names in rows.items()]
    lines += ["", *(f"- {name}: https://creativecommons.org/{path}" for name, path in terms.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with images.json and audio.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "rt_avsac" / "demo")
    options = parser.parse_args()
    data = Data(options.data)
    track, sounds = soundtrack(data, round(SHOTS[-1].end_s * SAMPLE_RATE_HZ), np.random.default_rng(options.seed))
    frames, masks = render(data, sounds)
    encode(options.out / "demo.mp4", frames, track)
    np.savez_compressed(
        options.out / "truth.npz",
        classes=np.array(data.classes),
        shape=np.array([HEIGHT, WIDTH]),
        num_frames=np.array(len(frames)),
        sample_rate_hz=np.array(SAMPLE_RATE_HZ),
        sounds=np.array(sounds, np.int64),
        mask_frame=np.array([index for index, _, _ in masks], np.int32),
        mask_class=np.array([number for _, number, _ in masks], np.uint8),
        mask_bits=np.packbits(np.stack([mask for _, _, mask in masks]), axis=2),
    )
    (options.out / "CREDITS.md").write_text(credits(data))


if __name__ == "__main__":
    main()
