"""The classes of the edge model's pictures, and which sound labels belong to which of them."""

from __future__ import annotations

# fmt: off
CLASSES = (
    "background", "person", "dog", "cat", "cow", "horse", "sheep", "bird", "elephant", "big_cat", "car", "motorbike",
    "aeroplane", "helicopter", "train", "bus", "boat", "piano", "guitar", "accordion", "saxophone", "brass", "mandolin",
    "clock", "phone", "truck", "metronome", "violin", "drum",
)
# fmt: on
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
# Classes with a sound set large enough to learn and to judge; the other classes are silent distractors.
HEARD = (
    "person dog cat cow horse sheep bird elephant big_cat car aeroplane helicopter piano guitar accordion saxophone "
    "brass clock violin drum"
).split()
# Made by things the pictures show, but too few to learn: neither a class nor an honest off-screen negative.
LEFT_OUT = ("train", "truck", "bus", "boat", "motorbike", "duck", "hawk", "applause", "clapping")
