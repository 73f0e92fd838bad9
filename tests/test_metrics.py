"""The published measures against cases computed by hand, and against a literal transcription of the published code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from train.metrics import THRESHOLDS, MaskScore, SemanticScore, f_curve, f_score, mask_iou


def mask(*rows: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in rows])


def published_f(probability: np.ndarray, truth: np.ndarray) -> float:
    """TPAVI's Eval_Fmeasure for one batch [N, h, w], as printed, but in double precision."""
    prediction, target = torch.from_numpy(probability).double(), torch.from_numpy(truth).double()
    total, number, score = torch.zeros(255).double(), 0, torch.zeros(255).double()
    for index in range(len(prediction)):
        if target[index].sum() == 0:
            continue
        precision, recall = torch.zeros(255).double(), torch.zeros(255).double()
        for step, threshold in enumerate(torch.linspace(0, 1 - 1e-10, 255, dtype=torch.float64)):
            above = (prediction[index] >= threshold).double()
            hits = (above * target[index]).sum()
            precision[step], recall[step] = hits / (above.sum() + 1e-20), hits / (target[index].sum() + 1e-20)
        f = 1.3 * precision * recall / (0.3 * precision + recall)
        f[f != f] = 0
        total += f
        number += 1
        score = total / number
    return float(score.max())


def test_iou_by_hand() -> None:
    truth = mask("##..", "##..")
    assert mask_iou(mask(".##.", ".##."), truth) == pytest.approx(2 / 6)
    assert mask_iou(truth, truth) == 1.0
    assert mask_iou(~truth, truth) == 0.0


def test_iou_of_an_empty_truth_is_the_share_of_true_negatives() -> None:
    empty = mask("....", "....")
    assert mask_iou(mask("#...", "...."), empty) == pytest.approx(7 / 8)
    assert mask_iou(empty, empty) == 1.0
    assert mask_iou(~empty, empty) == 0.0


def test_ignored_pixels_do_not_count() -> None:
    predicted, truth, valid = mask("###."), mask("##.."), ~mask("..#.")
    assert mask_iou(predicted, truth, valid) == 1.0
    score = MaskScore()
    assert score.add(predicted.astype(np.float32), truth, valid) == 1.0
    assert score.result().f_half == 1.0
    only_ignored = MaskScore()
    only_ignored.add(mask("....").astype(np.float32), mask("..#."), valid)
    assert only_ignored.result().num_nonempty == 0


def test_f_by_hand() -> None:
    # 3 predicted, 2 of them right, 4 to find: precision 2/3, recall 1/2
    assert f_score(2, 3, 4) == pytest.approx(1.3 * (2 / 3) * 0.5 / (0.3 * 2 / 3 + 0.5))
    assert f_score(0, 0, 4) == 0.0
    assert f_score(0, 5, 4) == 0.0


def test_f_curve_by_hand() -> None:
    probability = np.array([[0.9, 0.6], [0.3, 0.0]], np.float32)
    curve = f_curve(probability, mask("#.", "#."))
    assert curve[0] == pytest.approx(f_score(2, 4, 2))  # threshold 0: every pixel, also the one at 0.0
    assert curve[np.searchsorted(THRESHOLDS, 0.2)] == pytest.approx(f_score(2, 3, 2))
    assert curve[np.searchsorted(THRESHOLDS, 0.5)] == pytest.approx(f_score(1, 2, 2))
    assert curve[np.searchsorted(THRESHOLDS, 0.8)] == pytest.approx(f_score(1, 1, 2))
    assert curve[-1] == 0.0


def test_a_pixel_counts_from_its_threshold_on() -> None:
    step = 100
    probability = np.array([[THRESHOLDS[step], 0.0]])
    curve = f_curve(probability, mask("#."))
    assert curve[step] == 1.0
    assert curve[step + 1] == 0.0


