"""palette: one fixed colour per class (stdlib only)."""

from __future__ import annotations

Color = tuple[int, int, int]  # RGB, 0-255

BACKGROUND: Color = (128, 128, 128)
# Chosen one after the other, each as far as possible from all before it (OKLab), also to eyes without red or green
# cones; light enough to be seen on a dark picture, dark enough on a light one. The usual sounds come first.
_COLORS: dict[int, Color] = {
    1: (225, 165, 0),  # person
    2: (90, 180, 240),  # dog
    17: (255, 15, 135),  # piano
    7: (75, 255, 210),  # bird
    18: (225, 240, 120),  # guitar
    13: (240, 0, 15),  # helicopter
    3: (105, 90, 255),  # cat
    10: (225, 150, 135),  # car
    27: (135, 105, 180),  # violin
    28: (75, 210, 210),  # drum
    19: (135, 135, 255),  # accordion
    20: (195, 120, 165),  # saxophone
    21: (165, 225, 150),  # brass
    4: (135, 240, 255),  # cow
    5: (240, 210, 0),  # horse
    6: (105, 165, 90),  # sheep
    12: (135, 210, 255),  # aeroplane
    23: (165, 75, 210),  # clock
    8: (60, 165, 195),  # elephant
    9: (210, 30, 150),  # big_cat
    11: (210, 180, 105),  # motorbike
    14: (255, 90, 60),  # train
    15: (60, 195, 165),  # bus
    16: (195, 75, 105),  # boat
    22: (90, 150, 225),  # mandolin
    24: (0, 225, 180),  # phone
    25: (210, 210, 105),  # truck
    26: (150, 255, 180),  # metronome
}


def color(class_id: int) -> Color:
    """RGB of a class; ids past the table (other class lists) start it again. Never changes between versions."""
    return BACKGROUND if class_id < 1 else _COLORS[(class_id - 1) % len(_COLORS) + 1]
