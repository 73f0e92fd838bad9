"""The demo clip: what is in the file is what its truth says, to the frame and to the sample."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from rt_avsac import demo

SILENCE = 0.003  # -50 dBFS: below everything that is meant to be heard


@pytest.fixture(scope="module")
def truth() -> demo.Truth:
    return demo.truth()


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    """Grey [n, h, w], in the file's order."""
    with av.open(str(demo.clip_path())) as file:
        return np.stack([frame.to_ndarray(format="gray") for frame in file.decode(video=0)])


@pytest.fixture(scope="module")
def sound() -> NDArray[np.float32]:
    with av.open(str(demo.clip_path())) as file:
        assert (file.streams.audio[0].rate, file.streams.audio[0].channels) == (16_000, 1)
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])


def test_it_is_small_and_credited() -> None:
    folder = demo.clip_path().parent
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) <= 2_000_000
    rows = [line for line in (folder / "CREDITS.md").read_text().splitlines() if line.startswith("| ")]
    assert len(rows) > 5
    assert all(row.split("|")[-2].strip() in ("licence", "CC0", "CC BY 3.0", "CC BY 4.0") for row in rows)


def test_frames_have_the_times_of_the_truth(truth: demo.Truth) -> None:
    with av.open(str(demo.clip_path())) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 320, 240)
        times = [round(frame.pts * frame.time_base * 1_000_000_000) for frame in file.decode(video=0)]
    assert len(times) == len(truth.time_ns) == len(truth.mask) == len(truth.sounding)
    assert np.abs(np.array(times) - truth.time_ns).max() <= 1
    assert truth.mask.shape[1:] == (240, 320)


def test_masks_lie_on_the_frames_they_are_numbered_for(truth: demo.Truth, pictures: NDArray[np.uint8]) -> None:
    """The edges of a moving cut-out are where its mask's edges are: in no other frame as much as in its own."""
    offsets = range(-8, 9)
    strength = np.zeros(len(offsets))
    for index in range(20, len(pictures) - 20, 5):
        if not truth.sounding[index]:
            continue
        rim = cv2.morphologyEx((truth.mask[index] > 0).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((2, 2))) > 0
        for number, offset in enumerate(offsets):
            picture = pictures[index + offset].astype(np.float32)
            slope = np.hypot(cv2.Sobel(picture, -1, 1, 0), cv2.Sobel(picture, -1, 0, 1))
            strength[number] += slope[rim].mean()
    assert abs(offsets[int(strength.argmax())]) <= 1, dict(zip(offsets, strength.round(), strict=True))


def test_labels_say_what_the_masks_show(truth: demo.Truth) -> None:
    for labels, mask in zip(truth.sounding, truth.mask, strict=True):
        assert {truth.classes[number] for number in np.unique(mask) if number} == set(labels)
    shares = [(truth.mask == truth.classes.index(label)).mean((1, 2)) for label in ("piano", "bird", "accordion")]
    assert all(0.1 < share[share > 0].mean() < 0.3 for share in shares)


def test_everything_the_issue_asks_for_happens(truth: demo.Truth) -> None:
    seen = {labels for labels in truth.sounding}
    assert {(), ("piano",), ("bird",), ("accordion",), ("bird", "piano")} <= {tuple(sorted(labels)) for labels in seen}
    assert any(len(labels) == 2 for labels in seen)
    assert [sound.label for sound in truth.sounds if not sound.on_screen] == ["dog"]
    assert 15 <= truth.time_ns[-1] / 1e9 <= 25


def test_sounds_begin_at_their_sample(truth: demo.Truth, sound: NDArray[np.float32]) -> None:
    alone = [s for s in truth.sounds if not any(o is not s and o.start <= s.start <= o.end for o in truth.sounds)]
    assert len(alone) >= 5
    for part in alone:
        heard = int(np.argmax(np.abs(sound[part.start - 4000 :]) > 0.02)) - 4000
        assert -16 <= heard <= 48, part  # 1 ms early (the codec smears) to 3 ms late


def test_silence_is_silent_and_sound_is_loud(truth: demo.Truth, sound: NDArray[np.float32]) -> None:
    covered = np.zeros(len(sound), bool)
    for part in truth.sounds:
        covered[part.start - 1024 : part.end + 1024] = True  # a block of the codec on either side
        assert -24 < 10 * np.log10(np.mean(sound[part.start : part.end] ** 2)) < -15, part
    assert np.abs(sound[~covered]).max() < SILENCE
    assert (~covered).sum() > 3 * 16_000


def test_settled_frames_hear_one_thing_only(truth: demo.Truth) -> None:
    settled = truth.settled()
    assert 0.3 < settled.mean() < 0.7
    for index in np.flatnonzero(settled):
        end = truth.time_ns[index] * 16 // 1_000_000
        first = max(int(np.ceil((end / 16_000 - 0.975) * 30)), 0)
        assert all(truth.sounding[earlier] == truth.sounding[index] for earlier in range(first, index))
    assert {labels for labels, good in zip(truth.sounding, settled, strict=True) if good} >= {
        (),
        ("piano",),
        ("bird",),
        ("accordion",),
    }


def test_the_clip_is_beside_the_code() -> None:
    assert demo.clip_path().parent == Path(demo.__file__).parent
