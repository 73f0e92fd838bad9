"""What a run leaves beside its masks: the recording, the annotated video, the previews, as the settings ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rt_avsac.compose import Composer
from rt_avsac.config import LiveSettings
from rt_avsac.flow import Prediction, Window
from rt_avsac.infer import ModelInfo
from rt_avsac.messages import MaskMessage
from rt_avsac.publish import Publisher
from rt_avsac.sidecar import Sink


@contextmanager
def open_sinks(
    settings: LiveSettings, model: ModelInfo, composer: Composer, publisher: Publisher
) -> Iterator[dict[str, Sink]]:
    """By name; closed at the end of the block. DiskError, UserError for a folder in use."""
    sinks: dict[str, Sink] = {}
    with ExitStack() as stack:
        if settings.record:
            from rt_avsac.record import Recorder

            sinks["record"] = stack.enter_context(Recorder(settings.record, settings, model)).write
        if settings.annotate:
            from rt_avsac.annotate import VideoWriter, draw

            video = stack.enter_context(VideoWriter(settings.annotate, settings.camera_fps))

            def annotate(window: Window, prediction: Prediction, message: MaskMessage) -> None:
                picture = draw(
                    window.frame.image,
                    prediction.objects,
                    rms_dbfs=prediction.rms_dbfs,
                    latency_ms=message.latency_ms["total"],
                    status="silent" if prediction.silent else "" if window.status == "ok" else f"sound {window.status}",
                )
                video.write(picture, window.frame.time_ns, window.audio)

            sinks["annotate"] = annotate
        if settings.preview:
            from rt_avsac.preview import make_preview

            def preview(window: Window, prediction: Prediction, message: MaskMessage) -> None:
                publisher.send(
                    make_preview(
                        window.frame,
                        session=composer.session,
                        source=composer.source,
                        seq=message.seq,
                        clock=message.clock,
                    )
                )

            sinks["preview"] = preview
        yield sinks
