"""Microphone: PortAudio blocks to a ring of 16 kHz mono samples with capture times; a lost one is opened again."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import wait

import numpy as np

from rt_avsac import portaudio
from rt_avsac.backoff import Reopener
from rt_avsac.config import LiveSettings
from rt_avsac.errors import SourceError
from rt_avsac.flow import AudioChunk, SourceState
from rt_avsac.resample import Resampler
from rt_avsac.sample_clock import SampleClock
from rt_avsac.sync import SAMPLE_RATE_HZ, AudioRing

SECOND_NS = 1_000_000_000
OPEN_DEADLINE_S = 8.0  # to start the process, load PortAudio, open the device and hear its first block


class Microphone:
    """The microphone of `settings.mic` ("default", index or part of a name); a context manager.

    PortAudio runs in a child process (rt_avsac.portaudio) that stamps each block; a daemon thread here puts the
    samples into `ring`. A process that says nothing for `max_audio_age_ms` is ended and begun anew.
    """

    def __init__(self, settings: LiveSettings) -> None:
        self.settings = settings
        self.ring = AudioRing()
        self.asked = "default" if settings.mic == "auto" else settings.mic
        self._reopener = Reopener(settings, f"microphone {self.asked}", self._attempt)
        self._counts: Counter[str] = Counter()
        self._epoch = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def state(self) -> SourceState:
        return self._reopener.state

    @property
    def status_text(self) -> str:
        return self._reopener.status_text

    @property
    def drops(self) -> dict[str, int]:
        """Overflows that the driver told, stalls and losses found by the clock and the watchdog."""
        return {**self._counts, "audio_lost": self._reopener.losses}

    def check(self) -> None:
        """Raise the SourceError that ended it, if any."""
        self._reopener.check()

    def __enter__(self) -> Microphone:
        self._reopener.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._reopener.stop.set()
        with self._lock:
            if self._process is not None:
                self._process.kill()
        self._reopener.join(5)
        self.ring.close()

    def _attempt(self) -> None:
        """One life of the child process. SourceError when it is over."""
        with self._lock:
            if self._reopener.stop.is_set():
                return
            process = self._process = portaudio.start("record", self.asked, str(SAMPLE_RATE_HZ))
        try:
            self._listen(self._records(process))
        finally:
            with self._lock:
                self._process = None
                process.kill()
            assert process.stdout is not None
            process.stdout.close()
            process.wait()

    def _records(self, process: subprocess.Popen[bytes]) -> Iterator[tuple[bytes, int, int, int, bytes]]:
        """(kind, overflow, time_ns, frames so far, payload) of the child. SourceError when it is silent or gone."""
        assert process.stdout is not None
        fd, buffer = process.stdout.fileno(), bytearray()
        began = time.monotonic()
        deadline = began + OPEN_DEADLINE_S
        while True:
            remaining_s = deadline - time.monotonic()
            ready = wait([fd], max(0.0, remaining_s))
            if not ready:
                asked = f"{self._reopener.name}: "
                if self._reopener.state == "ok":
                    raise SourceError(f"{asked}no sound for {self.settings.max_audio_age_ms:.0f} ms (max_audio_age_ms)")
                raise SourceError(
                    f"{asked}no sound within {OPEN_DEADLINE_S:.0f} s of opening it; the sound server does not answer, "
                    "or nothing feeds the device; see `rt-avsac devices`"
                )
            data = os.read(fd, 1 << 16)
            if not data:
                code = process.wait()
                raise SourceError(f"{self._reopener.name}: the process that owns PortAudio ended with code {code}")
            buffer += data
            while len(buffer) >= portaudio.HEADER.size:
                kind, overflow, length, time_ns, frames = portaudio.HEADER.unpack_from(buffer)
                end = portaudio.HEADER.size + length
                if len(buffer) < end:
                    break
                payload = bytes(buffer[portaudio.HEADER.size : end])
                del buffer[:end]
                if kind == b"B":
                    deadline = time.monotonic() + self.settings.max_audio_age_ms / 1000
                yield kind, overflow, time_ns, frames, payload

    def _listen(self, records: Iterator[tuple[bytes, int, int, int, bytes]]) -> None:
        """Samples into the ring, placed by the min-envelope clock of this stream."""
        clock = SampleClock()
        rate_hz, channels, start = SAMPLE_RATE_HZ, 1, 0
        first_epoch = self._epoch = self._epoch + 1
        resampler = Resampler(rate_hz, SAMPLE_RATE_HZ)
        latency_ns = round(self.settings.mic_latency_ms * 1e6)
        text = ""
        for kind, overflow, time_ns, frames, payload in records:
            if kind == b"E":
                raise SourceError(
                    f"{self._reopener.name}: {payload.decode(errors='replace')}; "
                    "see `rt-avsac devices`, or run with --mic none"
                )
            if kind == b"O":
                opened = json.loads(payload)
                rate_hz, channels = opened["rate_hz"], opened["channels"]
                resampler = Resampler(rate_hz, SAMPLE_RATE_HZ)
                text = f"{opened['name']} at {rate_hz} Hz"
                continue
            if text:
                self._reopener.ok(text)
                text = ""
            clock.update(time_ns, frames * SECOND_NS // rate_hz, lost=bool(overflow))
            if overflow:
                self._counts["audio_overflow"] += 1
            if first_epoch + clock.epoch != self._epoch:
                self._epoch = first_epoch + clock.epoch
                self._counts["audio_jump"] += 1
            samples = np.frombuffer(payload, np.float32).reshape(-1, channels).mean(axis=1, dtype=np.float32)
            samples = resampler.push(samples)
            if len(samples):
                first_ns = clock.time_ns(start * SECOND_NS // SAMPLE_RATE_HZ) - latency_ns
                chunk = AudioChunk(samples, first_ns, start, overflow=bool(overflow), epoch=self._epoch)
                self.ring.write(chunk)
                start += len(samples)
