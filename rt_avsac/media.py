"""Media: a file played as camera and microphone, at its own pace or step by step."""

from __future__ import annotations

from rt_avsac.config import LiveSettings
from rt_avsac.flow import Frame, SourceState
from rt_avsac.sync import AudioRing, Latest


class Media:
    """The pictures of one file and the sound of the same or another one; a context manager."""

    def __init__(self, settings: LiveSettings, video: str | None, audio: str | None) -> None:
        self.settings = settings
        self.latest: Latest[Frame] = Latest()
        self.ring = AudioRing() if audio is not None else None
        self.state: SourceState = "opening"
        self.status_text = ""
        self.drops: dict[str, int] = {}

    def __enter__(self) -> Media:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def check(self) -> None: ...

    def step(self) -> Frame | None: ...
