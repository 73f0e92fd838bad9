"""Window: overlays on the screen of this machine, where OpenCV can open one."""

from __future__ import annotations

import os
import sys
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from rt_avsac.errors import UserError
from rt_avsac.screen import Screen, Shown, overlay

QUIT_KEYS = (27, ord("q"))
FIRST_SIZE = 960, 760


def why_not() -> str:
    """Why there can be no window here; "" if there can."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display (DISPLAY is not set)"
    try:
        import cv2
    except ImportError:
        return "OpenCV is not installed"
    gui = [line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("GUI:")]
    if gui and "NONE" in gui[0]:
        return "this OpenCV is the headless one (opencv-python has windows)"
    return ""


class Window:
    """A context manager; all calls from one thread. UserError where there can be no window."""

    def __init__(self, title: str, screen: Screen) -> None:
        self.title = title
        self._screen = screen
        self._image: NDArray[np.uint8] | None = None
        self._state = ""

    def __enter__(self) -> Window:
        import cv2

        try:
            cv2.namedWindow(self.title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            cv2.resizeWindow(self.title, *FIRST_SIZE)
        except cv2.error as error:
            raise UserError(f"window: cannot be opened: {error.err}; --no-window serves a page instead") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        import cv2

        cv2.destroyAllWindows()

    def update(self, shown: Shown | None) -> bool:
        """Shows it, or why there is nothing; True when the user has closed the window or pressed q."""
        import cv2

        why = self._screen.why()
        if shown is not None:
            self._image = overlay(shown, why)
        elif self._image is None or why != self._state:
            from rt_avsac.annotate import draw

            last = self._screen.last
            self._image = overlay(last, why) if last else draw(np.zeros((480, 640, 3), np.uint8), (), status=why)
        self._state = why
        cv2.imshow(self.title, cv2.cvtColor(self._image, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(1) in QUIT_KEYS or cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) < 1
