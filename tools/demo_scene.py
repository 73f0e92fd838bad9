"""What happens in the demo clip: shots with moving cut-outs, sounds, and who made them (read by make_demo.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Pose = Callable[[float], tuple[float, float, float, float]]  # seconds -> centre x, centre y, scale, degrees


@dataclass(frozen=True)
class Actor:
    """A cut-out of the picture `image`; `area`: share of the frame it covers at scale 1."""

    label: str
    image: str
    area: float
    pose: Pose


@dataclass(frozen=True)
class Shot:
    start_s: float
    end_s: float
    background: str
    actors: tuple[Actor, ...]  # back to front


@dataclass(frozen=True)
class Part:
    """A sound of the clip: pieces (file, from second) of `piece_s` each, one after the other."""

    label: str
    start_s: float
    pieces: tuple[tuple[str, float], ...]
    piece_s: float
    on_screen: bool = True


def sway(x: float, y: float, dx: float, dy: float, zoom: float, tilt: float, turn: float = 0.0) -> Pose:
    """Around (x, y): dx, dy pixels, zoom as a share, tilt degrees, on slow sines that never repeat together."""

    def pose(t: float) -> tuple[float, float, float, float]:
        a = 2 * np.pi * t
        return (
            x + dx * np.sin(a / 5.0),
            y + dy * np.sin(a / 2.7 + x),
            1 + zoom * np.sin(a / 6.1 + y),
            turn + tilt * np.sin(a / 3.7 + x),
        )

    return pose


def notes(label: str, *names: int) -> tuple[tuple[str, float], ...]:
    return tuple((f"audio/{label}/{name:05d}.ogg", 0.0) for name in names)


SHOTS = (
    Shot(
        0,
        10.5,
        "cal_helicopter_image_0084",
        (
            Actor("piano", "cal_grand_piano_image_0098", 0.17, sway(80, 122, 5, 5, 0.05, 1.5)),
            Actor("bird", "cal_rooster_image_0033", 0.15, sway(238, 136, 8, 10, 0.05, 4)),
        ),
    ),
    Shot(
        10.5,
        23,
        "cal_pigeon_image_0032",
        (
            Actor("accordion", "cal_accordion_image_0010", 0.15, sway(72, 118, 6, 6, 0.05, 4)),
            Actor("bird", "cal_rooster_image_0003", 0.125, sway(226, 130, 8, 8, 0.05, 4)),
        ),
    ),
)
PARTS = (
    Part("piano", 1.0, notes("piano", 3694, 3695, 3716, 3694, 3695, 3696), 0.5),
    Part("bird", 5.0, (("audio/bird_rooster/00347.ogg", 0.1),), 2.1),
    Part("piano", 8.0, notes("piano", 3701, 3708, 3709, 3695, 3701), 0.5),
    Part("bird", 8.0, (("audio/bird_rooster/00325.ogg", 2.0),), 1.9),
    Part("accordion", 11.5, notes("accordion", 3878, 3888, 3884), 1.0),
    Part("dog", 15.3, (("audio/dog/00008.ogg", 0.0),), 1.5, on_screen=False),
    Part("bird", 17.5, (("audio/bird_rooster/00344.ogg", 0.0), ("audio/bird_rooster/00322.ogg", 0.0)), 2.0),
    Part("accordion", 19.5, notes("accordion", 3884, 3878), 1.0),
)
CREDITS = {  # what it is, who made it, licence; by the start of its name
    "cal_": ("Caltech-101, Fei-Fei Li, Marco Andreetto, Marc'Aurelio Ranzato, Pietro Perona", "CC BY 4.0"),
    "audio/piano/": (
        "VSCO 2 CE, Versilian Studios, through tonejs-instruments (Nicholaus Brosowsky)",
        "CC BY 3.0",
    ),
    "audio/accordion/": ("harmonium, donyaquick, freesound.org pack, through tonejs-instruments", "CC BY 3.0"),
    "audio/bird_rooster/00347": ("'rooster 2.aif', Tomlija, freesound.org 100786, through ESC-10", "CC BY 3.0"),
    "audio/bird_rooster/00325": ("'Rooster_Mono.wav', cclaretc, freesound.org 163288, through ESC-10", "CC0"),
    "audio/bird_rooster/00344": ("'20081231.rooster.flac', dobroide, freesound.org 65750, through ESC-10", "CC BY 3.0"),
    "audio/bird_rooster/00322": ("'chickensMS.wav', leosalom, freesound.org 234879, through ESC-10", "CC0"),
    "audio/dog/00008": ("'A dog barking', felix.blume, freesound.org 199261, through ESC-10", "CC0"),
}
