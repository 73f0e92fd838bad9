"""Files played as camera and microphone: exact times, own pace, loops, odd and broken files."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rt_avsac.config import LiveSettings
from rt_avsac.errors import SourceError, UserError
from rt_avsac.flow import Window
from rt_avsac.media import Media
from rt_avsac.sources import open_sources
from rt_avsac.tracks import Picture, open_av
from tests.clips import beep, turn_clockwise, write_clip
from tests.waiting import until

FRAME_NS = 1_000_000_000 // 30


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "flashbeep.mp4", 3.0)


def steps(camera: Path | str, **changes: object) -> list[Window]:
    """All windows of the file, as fast as it goes."""
    with open_sources(replace(LiveSettings(camera=str(camera), realtime=False), **changes)) as sources:
        return list(sources)


def onset(window: Window) -> float:
    """Where the beep begins in the window, seconds on the window's clock."""
    loud = np.flatnonzero(np.abs(window.audio) > 0.2)
    return window.audio_start_ns / 1e9 + loud[0] / 16_000


def test_every_frame_comes_with_the_sound_that_ends_at_it(clip: Path) -> None:
    windows = steps(clip)
    assert [w.frame.index for w in windows] == list(range(90))
    assert [w.frame.time_ns for w in windows] == pytest.approx([round(n * 1e9 / 30) for n in range(90)], abs=2)
    assert all(w.frame.time_source == "pts" for w in windows)
    assert {w.status for w in windows[30:]} == {"ok"}
    assert {w.status for w in windows[:29]} == {"missing", "gap"}
    assert max(abs(w.skew_ns) for w in windows) <= 31_250
    bright = [w for w in windows if w.frame.image.mean() > 128]
    assert [w.frame.index for w in bright] == [0, 1, 2, 30, 31, 32, 60, 61, 62]
    assert onset(windows[45]) == pytest.approx(1.0, abs=0.0005)
    assert onset(windows[75]) == pytest.approx(2.0, abs=0.0005)


def test_step_by_step_gives_the_same_bytes_each_time(clip: Path) -> None:
    def digest() -> str:
        total = hashlib.sha256()
        for w in steps(clip):
            total.update(w.frame.image.tobytes() + w.audio.tobytes())
            total.update(f"{w.frame.time_ns} {w.audio_start_ns} {w.status} {w.frame.index}".encode())
        return total.hexdigest()

    assert digest() == digest()


def test_a_file_plays_at_its_own_pace(clip: Path) -> None:
    with open_sources(LiveSettings(camera=str(clip))) as sources:
        taken = [(w, time.monotonic_ns()) for w in sources]
        assert sources.ended
        assert sources.states == {"camera": "ended", "mic": "ended"}
    windows = [w for w, _ in taken]
    assert all(now_ns >= w.frame.time_ns for w, now_ns in taken), "a frame came before its time"
    zero_ns = windows[0].frame.time_ns - windows[0].frame.index * FRAME_NS
    assert all(abs(w.frame.time_ns - zero_ns - w.frame.index * 1e9 / 30) < 100 for w in windows)
    indices = [w.frame.index for w in windows]
    assert indices == sorted(set(indices))
    assert {w.status for w in windows if w.frame.index >= 30} == {"ok"}


def test_a_loop_goes_on_without_a_seam(clip: Path) -> None:
    windows: list[Window] = []
    with open_sources(LiveSettings(camera=str(clip), realtime=False, loop=True)) as sources:
        for window in sources:
            windows.append(window)
            if len(windows) == 270:
                break
    times = np.array([w.frame.time_ns for w in windows])
    assert np.abs(np.diff(times) - 1e9 / 30).max() < 3
    assert {w.status for w in windows[30:]} == {"ok"}
    assert onset(windows[100]) == pytest.approx(3.0, abs=0.0005)
    assert onset(windows[195]) == pytest.approx(6.0, abs=0.0005)


def test_the_demo_loops_only_where_it_plays_as_a_camera() -> None:
    def loops(**changes: object) -> bool:
        return Media(replace(LiveSettings(camera="demo"), **changes), "demo.mp4", None).loop

    assert loops()
    assert loops(realtime=False, duration_s=60.0)
    assert not loops(realtime=False)
    assert not Media(LiveSettings(camera="a.mp4"), "a.mp4", None).loop


