"""The microphone against a real PortAudio on a private sound server: times, faults, and coming back."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from rt_avsac import portaudio
from rt_avsac.config import LiveSettings
from rt_avsac.errors import SourceError
from rt_avsac.microphone import Microphone
from tests.pulse import Feeder, Pulse
from tests.waiting import until

WINDOW = 15_600
QUICK = LiveSettings(mic="default", reopen_min_s=0.05, reopen_max_s=0.2)


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(round(16_000 * seconds)) * 0.2


def true_start_ms(samples: np.ndarray, played: np.ndarray, feeder: Feeder) -> float | None:
    """When the first of these samples was due, by finding them in what was played, ms; None if something else is in."""
    size = 1 << (len(played) + len(samples)).bit_length()
    likeness = np.fft.irfft(np.fft.rfft(played, size) * np.conj(np.fft.rfft(samples, size)), size)
    place = int(np.argmax(likeness[: len(played)]))
    found = played[place : place + len(samples)]
    alike = len(found) == len(samples) and samples.std() > 0.01 and np.corrcoef(found, samples)[0, 1] > 0.9
    return feeder.true_ns(place) / 1e6 if alike else None


def wait_for_a_window(microphone: Microphone) -> int:
    """Time at which a whole window of fresh sound ends."""
    found: list[int] = []

    def there() -> bool:
        end_ns = microphone.ring.end_ns
        if end_ns is None or microphone.ring.cut(end_ns, WINDOW)[3] != "ok" or microphone.ring.quiet_ns > 200_000_000:
            return False
        found.append(end_ns)
        return True

    until(there, what="a window of sound")
    return found[-1]


def errors_ms(microphone: Microphone, played: np.ndarray, feeder: Feeder, windows: int = 12) -> np.ndarray:
    """Stamped minus true time of windows one after the other."""
    errors = []
    end_ns = wait_for_a_window(microphone)
    for _ in range(
        5 * windows
    ):  # a loaded machine feeds late, and the sound server fills in: such windows do not count
        assert microphone.ring.wait_for(end_ns, 10.0)
        samples, start_ns, _, status = microphone.ring.cut(end_ns, 2400)
        true_ms = true_start_ms(samples, played, feeder)
        if status == "ok" and true_ms is not None:
            errors.append(start_ns / 1e6 - true_ms)
        if len(errors) == windows:
            return np.array(errors)
        end_ns += 100_000_000
    raise AssertionError(f"only {len(errors)} windows held what was played")


def least_error_ms(settings: LiveSettings, played: np.ndarray, feeder: Feeder, rate_text: str) -> float:
    """Of three openings: a starved sound server may hold some ms back for as long as a stream lives."""
    medians = []
    for _ in range(3):
        with Microphone(settings) as microphone:
            errors = errors_ms(microphone, played, feeder, 4)
            assert microphone.state == "ok"
            assert rate_text in microphone.status_text
        assert errors.std() <= 3.0
        medians.append(float(np.median(errors)))
    return min(medians)


def test_samples_carry_their_true_times(pulse: Pulse) -> None:
    played = noise(90)
    with Feeder(pulse, played) as feeder:
        error = least_error_ms(QUICK, played, feeder, "16000 Hz")
        moved = least_error_ms(replace(QUICK, mic_latency_ms=30.0), played, feeder, "16000 Hz")
    assert abs(error) <= 5.0
    assert moved - error == pytest.approx(-30.0, abs=5.0)


LOCKED = """
import sys
if "rt_avsac.portaudio" in sys.orig_argv:
    import sounddevice
    class Locked(sounddevice.RawInputStream):
        def __init__(self, **asked):
            if asked["samplerate"] != 48_000 or asked["channels"] != 2:
                raise sounddevice.PortAudioError("Invalid sample rate")
            super().__init__(**asked)
    sounddevice.RawInputStream = Locked
