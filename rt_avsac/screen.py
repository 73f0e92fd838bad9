"""Screen: what there is to show of a subscription: the newest masks, on the picture they belong to."""

from __future__ import annotations

import base64
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rt_avsac.client import MaskSubscriber, StaleError
from rt_avsac.mask_bytes import pack
from rt_avsac.messages import InfoMessage, MaskMessage, PreviewMessage
from rt_avsac.palette import color

if TYPE_CHECKING:
    from numpy.typing import NDArray

HISTORY = 64  # masks kept until their picture arrives
PICTURE_WAIT_S = 0.06  # for the picture of masks that just came
PICTURES_STOPPED_S = 1.0  # after so long without a new picture the masks are shown without one


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """Masks and, if previews are published, the picture of the same frame. `age_ms`: since that was captured."""

    masks: MaskMessage
    picture: PreviewMessage | None
    age_ms: float | None


class Screen:
    """Pairs the masks and previews of a subscriber; one thread."""

    def __init__(self, subscriber: MaskSubscriber) -> None:
        self._subscriber = subscriber
        self._past: deque[MaskMessage] = deque(maxlen=HISTORY)
        self._picture: PreviewMessage | None = None
        self._picture_s = 0.0  # when it came
        self._matched_s = 0.0  # when masks and picture last were of one frame
        self.num_masks = 0
        self.last: Shown | None = None

    def next(self, timeout_s: float) -> Shown | None:
        """What is new to show, waiting for it; None if there is nothing."""
        try:
            masks = self._subscriber.recv(timeout_s)
        except StaleError:
            return None
        self.num_masks += 1
        self._past.append(masks)
        picture = self._subscriber.preview
        now_s = time.monotonic()
        if picture is not None and picture is not self._picture:
            if self._picture is None:
                self._matched_s = now_s
            self._picture, self._picture_s = picture, now_s
            # pictures are encoded beside the masks and come after them: masks wait for theirs, a frame or two
            matching = self._of(picture) or self._await(masks)
            if matching is None and now_s - self._matched_s < PICTURES_STOPPED_S:
                return None
            self._matched_s = now_s
            return self._show(matching or masks, self._picture)
        if self._picture is not None and now_s - self._picture_s < PICTURES_STOPPED_S:
            return None
        self._picture = None
        return self._show(masks, None)

    def _of(self, picture: PreviewMessage) -> MaskMessage | None:
        """The masks of that picture, if they were taken."""
        wanted = (picture.session, picture.seq)
        return next((masks for masks in self._past if (masks.session, masks.seq) == wanted), None)

    def _await(self, masks: MaskMessage) -> MaskMessage | None:
        """These masks, if their picture comes soon: a viewer slower than the publisher skips the masks of others."""
        end_s = time.monotonic() + PICTURE_WAIT_S
        while time.monotonic() < end_s:
            picture = self._subscriber.preview
            if picture is not None and picture.seq >= masks.seq:
                self._picture = picture
                return self._of(picture)
            time.sleep(0.004)
        return None

    def _show(self, masks: MaskMessage, picture: PreviewMessage | None) -> Shown:
        age_ms = self._subscriber.age_ms(masks) if masks.clock.offset_ns() is not None else None
        self.last = Shown(masks, picture, age_ms)
        return self.last

    def why(self) -> str:
        """One line on why nothing (new) is to be seen; "" if all is well."""
        subscriber, status = self._subscriber, self._subscriber.status
        refused = (
            f"; {subscriber.refused} messages refused, last: {subscriber.refused_text}" if subscriber.refused else ""
        )
        if subscriber.stale:
            what = "nothing heard any more" if self.num_masks or status else "nothing published yet"
            return f"{subscriber.address}: {what}; {subscriber.link}{refused}"
        if not self.num_masks:
            said = f"; the publisher says {status.state}{': ' * bool(status.text)}{status.text}" if status else ""
            return f"{subscriber.address}: no masks yet{said}{refused}"
        return ""

    def state(self) -> dict[str, Any]:
        """Of the connection and of the publisher, for the page."""
        subscriber, status = self._subscriber, self._subscriber.status
        said = None
        if status is not None:
            names = ("state", "text", "camera", "microphone", "fps", "latency_ms", "drops", "sounding", "source")
            said = {name: getattr(status, name) for name in names}
        return {
            "address": subscriber.address,
            "link": subscriber.link,
            "stale": subscriber.stale,
            "why": self.why(),
            "masks": self.num_masks,
            "skipped": subscriber.skipped,
            "dropped": subscriber.dropped,
            "restarts": subscriber.restarts,
            "refused": subscriber.refused,
            "status": said,
        }


def info_fields(info: InfoMessage) -> dict[str, Any]:
    """For the page: classes with their colours, and the model."""
    return {
        "source": info.source,
        "classes": [{"id": item.id, "name": item.name, "color": item.color} for item in info.classes],
        "model": {"name": info.model.name, "backend": info.model.backend, "precision": info.model.precision},
    }


def frame_fields(shown: Shown) -> dict[str, Any]:
    """For the page: masks as base64 of packed rows, the picture as base64 of its JPEG."""
    masks = shown.masks
    objects = [
        {
            "class_id": item.class_id,
            "label": item.label,
            "score": item.score,
            "bbox": item.bbox,
            "color": color(item.class_id),
            "bits": base64.b64encode(pack(item.mask, "bits")).decode(),
        }
        for item in masks.objects
    ]
    audio = masks.audio
    return {
        "source": masks.source,
        "session": masks.session,
        "seq": masks.seq,
        "image": {"width": masks.image.width, "height": masks.image.height, "frame_index": masks.image.frame_index},
        "mask": {"width": masks.mask.width, "height": masks.mask.height, "to_image": masks.mask.to_image},
        "objects": objects,
        "audio": {
            "status": audio.status,
            "rms_dbfs": audio.rms_dbfs,
            "silent": audio.silent,
            "clipped": audio.clipped,
        },
        "latency_ms": masks.latency_ms,
        "av_skew_ms": masks.t.av_skew_ms,
        "age_ms": shown.age_ms,
        "drops": masks.drops,
        "jpeg": base64.b64encode(shown.picture.jpeg).decode() if shown.picture else None,
    }


def overlay(shown: Shown, status: str = "") -> NDArray[np.uint8]:
    """The picture (black if none is published) with the masks drawn in; RGB uint8 [H, W, 3]. Needs OpenCV."""
    from rt_avsac.annotate import draw
    from rt_avsac.preview import decode_jpeg

    masks = shown.masks
    image = decode_jpeg(shown.picture.jpeg) if shown.picture else None
    if image is None:
        image = np.zeros((masks.image.height, masks.image.width, 3), np.uint8)
    ratio = [image.shape[1] / masks.image.width] * 3 + [image.shape[0] / masks.image.height] * 3
    to_image = [value * share for value, share in zip(masks.mask.to_image, ratio, strict=True)]
    total = masks.latency_ms.get("total")
    return draw(image, masks.objects, to_image=to_image, rms_dbfs=masks.audio.rms_dbfs, latency_ms=total, status=status)
