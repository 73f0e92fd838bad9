"""Camera: daemon threads own one device or network stream, the newest frame wins, a lost one is opened again."""

from __future__ import annotations

from rt_avsac.config import LiveSettings
from rt_avsac.flow import Frame, SourceState
from rt_avsac.sync import AudioRing, Latest


class Camera:
    """A V4L2 device or a network stream, the latter with its sound if asked; a context manager."""

    def __init__(self, settings: LiveSettings, with_sound: bool = False) -> None:
        self.settings = settings
        self.latest: Latest[Frame] = Latest()
        self.ring = AudioRing() if with_sound else None
        self.state: SourceState = "opening"
        self.status_text = ""
        self.drops: dict[str, int] = {}

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def check(self) -> None: ...