def test_f_official_is_the_maximum_per_clip_and_f_set_that_of_the_mean_curve() -> None:
    truth = mask("#.")
    low = np.array([[0.3, 0.1]], np.float32)  # F 1 between 0.1 and 0.3
    high = np.array([[0.9, 0.7]], np.float32)  # F 1 between 0.7 and 0.9
    apart, together = MaskScore(), MaskScore()
    for probability in (low, high):
        apart.add(probability, truth)
        together.add(probability, truth, clip="one")
    half = f_score(1, 2, 1)
    assert apart.result().f_official == pytest.approx(1.0)
    assert together.result().f_official == pytest.approx((1.0 + half) / 2)
    assert apart.result().f_set == together.result().f_set == pytest.approx((1.0 + half) / 2)
    assert apart.result().f_half == pytest.approx((0.0 + half) / 2)
    assert together.result().miou == pytest.approx((0.0 + 0.5) / 2)


def test_silent_frames_count_in_m_j_and_not_in_m_f() -> None:
    score = MaskScore()
    score.add(np.array([[0.9, 0.1]], np.float32), mask("#."), clip="a")
    score.add(np.array([[0.9, 0.1]], np.float32), mask(".."), clip="a")
    score.add(np.array([[0.9, 0.9]], np.float32), mask(".."), clip="b")
    result = score.result()
    assert (result.num_frames, result.num_nonempty) == (3, 1)
    assert result.miou == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert result.f_official == result.f_set == result.f_half == 1.0
    silent = MaskScore()
    silent.add(np.zeros((1, 2), np.float32), mask(".."))
    assert silent.result().miou == 1.0
    assert math.isnan(silent.result().f_official)


def test_as_the_published_code_computes_it() -> None:
    rng = np.random.default_rng(0)
    score, official, ious = MaskScore(), [], []
    for clip in range(4):
        probability = rng.random((3, 9, 11)).astype(np.float32)
        truth = rng.random((3, 9, 11)) < 0.3
        truth[clip % 3] = False
        probability = np.clip(probability * 0.6 + truth * 0.3, 0, 1).astype(np.float32)
        for frame in range(3):
            score.add(probability[frame], truth[frame], clip=str(clip))
            p, t = probability[frame] > 0.5, truth[frame]
            ious.append((~p & ~t).sum() / t.size if not t.any() else (p & t).sum() / (p | t).sum())
        official.append(published_f(probability, truth))
    assert score.result().f_official == pytest.approx(np.mean(official), abs=1e-9)
    assert score.result().miou == pytest.approx(np.mean(ious))


def test_semantic_by_hand() -> None:
    score = SemanticScore(4)
    #            background 1, class 1: 2 of 3, class 2: missed
    score.add(np.array([[0, 1, 1, 1]], np.uint8), np.array([[0, 1, 1, 2]], np.uint8))
    score.add(np.array([[0, 0, 1, 1]], np.uint8), np.array([[0, 0, 0, 1]], np.uint8))
    result = score.result()
    iou0, iou1, iou2 = (1 + 2 / 3) / 2, (2 / 3 + 1 / 2) / 2, 0.0
    assert result.iou_by_class[:3] == pytest.approx((iou0, iou1, iou2))
    assert math.isnan(result.iou_by_class[3])  # never in the union: out of the mean
    assert result.num_classes_met == 3
    assert result.miou == pytest.approx((iou0 + iou1 + iou2) / 3)
    assert result.miou_foreground == pytest.approx((iou1 + iou2) / 2)
    f1 = (f_score(2, 3, 2) + f_score(1, 2, 1)) / 2
    assert result.f_foreground == pytest.approx((f1 + 0.0) / 2)
    assert result.f == pytest.approx(((1.0 + f_score(2, 2, 3)) / 2 + f1) / 3)


def test_semantic_of_silent_and_ignored_frames() -> None:
    score = SemanticScore(3)
    score.add(np.zeros((1, 2), np.uint8), np.zeros((1, 2), np.uint8))
    assert score.result().miou == 1.0
    assert math.isnan(score.result().miou_foreground)
    score.add(np.array([[0, 2]], np.uint8), np.array([[0, 255]], np.uint8), valid=mask("#."))
    assert score.result().num_classes_met == 1
