"""How much of what the network says comes from the ear: the Shapley share of the foreground logit margin (ours).

v(S) is the margin of a frame when only the senses in S are present: mean logit on the sounding pixels minus mean logit
on the others. An absent ear hears digital silence, an absent eye sees even grey. With two players,
    phi(audio)  = ((v(audio) - v()) + (v(both) - v(vision))) / 2
    phi(vision) = ((v(vision) - v()) + (v(both) - v(audio))) / 2
and the share of audio is |phi(audio)| / (|phi(audio)| + |phi(vision)|), of the means over the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rt_avsac.engines import Outputs
from train.metrics import Mask

GREY = 127
LOGIT_EPS = 1e-7  # engines give probabilities; a float32 sigmoid says no more than this
Predict = Callable[[NDArray[np.uint8], Sequence[NDArray[np.float32]]], list[Outputs]]


@dataclass(frozen=True)
class ShareResult:
    """Means over the frames; shares in [0, 1], nan without frames."""

    num_frames: int
    margin: float  # both senses present
    audio: float  # phi
    vision: float
    audio_share: float


def shapley(none: float, audio: float, vision: float, both: float) -> tuple[float, float]:
    """v of each set of senses → phi(audio), phi(vision); they add up to v(both) - v()."""
    return ((audio - none) + (both - vision)) / 2, ((vision - none) + (both - audio)) / 2


def margin(sounding: NDArray[np.float32], truth: Mask, valid: Mask) -> float:
    """Mean logit on the sounding pixels minus mean logit on the other valid ones; both must exist."""
    probability = np.clip(sounding.astype(np.float64), LOGIT_EPS, 1.0 - LOGIT_EPS)
    logit = np.log(probability) - np.log1p(-probability)
    return float(logit[truth & valid].mean() - logit[~truth & valid].mean())


class ShareScore:
    """Adds up the four margins of frames."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._values: list[tuple[float, float, float]] = []

    def add(
        self,
        image: NDArray[np.uint8],
        audio: NDArray[np.float32],
        silence: NDArray[np.float32],
        truth: Mask,
        valid: Mask,
    ) -> None:
        """image uint8 [S, S, 3], audio and silence alike, truth and valid bool [S, S]; no foreground says nothing."""
        if not (truth & valid).any() or not (~truth & valid).any():
            return
        sounds = [audio, silence]
        both, vision = (margin(each.sounding, truth, valid) for each in self._predict(image, sounds))
        grey = np.full_like(image, GREY)
        only_audio, none = (margin(each.sounding, truth, valid) for each in self._predict(grey, sounds))
        self._values.append((both, *shapley(none, only_audio, vision, both)))

    def result(self) -> ShareResult:
        if not self._values:
            nan = float("nan")
            return ShareResult(0, nan, nan, nan, nan)
        both, audio, vision = (float(value) for value in np.mean(self._values, axis=0))
        total = abs(audio) + abs(vision)
        return ShareResult(len(self._values), both, audio, vision, abs(audio) / total if total else float("nan"))
