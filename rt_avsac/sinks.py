"""What a run leaves beside its masks: the recording, the annotated video, the previews, as the settings ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rt_avsac.compose import Composer
from rt_avsac.config import LiveSettings
from rt_avsac.infer import ModelInfo
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
        yield sinks