def test_latencies_move_the_stamps(clip: Path) -> None:
    plain = steps(clip)
    moved = steps(clip, camera_latency_ms=40.0, mic_latency_ms=100.0)
    assert plain[60].frame.time_ns - moved[60].frame.time_ns == 40_000_000
    assert onset(plain[45]) - onset(moved[45]) == pytest.approx(0.1, abs=1e-6)


def test_stereo_of_another_rate_becomes_16_khz_mono(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "stereo.mp4", 2.5, sound_rate=44_100, channels=2)
    windows = steps(clip)
    assert onset(windows[45]) == pytest.approx(1.0, abs=0.0005)
    sound = windows[45].audio
    loud = sound[np.abs(sound) > 0.5]
    assert 0.7 < np.abs(loud).max() < 0.9


def test_sound_of_another_file_begins_with_the_picture(tmp_path: Path, clip: Path) -> None:
    other = write_clip(tmp_path / "sound.wav", 3.0, picture=None, codec="pcm_s16le", sound=lambda t: beep(t - 0.25))
    windows = steps(clip, mic=str(other))
    assert onset(windows[50]) == pytest.approx(1.25, abs=0.0005)


def test_sound_that_begins_later_is_missing_before(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "late.mkv", 3.0, sound_begins_s=1.5)
    windows = steps(clip)
    assert {w.status for w in windows[:44]} == {"missing"}
    assert {w.status for w in windows[48:70]} == {"gap"}
    assert {w.status for w in windows[76:]} == {"ok"}
    assert onset(windows[70]) == pytest.approx(2.0, abs=0.0005)


def test_sound_that_ends_earlier_is_missing_after(tmp_path: Path) -> None:
    windows = steps(write_clip(tmp_path / "short.mp4", 3.5, sound_ends_s=1.5))
    assert windows[44].status == "ok"
    assert windows[60].status in ("gap", "late")
    assert windows[-1].status == "missing"
    assert not windows[-1].audio.any()


def test_a_varying_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    times_s = [0.0, 0.05, 0.2, 0.25, 0.9, 1.0, 1.01, 2.4]
    windows = steps(write_clip(tmp_path / "vfr.mp4", 2.5, times_s=times_s))
    assert [w.frame.time_ns / 1e9 for w in windows] == pytest.approx(times_s, abs=0.001)
    assert onset(windows[-1]) == pytest.approx(2.0, abs=0.0005)


def test_a_phone_held_upright_gives_an_upright_picture(tmp_path: Path) -> None:
    def marked(t: float) -> np.ndarray:
        image = np.zeros((96, 160, 3), np.uint8)
        image[:32, :32] = (255, 0, 0)  # top left as the sensor sees it
        return image

    path = write_clip(tmp_path / "phone.mp4", 0.5, picture=marked, sound=None)
    turn_clockwise(path)
    image = steps(path, mic="none")[0].frame.image
    assert image.shape == (160, 96, 3)
    red = np.argwhere((image[..., 0] > 180) & (image[..., 1] < 80))
    assert red[:, 0].max() < 40
    assert red[:, 1].min() > 56  # top right when shown


def test_file_without_sound(tmp_path: Path) -> None:
    silent = write_clip(tmp_path / "silent.mp4", 0.5, sound=None)
    with pytest.raises(SourceError, match=r"silent.mp4.*found video \(h264\).*--mic none") as caught:
        steps(silent, mic="same")
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert [w.status for w in steps(silent, mic="none")] == ["missing"] * 15


def test_file_without_picture(tmp_path: Path) -> None:
    sound = write_clip(tmp_path / "only.wav", 0.5, picture=None, codec="pcm_s16le")
    with pytest.raises(SourceError, match=r"only.wav: asked for pictures, found audio \(pcm_s16le\)"):
        steps(sound)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 5000, b"RIFF not a film at all" * 100, b"\xff\xd8\xff\xe0 half a jpeg"]
)
@pytest.mark.parametrize("realtime", [True, False])
def test_a_file_that_is_no_film(tmp_path: Path, content: bytes, realtime: bool) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with (
        pytest.raises(SourceError, match=r"broken\.mp4"),
        open_sources(LiveSettings(camera=str(path), realtime=realtime)),
    ):
        pass


