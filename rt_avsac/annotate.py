"""annotate: pictures with the masks drawn in, and VideoWriter, which makes an mp4 of them with their sound."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rt_avsac.errors import DiskError, UserError
from rt_avsac.palette import Color, color

TINT = 0.45  # of a mask's colour in the picture
MIN_HEIGHT = 480  # smaller pictures are enlarged by a whole number, so that their labels can be read
STRIP = 34  # pixels below the picture: sound level, latency, status
FLOOR_DBFS = -60.0  # left end of the sound level
TICKS_HZ = 90_000  # of the pictures' times in a video file
INK, PAPER = (238, 238, 238), (24, 26, 30)


class Drawable(Protocol):
    """An object to draw: flow.Region and messages.MaskObject alike."""

    @property
    def class_id(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def mask(self) -> NDArray[np.bool_]: ...


def draw(
    image: NDArray[np.uint8],
    objects: Iterable[Drawable],
    *,
    to_image: Sequence[float] | None = None,
    rms_dbfs: float | None = None,
    latency_ms: float | None = None,
    status: str = "",
) -> NDArray[np.uint8]:
    """A new RGB uint8 picture: `image` with every object's mask, outline, label and score, and a strip below it.

    `to_image`: the message's affine from mask to image pixels, row-major [6]; None = the mask covers the image.
    `rms_dbfs`: level of the window's sound. The picture may be larger than `image` by a whole number (MIN_HEIGHT).
    """
    import cv2

    factor = max(1, -(-MIN_HEIGHT // image.shape[0]))
    height, width = image.shape[0] * factor, image.shape[1] * factor
    canvas = np.full((height + STRIP, width, 3), PAPER, np.uint8)
    picture = canvas[:height]
    picture[:] = image if factor == 1 else cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    named = []
    for item in objects:
        mask = to_pixels(item.mask, width, height, to_image, factor)
        if mask.any():
            _tint(picture, mask, color(item.class_id))
            named.append((mask, item))
    taken: list[_Box] = []
    for mask, item in named:
        _name(picture, mask, f"{item.label} {item.score:.0%}", color(item.class_id), taken)
    _strip(canvas[height:], rms_dbfs, latency_ms, status)
    return canvas


def to_pixels(
    mask: NDArray[np.bool_], width: int, height: int, to_image: Sequence[float] | None = None, factor: int = 1
) -> NDArray[np.uint8]:
    """`mask` at picture size: uint8 [height, width], 0 or 255, smooth edges. `factor`: of the picture to the image."""
    import cv2

    if to_image is None:
        to_image, factor = (width / mask.shape[1], 0, 0, 0, height / mask.shape[0], 0), 1
    matrix = np.asarray(to_image, np.float64).reshape(2, 3) * factor
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5  # from pixel corners, as messages count, to pixel centres
    # a border of replicated pixels: the last half mask pixel reaches the picture's edge
    smooth = cv2.warpAffine(mask.astype(np.uint8) * 255, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.threshold(smooth, 127, 255, cv2.THRESH_BINARY)[1])


_Box = tuple[int, int, int, int]  # left, top, right, bottom


def _tint(picture: NDArray[np.uint8], mask: NDArray[np.uint8], rgb: Color) -> None:
    import cv2

    left, top, width, height = cv2.boundingRect(mask)
    place = (slice(top, top + height), slice(left, left + width))
    part = picture[place]
    tinted = cv2.addWeighted(part, 1 - TINT, np.full_like(part, rgb), TINT, 0)
    cv2.copyTo(tinted, mask[place], part)
    outline, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, outline, -1, rgb, 2, cv2.LINE_AA)


def _name(picture: NDArray[np.uint8], mask: NDArray[np.uint8], text: str, rgb: Color, taken: list[_Box]) -> None:
    """The label at the object's upper edge, moved down as long as it would cover another one."""
    import cv2

    left, top, width, _ = cv2.boundingRect(mask)
    (text_width, text_height), below = cv2.getTextSize(_ascii(text), cv2.FONT_HERSHEY_SIMPLEX, 0.55, 1)
    box_width, box_height = text_width + 10, text_height + below + 8
    x = min(max(left + (width - box_width) // 2, 0), max(picture.shape[1] - box_width, 0))
    y = max(top - box_height, 0)
    while any(x < r and l < x + box_width and y < b and t < y + box_height for l, t, r, b in taken):  # noqa: E741
        y += box_height
    taken.append((x, y, x + box_width, y + box_height))
    cv2.rectangle(picture, (x, y), (x + box_width, y + box_height), rgb, -1)
    _write(picture, text, x + 5, y + 4 + text_height, (16, 16, 16))


def _strip(strip: NDArray[np.uint8], rms_dbfs: float | None, latency_ms: float | None, status: str) -> None:
    """Below the picture: a bar from -60 to 0 dBFS, its number, latency, status."""
    import cv2

    x, y, bar = 8, strip.shape[0] // 2, 120
    if rms_dbfs is not None:
        share = min(max(1 - rms_dbfs / FLOOR_DBFS, 0.0), 1.0)
        cv2.rectangle(strip, (x, y - 6), (x + bar, y + 6), (58, 62, 70), -1)
        cv2.rectangle(strip, (x, y - 6), (x + round(share * bar), y + 6), (120, 220, 140), -1)
        text = f"{rms_dbfs:.0f} dBFS" if rms_dbfs > 2 * FLOOR_DBFS else "silence"
        x = 16 + _write(strip, text, x + bar + 8, y + 5, INK)
    if latency_ms is not None:
        x = 16 + _write(strip, f"{latency_ms:.0f} ms", x, y + 5, INK)
    _write(strip, status, x, y + 5, (255, 190, 90))


def _write(picture: NDArray[np.uint8], text: str, x: int, y: int, rgb: Color) -> int:
    """Text with its lower left corner at (x, y); returns where it ends. OpenCV's own font knows ASCII only."""
    import cv2

    plain = _ascii(text)
    cv2.putText(picture, plain, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, rgb, 1, cv2.LINE_AA)
    return x + int(cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0])


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()


class VideoWriter:
    """An mp4 (h264, aac) of RGB pictures and the sound that goes with them; a context manager, one thread.

    It grows beside `path` and takes its place when it is closed, also when the run ended with an error. DiskError when
    it cannot be written.
    """

    def __init__(self, path: str | Path, fps: float = 30.0, sample_rate_hz: int = 16_000) -> None:
        self.path = Path(path)
        self.fps = fps
        self.sample_rate_hz = sample_rate_hz
        self.num_frames = 0
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._file: Any = None
        self._video: Any = None
        self._audio: Any = None
        self._start_ns = self._last_ns = 0
        self._num_samples = 0

    def __enter__(self) -> VideoWriter:
        if self.path.suffix.lower() != ".mp4":
            raise UserError(f"video {self.path}: asked a {self.path.suffix or 'nameless'} file, only .mp4 is written")
        with _disk(self.path):
            open(self._part, "wb").close()  # so that a folder that is not there is known now
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def write(self, image: NDArray[np.uint8], time_ns: int, audio: NDArray[np.float32] | None = None) -> None:
        """The picture of `time_ns`, and what is new of the mono `audio` [n] that ends then. All pictures have the
        first one's size; its odd last row or column is left out. Time that stands still or goes back counts on."""
        with _disk(self.path):
            if self._file is None:
                self._open(image, time_ns, audio is not None)
            import av

            if self.num_frames and time_ns - self._start_ns <= self._last_ns:  # a file that began again
                self._start_ns = time_ns - self._last_ns - round(1e9 / self.fps)
            now_ns = time_ns - self._start_ns
            height, width = self._video.height, self._video.width
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), "rgb24")
            frame.pts, frame.time_base = now_ns * TICKS_HZ // 1_000_000_000, Fraction(1, TICKS_HZ)
            self._file.mux(self._video.encode(frame))
            self._last_ns = now_ns
            self.num_frames += 1
            if audio is not None and self._audio is not None:
                self._hear(audio, now_ns)

    def close(self) -> None:
        """Finish the file and put it in its place; nothing is left of one without pictures."""
        file, self._file = self._file, None
        try:
            if file is not None:
                with _disk(self.path), file:
                    file.mux(self._video.encode(None))
                    if self._audio is not None:
                        file.mux(self._audio.encode(None))
                with _disk(self.path):
                    os.replace(self._part, self.path)
        finally:
            self._part.unlink(missing_ok=True)

    def _open(self, image: NDArray[np.uint8], time_ns: int, sound: bool) -> None:
        import av

        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._file = av.open(str(self._part), "w", format="mp4", options={"movflags": "+faststart"})
        self._video = self._file.add_stream(codec, rate=round(self.fps))
        self._video.width, self._video.height = image.shape[1] // 2 * 2, image.shape[0] // 2 * 2
        self._video.pix_fmt = "yuv420p"
        self._video.codec_context.time_base = Fraction(1, TICKS_HZ)  # of its rate, it would round a camera's times
        # one thread and no look-ahead: it runs beside the network, and keeps few pictures back
        self._video.options = {"preset": "veryfast", "crf": "23", "tune": "zerolatency", "threads": "1"}
        if sound:
            self._audio = self._file.add_stream("aac", rate=self.sample_rate_hz, layout="mono")
        self._start_ns = time_ns

    def _hear(self, audio: NDArray[np.float32], now_ns: int) -> None:
        """The end of `audio` that is not written yet; silence where more is missing than it holds."""
        import av

        num_new = now_ns * self.sample_rate_hz // 1_000_000_000 - self._num_samples
        if num_new <= 0:
            return
        sound = np.zeros((1, num_new), np.float32)
        num_known = min(num_new, len(audio))
        sound[0, num_new - num_known :] = audio[len(audio) - num_known :]
        frame = av.AudioFrame.from_ndarray(sound, "fltp", "mono")
        frame.sample_rate, frame.pts = self.sample_rate_hz, self._num_samples
        frame.time_base = Fraction(1, self.sample_rate_hz)
        self._file.mux(self._audio.encode(frame))
        self._num_samples += num_new


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Errors of the file system and of the muxer, as one line."""
    import av

    try:
        yield
    except (OSError, av.FFmpegError) as error:
        number = error.errno or 0
        reason = os.strerror(number) if 0 < number < 200 else str(error)
        raise DiskError(f"video {path}: cannot be written: {reason}; free space, or choose another place") from error