"""


def test_a_device_that_refuses_16_khz_is_resampled(pulse: Pulse, monkeypatch: pytest.MonkeyPatch) -> None:
    (pulse.folder / "sitecustomize.py").write_text(LOCKED)  # an ALSA device that is locked to 48 kHz stereo
    monkeypatch.setenv("PYTHONPATH", str(pulse.folder))
    played = noise(60)
    with Feeder(pulse, played) as feeder:
        error = least_error_ms(QUICK, played, feeder, "48000 Hz")
    assert abs(error) <= 15.0, "10 ms of it are the sound server's own conversion of our 16 kHz source"


def test_a_stall_with_a_burst_keeps_the_times(pulse: Pulse) -> None:
    played = noise(30)
    with Feeder(pulse, played) as feeder, Microphone(QUICK) as microphone:
        wait_for_a_window(microphone)
        feeder.pause()
        until(lambda: microphone.ring.quiet_ns > 400_000_000, what="the stall")
        stalled_ns = time.monotonic_ns()
        feeder.resume()  # sends all that was due meanwhile at once
        assert microphone.ring.wait_for(stalled_ns, 10.0)
        samples, start_ns, _, _ = microphone.ring.cut(stalled_ns - 300_000_000, 1600)
        true_ms = true_start_ms(samples, played, feeder)
        assert microphone.state == "ok", microphone.status_text
    assert true_ms is not None, "the burst is not what was played"
    assert abs(start_ns / 1e6 - true_ms) <= 60.0, "by arrival it would be 400 ms"


@pytest.mark.parametrize("fault", ["freeze", "kill", "stall"])
def test_a_dead_microphone_is_told_and_comes_back(pulse: Pulse, fault: str) -> None:
    played = noise(60)
    with Feeder(pulse, played) as feeder, Microphone(QUICK) as microphone:
        wait_for_a_window(microphone)
        {"freeze": pulse.freeze, "kill": pulse.kill, "stall": feeder.pause}[fault]()
        assert until(lambda: microphone.state == "lost") < 5
        assert "no sound" in microphone.status_text or "no microphone" in microphone.status_text
        until(lambda: microphone.ring.cut(time.monotonic_ns(), WINDOW)[3] == "missing", what="missing sound")
        microphone.check()  # lost, not over
        if fault == "kill":
            until(lambda: "no microphone found" in microphone.status_text, what="an attempt without a server")
            pulse.start("vfifo")
        if fault != "kill":
            {"freeze": pulse.thaw, "stall": feeder.resume}[fault]()
        if fault == "kill":
            with Feeder(pulse, played):
                wait_for_a_window(microphone)
        else:
            wait_for_a_window(microphone)
        assert microphone.state == "ok"
        assert microphone.drops["audio_lost"] >= 1


def test_stopping_is_prompt_while_the_server_is_frozen(pulse: Pulse) -> None:
    with Feeder(pulse, noise(60)):
        with Microphone(QUICK) as microphone:
            wait_for_a_window(microphone)
            pulse.freeze()
            until(lambda: microphone.drops["audio_lost"] >= 1)
            began = time.monotonic()
        assert time.monotonic() - began < 2
        with Microphone(QUICK):  # and before anything was heard: the process hangs in its import
            began = time.monotonic()
        assert time.monotonic() - began < 2


def test_absent_at_the_start(pulse: Pulse) -> None:
    pulse.kill()
    for policy in ("auto", "exit"):
        with Microphone(replace(QUICK, on_source_loss=policy)) as microphone:
            until(lambda: microphone.state == "lost")
            with pytest.raises(SourceError, match=r"microphone default: no microphone found.*--mic none") as caught:
                until(lambda: microphone.check(), 1.0)
            assert "\n" not in str(caught.value)
    with Microphone(replace(QUICK, on_source_loss="reopen")) as microphone:
        until(lambda: microphone.drops["audio_lost"] >= 2)
        microphone.check()
        pulse.start("vfifo")
        with Feeder(pulse, noise(20)):
            wait_for_a_window(microphone)


def test_exit_ends_at_the_first_loss(pulse: Pulse) -> None:
    with Feeder(pulse, noise(30)), Microphone(replace(QUICK, on_source_loss="exit")) as microphone:
        wait_for_a_window(microphone)
        pulse.freeze()
        until(lambda: microphone.state == "lost")
        with pytest.raises(SourceError, match="no sound for 1000 ms"):
            until(lambda: microphone.check(), 1.0)


def test_a_name_that_is_not_there_says_what_is(pulse: Pulse) -> None:
    with Microphone(replace(QUICK, mic="Blue Yeti")) as microphone:
        until(lambda: microphone.state == "lost")
        with pytest.raises(SourceError, match=r"Blue Yeti: no such microphone; found .*pulse"):
            until(lambda: microphone.check(), 1.0)


def test_choosing_a_microphone() -> None:
    def device(index: int, name: str, default: bool = False) -> dict[str, object]:
        return {"index": index, "name": name, "channels": 1, "rate_hz": 48_000, "default": default}

    found = [device(2, "HDA Intel PCH: ALC (hw:0,0)"), device(4, "USB Camera: Audio (hw:1,0)"), device(7, "usb", True)]
    assert portaudio.choose(found, "default")["index"] == 7
    assert portaudio.choose(found, "4")["index"] == 4
    assert portaudio.choose(found, "usb camera")["index"] == 4
    assert portaudio.choose(found, "USB")["index"] == 7, "a whole name wins over a part"
    with pytest.raises(ValueError, match="no such microphone; found 2 HDA"):
        portaudio.choose(found, "3")
    with pytest.raises(ValueError, match="no microphone found"):
        portaudio.choose([], "default")
