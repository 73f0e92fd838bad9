"""Composer: windows and predictions → the messages of one session."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict

from rt_avsac.clock import Clock
from rt_avsac.config import LiveSettings
from rt_avsac.flow import Prediction, Window
from rt_avsac.infer import ModelInfo
from rt_avsac.messages import (
    Audio,
    ClassInfo,
    Image,
    InfoMessage,
    Mask,
    MaskMessage,
    MaskObject,
    Model,
    StatusMessage,
    Times,
)
from rt_avsac.palette import color
from rt_avsac.sync import SAMPLE_RATE_HZ

# what does not change the masks of a deterministic run, and so not its session either
_ELSEWHERE = ("bind", "duration_s", "record", "annotate", "log_json", "server_key", "allowed_clients", "preview")


class Composer:
    """Knows what all messages of a session share. `clock`: None = this machine's, now."""

    def __init__(self, settings: LiveSettings, clock: Clock | None = None) -> None:
        self.source = settings.source
        self.session = session_of(settings)
        self._clock = clock
        self._model: ModelInfo | None = None
        self.seq = -1

    @property
    def clock(self) -> Clock:
        return self._clock or Clock.here()

    def set_model(self, model: ModelInfo) -> None:
        self._model = model
        self._wire_model = Model(model.name, model.sha256, model.backend, model.precision, model.threshold)

    def masks(self, window: Window, prediction: Prediction, taken_ns: int, drops: dict[str, int]) -> MaskMessage:
        """The next mask message. `taken_ns`: when the loop had the window, its frame's wait for sound behind it."""
        assert self._model is not None
        frame, model = window.frame, self._model
        height, width = frame.image.shape[:2]
        now_ns = time.monotonic_ns()
        # where times count from the beginning of a file, the frame was captured when it was asked for
        publish_ns = now_ns if self._clock is None else frame.time_ns + window.wait_ns + now_ns - taken_ns
        total_ns = publish_ns - frame.time_ns
        stages_ns = {
            "capture": total_ns - window.wait_ns - (now_ns - taken_ns),
            "wait": window.wait_ns,
            **prediction.stages_ns,
            "total": total_ns,
        }
        self.seq += 1
        return MaskMessage(
            session=self.session,
            source=self.source,
            seq=self.seq,
            clock=self.clock,
            t=Times(
                video_ns=frame.time_ns,
                video_source=frame.time_source,
                audio_start_ns=window.audio_start_ns,
                audio_end_ns=window.audio_end_ns,
                publish_ns=publish_ns,
                av_skew_ms=round(window.skew_ns / 1e6, 4),
            ),
            image=Image(width, height, frame.index),
            mask=Mask(
                model.mask_width,
                model.mask_height,
                (width / model.mask_width, 0.0, 0.0, 0.0, height / model.mask_height, 0.0),
            ),
            model=self._wire_model,
            audio=Audio(window.status, round(prediction.rms_dbfs, 2), prediction.silent, window.clipped),
            latency_ms={name: round(ns / 1e6, 3) for name, ns in stages_ns.items()},
            drops=drops,
            objects=tuple(
                MaskObject(
                    id=number,
                    class_id=region.class_id,
                    label=region.label,
                    score=round(region.score, 4),
                    bbox=region.bbox,
                    centroid=(round(region.centroid[0], 2), round(region.centroid[1], 2)),
                    area_px=region.area_px,
                    mask=region.mask,
                )
                for number, region in enumerate(prediction.objects)
            ),
        )

    def status(
        self,
        state: str,
        text: str,
        states: Mapping[str, str],
        fps: float,
        latency_ms: dict[str, float],
        drops: dict[str, int],
        sounding: tuple[str, ...],
    ) -> StatusMessage:
        """How the run is. `states`: of "camera" and "mic", by name."""
        return StatusMessage(
            session=self.session,
            source=self.source,
            clock=Clock.here(),
            publish_ns=time.monotonic_ns(),
            state=state,
            text=text,
            camera=states.get("camera", "opening"),
            microphone=states.get("mic", "none"),
            fps=fps,
            latency_ms=latency_ms,
            drops=drops,
            sounding=sounding,
            seq=self.seq,
        )

    def info(self, fps: float) -> InfoMessage:
        assert self._model is not None
        model = self._model
        return InfoMessage(
            session=self.session,
            source=self.source,
            clock=self.clock,
            classes=tuple(ClassInfo(index, name, color(index)) for index, name in enumerate(model.classes)),
            model=self._wire_model,
            fps=fps,
            window_s=model.num_audio_samples / SAMPLE_RATE_HZ,
            mask_width=model.mask_width,
            mask_height=model.mask_height,
        )


def session_of(settings: LiveSettings) -> str:
    """Eight hex digits: new for every live run; of a deterministic run the same, as all its bytes."""
    if settings.realtime:
        return secrets.token_hex(4)
    known = {key: value for key, value in asdict(settings).items() if key not in _ELSEWHERE}
    return hashlib.sha256(repr(sorted(known.items())).encode()).hexdigest()[:8]
