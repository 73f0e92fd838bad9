"""The published measures of audio-visual segmentation: M_J, M_F and the semantic scores; streaming, small memory.

Per frame throughout, never data-set-level IoU. Pixels where `valid` is False count for nothing.
Sources: the AVSBench code (TPAVI, `mask_iou`, `Eval_Fmeasure`) and its AVSS extension (`_batch_miou_fscore`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BETA2 = 0.3
NUM_THRESHOLDS = 255
THRESHOLDS = np.linspace(0.0, 1.0 - 1e-10, NUM_THRESHOLDS)
Mask = NDArray[np.bool_]


def mask_iou(predicted: Mask, truth: Mask, valid: Mask | None = None) -> float:
    """IoU of one frame; with an empty truth, true-negative pixels / all pixels (M_J's rule)."""
    if valid is not None:
        predicted, truth = predicted[valid], truth[valid]
    if not truth.any():
        return 1.0 - float(np.count_nonzero(predicted)) / truth.size if truth.size else 1.0
    return float(np.count_nonzero(predicted & truth)) / float(np.count_nonzero(predicted | truth))


def f_score(hits: float, predicted: float, true: float) -> float:
    """F of beta² 0.3 from pixel counts; 0 when nothing is hit."""
    if hits == 0:
        return 0.0
    precision, recall = hits / predicted, hits / true
    return (1 + BETA2) * precision * recall / (BETA2 * precision + recall)


def f_curve(probability: NDArray[np.float32], truth: Mask, valid: Mask | None = None) -> NDArray[np.float64]:
    """F of one frame at each of THRESHOLDS (a pixel counts from the threshold on); `truth` must not be empty."""
    if valid is not None:
        probability, truth = probability[valid], truth[valid]
    level = np.searchsorted(THRESHOLDS, probability.ravel(), side="right")  # how many thresholds the pixel reaches
    all_levels = np.bincount(level, minlength=NUM_THRESHOLDS + 1)
    true_levels = np.bincount(level[truth.ravel()], minlength=NUM_THRESHOLDS + 1)
    predicted = all_levels[::-1].cumsum()[::-1][1:].astype(np.float64)
    hits = true_levels[::-1].cumsum()[::-1][1:].astype(np.float64)
    precision = hits / np.maximum(predicted, 1.0)
    recall = hits / np.count_nonzero(truth)
    return (1 + BETA2) * precision * recall / np.maximum(BETA2 * precision + recall, 1e-20)


@dataclass(frozen=True)
class MaskResult:
    """Means over the frames; F over the frames with something to find (nan when there are none)."""

    num_frames: int
    num_nonempty: int
    miou: float  # M_J
    f_official: float  # M_F as published: maximum over thresholds per clip ("batch 1"), mean of the clips
    f_set: float  # maximum of the curve averaged over the whole set
    f_half: float  # at the fixed threshold 0.5


class MaskScore:
    """Adds up M_J and M_F. Frames of one clip must come one after another under the same `clip` name.

    The published code scores a clip without any sounding pixel as F = 0; here such a clip is left out of M_F.
    """

    def __init__(self) -> None:
        self.num_frames = self.num_nonempty = self.num_clips = 0
        self._iou = self._f_half = self._f_official = 0.0
        self._curve = np.zeros(NUM_THRESHOLDS)
        self._clip: str | None = None
        self._clip_curve, self._clip_frames = np.zeros(NUM_THRESHOLDS), 0

    def add(
        self, probability: NDArray[np.float32], truth: Mask, valid: Mask | None = None, clip: str | None = None
    ) -> float:
        """One frame: probability float32 [h, w] and truth bool [h, w]; → its IoU. No `clip`: one of its own."""
        assert probability.shape == truth.shape
        predicted = probability > 0.5
        iou = mask_iou(predicted, truth, valid)
        self.num_frames += 1
        self._iou += iou
        if clip is None or clip != self._clip:
            self._close_clip()
            self._clip = clip
        seen = truth if valid is None else truth & valid
        if seen.any():
            curve = f_curve(probability, truth, valid)
            self._curve += curve
            self._clip_curve += curve
            self._clip_frames += 1
            self.num_nonempty += 1
            predicted = predicted if valid is None else predicted & valid
            hits = int(np.count_nonzero(predicted & seen))
            self._f_half += f_score(hits, int(np.count_nonzero(predicted)), int(np.count_nonzero(seen)))
        return iou

    def _close_clip(self) -> None:
        if self._clip_frames:
            self._f_official += float(self._clip_curve.max()) / self._clip_frames
            self.num_clips += 1
        self._clip_curve, self._clip_frames = np.zeros(NUM_THRESHOLDS), 0

    def result(self) -> MaskResult:
        self._close_clip()
        self._clip = None
        frames, nonempty = max(self.num_frames, 1), max(self.num_nonempty, 1)
        none = float("nan")
        return MaskResult(
            num_frames=self.num_frames,
            num_nonempty=self.num_nonempty,
            miou=self._iou / frames if self.num_frames else none,
            f_official=self._f_official / self.num_clips if self.num_clips else none,
            f_set=float(self._curve.max()) / nonempty if self.num_nonempty else none,
            f_half=self._f_half / nonempty if self.num_nonempty else none,
        )


@dataclass(frozen=True)
class SemanticResult:
    """Class means over the classes met; `…_foreground` leaves class 0 out. `iou`, `f`: per class, nan where not met."""

    num_frames: int
    num_classes_met: int
    miou: float
    miou_foreground: float
    f: float
    f_foreground: float
    iou_by_class: tuple[float, ...]
    f_by_class: tuple[float, ...]


class SemanticScore:
    """AVSS: per frame and class, IoU and F over the classes in the union of prediction and truth; then class means."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes, self.num_frames = num_classes, 0
        self._iou, self._f, self._met = np.zeros(num_classes), np.zeros(num_classes), np.zeros(num_classes)

    def add(self, predicted: NDArray[np.uint8], truth: NDArray[np.uint8], valid: Mask | None = None) -> None:
        """One frame: class ids uint8 [h, w] each, 0 = background."""
        if valid is not None:
            predicted, truth = predicted[valid], truth[valid]
        counts = self.num_classes
        assert max(int(truth.max(initial=0)), int(predicted.max(initial=0))) < counts, "a class beyond the list"
        hits = np.bincount(truth[predicted == truth].ravel(), minlength=counts)
        of_predicted = np.bincount(predicted.ravel(), minlength=counts)
        of_truth = np.bincount(truth.ravel(), minlength=counts)
        self.num_frames += 1
        for class_id in np.flatnonzero(of_predicted + of_truth):
            hit, p, t = int(hits[class_id]), int(of_predicted[class_id]), int(of_truth[class_id])
            self._met[class_id] += 1
            self._iou[class_id] += hit / (p + t - hit)
            self._f[class_id] += f_score(hit, p, t)

    def result(self) -> SemanticResult:
        met = self._met > 0
        times = np.where(met, self._met, np.nan)
        iou, f = self._iou / times, self._f / times

        def mean(values: NDArray[np.float64], start: int) -> float:
            values = values[start:][met[start:]]
            return float(values.mean()) if values.size else float("nan")

        return SemanticResult(
            num_frames=self.num_frames,
            num_classes_met=int(met.sum()),
            miou=mean(iou, 0),
            miou_foreground=mean(iou, 1),
            f=mean(f, 0),
            f_foreground=mean(f, 1),
            iou_by_class=tuple(iou.tolist()),
            f_by_class=tuple(f.tolist()),
        )
