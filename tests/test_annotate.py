"""Overlays, annotated videos, previews and colours, on real files."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from rt_avsac import messages, palette
from rt_avsac.annotate import STRIP, VideoWriter, draw, to_pixels
from rt_avsac.clock import Clock
from rt_avsac.errors import DiskError, UserError
from rt_avsac.flow import Frame, Region
from rt_avsac.preview import decode_jpeg, make_preview

NS = 1_000_000_000


def region(class_id: int = 2, label: str = "dog") -> Region:
    """The middle of the picture."""
    mask = np.zeros((224, 224), np.bool_)
    mask[56:168, 56:168] = True
    return Region(class_id, label, 0.87, (160, 120, 320, 240), (320, 240), int(mask.sum()), mask)


def grey(height: int = 480, width: int = 640, value: int = 100) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


def ramp(index: int, height: int = 120, width: int = 160) -> NDArray[np.uint8]:
    """A picture that says its number: a bright column."""
    image = grey(height, width, 16)
    image[:, index * 4 : index * 4 + 8] = 235
    return image


def read_video(path: Path) -> tuple[list[NDArray[np.uint8]], list[float]]:
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [
        float(frame.pts * frame.time_base) for frame in frames
    ]


def read_sound(path: Path) -> NDArray[np.float32]:
    with av.open(str(path)) as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])


def test_a_mask_is_tinted_in_its_colour_and_nothing_else_is() -> None:
    image = grey()
    picture = draw(image, [region()])
    assert picture.shape == (480 + STRIP, 640, 3)
    assert (image == 100).all()
    inside = picture[240, 320].astype(int)
    assert np.abs(inside - (np.array(palette.color(2)) * 0.45 + 55)).max() <= 1
    assert (picture[400:480] == 100).all()
    assert (picture[:480, :140] == 100).all()
    assert tuple(picture[240, 160]) == palette.color(2)  # the outline


def test_a_mask_lands_where_the_message_says() -> None:
    """A camera picture of which the mask shows the right half."""
    mask = region().mask
    placed = to_pixels(mask, 640, 480, (320 / 224, 0, 320, 0, 480 / 224, 0))
    rows, columns = np.flatnonzero(placed.any(1)), np.flatnonzero(placed.any(0))
    assert (rows[0], rows[-1] + 1) == (120, 360)
    assert (columns[0], columns[-1] + 1) == (400, 560)
    assert to_pixels(np.ones((224, 224), np.bool_), 640, 480).all()


def test_small_pictures_grow_and_strange_labels_are_no_error() -> None:
    others = [region(3, "Käuzchen"), region(4, "Käuzchen" * 30)]
    picture = draw(grey(120, 160), others, rms_dbfs=-200.0, latency_ms=31.4, status="camera lost – reopening")
    assert picture.shape == (480 + STRIP, 640, 3)
    assert (picture[480:] != picture[480, 0]).any(), "nothing is written below"
    assert draw(grey(480, 640), []).shape == (480 + STRIP, 640, 3)


def test_louder_is_longer() -> None:
    bars = [draw(grey(), [], rms_dbfs=level)[480 + STRIP // 2] for level in (-60.0, -30.0, 0.0)]
    green = [int((bar[:140, 1] > 200).sum()) for bar in bars]
    assert green[0] < 5
    assert abs(green[1] - 60) < 5
    assert abs(green[2] - 120) < 5


def test_video_keeps_pictures_times_and_sound(tmp_path: Path) -> None:
    rate, start = 16_000, 77 * NS
    sound = (0.3 * np.sin(np.arange(3 * rate) ** 1.5 / 900)).astype(np.float32)
    path = tmp_path / "run.mp4"
    times = [start + index * NS // 30 + (index % 3) * 2_000_000 for index in range(36)]  # jitter of a camera
    with VideoWriter(path) as video:
        for index, time_ns in enumerate(times):
            end = rate + (time_ns - start) * rate // NS
            video.write(ramp(index), time_ns, sound[end - 15_600 : end])
        assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["run.mp4"]
    pictures, seen = read_video(path)
    assert [int(np.median(np.flatnonzero(p[60, :, 1] > 128))) // 4 for p in pictures] == list(range(36))
    assert np.abs(np.array(seen) - (np.array(times) - start) / NS).max() < 1e-4
    heard = read_sound(path)
    wanted = sound[rate : rate + (times[-1] - start) * rate // NS]
    assert np.corrcoef(heard[: len(wanted)], wanted)[0, 1] > 0.99


def test_video_goes_on_when_a_file_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "loop.mp4"
    with VideoWriter(path, fps=10) as video:
        for time_ns in (0, NS // 10, NS // 5, 0, NS // 10):
            video.write(ramp(1, 121, 161), time_ns)
    pictures, seen = read_video(path)
    assert pictures[0].shape == (120, 160, 3)  # yuv420p has even sizes only
    assert np.allclose(seen, [0, 0.1, 0.2, 0.3, 0.4])


def test_a_run_that_fails_keeps_its_video_and_one_without_pictures_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path, num_frames: int) -> None:
        with VideoWriter(path) as video:
            for index in range(num_frames):
                video.write(ramp(index), index * NS // 30)
            raise RuntimeError("the camera is gone")

    for name, num_frames in (("some.mp4", 5), ("none.mp4", 0)):
        with pytest.raises(RuntimeError, match="camera"):
            fail(tmp_path / name, num_frames)
    assert [file.name for file in tmp_path.iterdir()] == ["some.mp4"]
    assert len(read_video(tmp_path / "some.mp4")[0]) == 5


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskError, match=r"^video .*/nowhere/a.mp4: cannot be written: No such file"),
        VideoWriter(tmp_path / "nowhere" / "a.mp4"),
    ):
        pass
    with pytest.raises(UserError, match=r"only \.mp4"), VideoWriter(tmp_path / "a.avi"):
        pass


@contextmanager
def small_disk() -> Iterator[None]:
    """No file may grow past so many bytes, as on a full disk. That holds for pytest's own log too, so not for long."""
    limit, before = 50_000, resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_one_line_and_leaves_no_stump(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)

    def run() -> None:
        with VideoWriter(tmp_path / "full.mp4") as video:
            for index in range(60):
                video.write(np.roll(noise, index, 0), index * NS // 30)

    with small_disk(), pytest.raises(DiskError, match=r"^video .*full.mp4: cannot be written: .*; free space"):
        run()
    assert list(tmp_path.iterdir()) == []


def test_a_preview_is_the_frame_in_small() -> None:
    image = grey(960, 1280)
    image[:, 640:] = (200, 40, 40)
    sent = make_preview(Frame(image, 5, 7), session="abcd1234", source="cam0", seq=3, clock=Clock.here())
    got = messages.decode(sent.encode())
    assert isinstance(got, messages.PreviewMessage)
    assert (got.seq, got.video_ns, got.image) == (3, 5, messages.Image(1280, 960, 7))
    shown = decode_jpeg(got.jpeg)
    assert shown is not None
    assert shown.shape == (480, 640, 3)
    assert np.abs(shown[::40, 10:300:40].astype(int) - 100).max() < 4
    assert np.abs(shown[::40, 340::40].astype(int) - (200, 40, 40)).max() < 6
    assert len(got.jpeg) < 30_000


@pytest.mark.parametrize("data", [b"", b"no picture", b"\xff\xd8\xff\xe0 cut off"])
def test_bytes_that_are_no_picture(data: bytes) -> None:
    assert decode_jpeg(data) is None


def test_colours_never_change_and_never_repeat() -> None:
    assert [palette.color(number) for number in (0, 1, 2, 17)] == [
        (128, 128, 128),
        (225, 165, 0),
        (90, 180, 240),
        (255, 15, 135),
    ]
    assert len({palette.color(number) for number in range(29)}) == 29
    assert palette.color(29) == palette.color(1)
    assert palette.color(70) in {palette.color(number) for number in range(1, 29)}
