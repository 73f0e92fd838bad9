"""Microphone: PortAudio callback to a ring of 16 kHz mono samples with capture times; a lost one is opened again."""

from __future__ import annotations

from rt_avsac.config import LiveSettings
from rt_avsac.flow import SourceState
from rt_avsac.sync import AudioRing


class Microphone:
    """The microphone of `settings.mic` ("default", index or part of a name); a context manager."""

    def __init__(self, settings: LiveSettings) -> None:
        self.settings = settings
        self.ring = AudioRing()
        self.state: SourceState = "opening"
        self.status_text = ""
        self.drops: dict[str, int] = {}

    def __enter__(self) -> Microphone:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def check(self) -> None: ...
