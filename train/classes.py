"""The classes of the edge model's pictures, and which sound labels belong to which of them."""

from __future__ import annotations

from rt_avsac.errors import UserError

# fmt: off
CLASSES = (
    "background", "person", "dog", "cat", "cow", "horse", "sheep", "bird", "elephant", "big_cat", "car", "motorbike",
    "aeroplane", "helicopter", "train", "bus", "boat", "piano", "guitar", "accordion", "saxophone", "brass", "mandolin",
    "clock", "phone", "truck", "metronome", "violin", "drum",
)
# fmt: on
BINARY = ("background", "sounding")  # of a network that gives a mask alone
IGNORE = 255  # pixels that count for nothing
OFF_SCREEN = 0  # class id of a sound that no picture class makes

# A label that is not here and is no class name is a sound from outside the picture.
CLASS_OF_LABEL = {
    "speech": "person",
    "baby_cry": "person",
    "sneeze": "person",
    "laugh": "person",
    "cough": "person",
    "children_playing": "person",
    "singing": "person",
    "car_horn": "car",
    "engine_idling": "car",
    "race_car": "car",
    "bird_rooster": "bird",
    "chicken": "bird",
    "trumpet": "brass",
    "lion": "big_cat",
    "tiger": "big_cat",
}
# Made by things the pictures show, but too few to learn: neither a class nor an honest off-screen negative.
LEFT_OUT = ("train", "truck", "bus", "boat", "motorbike", "duck", "hawk", "applause", "clapping")


def class_id_of(name: str, where: str, words: dict[str, int]) -> int:
    """The id of a class name or of one of `words`; UserError names them all."""
    if name in words:
        return words[name]
    if name in CLASSES:
        return CLASSES.index(name)
    known = ", ".join([*words, *CLASSES[1:]])
    raise UserError(f"{where}: asked class {name!r}, which is none of: {known}")


def class_of_label(lines: dict[str, str], where: str) -> dict[str, int | None]:
    """Sound label → class id, OFF_SCREEN, or None (left out): the tables above, then a mapping's own lines on top."""
    known: dict[str, int | None] = {name: index for index, name in enumerate(CLASSES) if index}
    known |= {label: CLASSES.index(name) for label, name in CLASS_OF_LABEL.items()}
    known |= dict.fromkeys(LEFT_OUT)
    for label, name in lines.items():
        asked = class_id_of(name, where, {"off-screen": OFF_SCREEN, "left-out": -1})
        known[label] = None if asked < 0 else asked
    return known