def test_a_file_cut_off(tmp_path: Path, clip: Path) -> None:
    whole = clip.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])  # an mp4 has its index at the end
    with pytest.raises(SourceError, match=r"cut\.mp4: cannot be played"):
        steps(cut)
    film = write_clip(tmp_path / "film.mkv", 3.0)  # an mkv can be played up to the cut
    data = film.read_bytes()
    film.write_bytes(data[: len(data) * 2 // 3])
    assert 10 < len(steps(film)) < 90


@pytest.mark.parametrize("kind", ["ts", "mp4"])
def test_damage_in_the_middle_is_skipped_and_counted(tmp_path: Path, kind: str) -> None:
    film = write_clip(tmp_path / f"film.{kind}", 3.0, picture=noise)
    data = bytearray(film.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = bytes(np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8))
    film.write_bytes(data)
    with open_sources(LiveSettings(camera=str(film), realtime=False)) as sources:
        windows = list(sources)
        assert sources.drops["packet_corrupt"] >= 1
    assert len(windows) > 30
    times = [w.frame.time_ns for w in windows]
    assert times == sorted(set(times))


def noise(t: float) -> np.ndarray:
    return np.random.default_rng(round(t * 600)).integers(0, 256, (96, 128, 3), dtype=np.uint8)


def test_no_such_file_and_words_that_mean_nothing() -> None:
    with pytest.raises(SourceError, match=r"nowhere\.mp4: no such file"):
        open_sources(LiveSettings(camera="nowhere.mp4"))
    with pytest.raises(SourceError, match="gopher://x: that kind of address is unknown"):
        open_sources(LiveSettings(camera="gopher://x"))
    with pytest.raises(SourceError, match=r"microphone nowhere\.wav: no such file"):
        open_sources(LiveSettings(camera="0", mic="nowhere.wav"))
    with pytest.raises(SourceError, match="microphone same: camera 0 is a device without sound"):
        open_sources(LiveSettings(camera="0", mic="same"))
    with pytest.raises(UserError, match="--no-realtime"):
        open_sources(LiveSettings(camera="0", realtime=False))


def test_frames_nobody_takes_are_overwritten_and_counted(clip: Path) -> None:
    with open_sources(LiveSettings(camera=str(clip))) as sources:
        until(lambda: sources.drops.get("frame_overwritten", 0) >= 5)
        window = sources.next(1.0)
        assert window is not None
        assert window.frame.index >= 5


def test_a_decoder_that_falls_behind_drops_frames(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Picture.rgb

    def rgb(self: Picture) -> np.ndarray:
        if self.time_ns == 0:
            time.sleep(0.4)  # the fault under test: one picture takes 0.4 s
        return slow(self)

    monkeypatch.setattr(Picture, "rgb", rgb)
    with open_sources(LiveSettings(camera=str(clip))) as sources:
        indices = [w.frame.index for w in sources]
        assert sources.drops["frame_behind"] >= 3
    assert indices[0] == 0
    assert indices[1] >= 4


def test_closing_a_playing_file_is_prompt(clip: Path) -> None:
    with open_sources(LiveSettings(camera=str(clip), loop=True)) as sources:
        assert sources.next(5.0) is not None
    assert sources.ended
    assert sources.next(0.0) is None


def test_a_sound_file_alone_plays_and_ends(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "sound.wav", 1.2, picture=None, codec="pcm_s16le")
    with Media(LiveSettings(camera="0", mic=str(path)), None, str(path)) as media:
        assert media.ring is not None
        until(lambda: media.state == "ended")
        end_ns = media.ring.end_ns
        assert end_ns is not None
        samples, _, _, status = media.ring.cut(end_ns, 16_000)
    assert status == "ok"
    assert np.abs(samples).max() > 0.7


def test_a_title_in_an_old_encoding_is_no_reason_not_to_play(tmp_path: Path) -> None:
    title, samples = b"INFOINAM\x06\0\0\0caf\xe9\0\0", bytes(32_000)
    form = b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0"
    chunks = form + b"".join(
        name + len(data).to_bytes(4, "little") + data for name, data in ((b"LIST", title), (b"data", samples))
    )
    path = tmp_path / "old.wav"
    path.write_bytes(b"RIFF" + len(chunks).to_bytes(4, "little") + chunks)
    with open_av(str(path)) as container:
        assert container.metadata["title"].startswith("caf")
        assert sum(frame.samples for frame in container.decode(audio=0)) == 16_000


@pytest.mark.parametrize(("version", "told"), [("18.1.0", {"metadata_errors": "ignore"}), ("19.0.2", {})])
def test_av_is_told_to_read_any_title_where_it_must_be(
    version: str, told: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("av.__version__", version)
    monkeypatch.setattr("av.open", lambda path, **options: options)
    assert open_av("x") == told
