"""preview: a camera frame as the small JPEG that travels on …/preview/ for people to look at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rt_avsac.clock import Clock
from rt_avsac.flow import Frame
from rt_avsac.messages import Image, PreviewMessage

MAX_WIDTH = 640  # pixels
QUALITY = 75


def make_preview(
    frame: Frame, *, session: str, source: str, seq: int, clock: Clock, max_width: int = MAX_WIDTH
) -> PreviewMessage:
    """The message that shows `frame`, the one that mask message `seq` is about. `image` is the camera's size, also
    where the JPEG is smaller. No overlays: whoever looks has the masks too."""
    height, width = frame.image.shape[:2]
    jpeg = encode_jpeg(frame.image, max_width)
    return PreviewMessage(session, source, seq, clock, frame.time_ns, Image(width, height, frame.index), jpeg)


def encode_jpeg(image: NDArray[np.uint8], max_width: int = MAX_WIDTH) -> bytes:
    """JPEG of RGB uint8 [H, W, 3], made smaller if wider than that."""
    import cv2

    height, width = image.shape[:2]
    if width > max_width:
        size = (max_width, max(1, round(height * max_width / width)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return bytes(data)


def decode_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """RGB uint8 [H, W, 3], or None for bytes that are no picture."""
    import cv2

    if not data:
        return None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
