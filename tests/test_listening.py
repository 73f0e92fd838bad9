"""The listening protocol on masks made by hand: alarms, swaps, names, G, and the audio share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from rt_avsac.engines import Outputs
from train.items import CONDITIONS, MUTED, NOISE, OFF_SCREEN, ORIGINAL, SWAP, EvalItem
from train.listening import ListeningScore, harmonic_mean, has_moved, named_class, raises_alarm
from train.shares import ShareScore, margin, shapley

SIDE = 20  # 400 pixels: the alarm needs more than 2 of them together
DOG, CAT = 2, 3
LEFT, RIGHT, NOTHING = np.zeros((3, SIDE, SIDE), bool)
LEFT[:, :10] = True
RIGHT[:, 10:] = True


def item(*, swaps: bool = True, sounding: np.ndarray = LEFT) -> EvalItem:
    """A dog on the left, a cat on the right; the dog sounds, then the cat."""
    masks = dict.fromkeys((MUTED, NOISE, OFF_SCREEN), NOTHING.astype(np.uint8))
    masks[ORIGINAL] = sounding.astype(np.uint8) * DOG
    if swaps:
        masks[SWAP] = RIGHT.astype(np.uint8) * CAT
    silence = np.zeros(16, np.float32)
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    return EvalItem("made", image, dict.fromkeys(masks, silence), masks, (DOG, CAT) if swaps else (DOG,))


def said(original: np.ndarray, negative: np.ndarray, swap: np.ndarray) -> dict[str, np.ndarray]:
    return {ORIGINAL: original, MUTED: negative, NOISE: negative, OFF_SCREEN: negative, SWAP: swap}


def test_a_model_that_listens() -> None:
    score = ListeningScore()
    score.add(item(), said(LEFT, NOTHING, RIGHT), np.full((SIDE, SIDE), DOG, np.uint8))
    result = score.result()
    assert result.miou_original == result.swap_accuracy == result.swap_miou == result.class_accuracy == result.g == 1.0
    for each in result.negatives.values():
        assert (each.frame_false_alarm, each.false_positive_area, each.miou_original) == (0.0, 0.0, 0.0)


def test_a_model_that_only_looks() -> None:
    """The salient object whatever is heard: a good mask, and no listening at all."""
    score = ListeningScore()
    score.add(item(), said(LEFT, LEFT, LEFT), np.full((SIDE, SIDE), CAT, np.uint8))
    result = score.result()
    assert result.miou_original == 1.0
    assert result.swap_accuracy == result.class_accuracy == result.g == 0.0
    for each in result.negatives.values():
        assert (each.frame_false_alarm, each.false_positive_area, each.miou_original) == (1.0, 0.5, 1.0)


def test_g_by_hand() -> None:
    half = LEFT.copy()
    half[10:] = False  # IoU 0.5 with the original's mask
    score = ListeningScore()
    score.add(item(), said(LEFT, half, RIGHT), None)
    score.add(item(), said(half, NOTHING, RIGHT), None)
    result = score.result()
    assert result.miou_original == pytest.approx(0.75)
    assert result.negatives[MUTED].miou_original == pytest.approx(0.25)
    assert result.g == pytest.approx(2 * 0.75 * 0.75 / 1.5)
    assert result.num_named == 0  # a model without classes
    assert math.isnan(result.class_accuracy)
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.0, 1.0) == 0.0


def test_alarm_needs_one_region_of_more_than_half_a_percent() -> None:
    dots = np.zeros((SIDE, SIDE), bool)
    dots[::4, ::4] = True  # 25 pixels, none beside another
    assert not raises_alarm(dots)
    row = np.zeros((SIDE, SIDE), bool)
    row[3, :2] = True
    assert not raises_alarm(row)  # exactly 0.5 %
    row[4, 2] = True  # diagonal neighbours belong together
    assert raises_alarm(row)
    assert not raises_alarm(NOTHING)


def test_swap_needs_the_mask_to_lie_better_on_the_new_object() -> None:
    valid = np.ones((SIDE, SIDE), bool)
    assert has_moved(RIGHT, RIGHT, LEFT, valid)
    assert not has_moved(NOTHING, RIGHT, LEFT, valid)  # going dark is no move
    assert not has_moved(LEFT | RIGHT, RIGHT, LEFT, valid)  # both at once is no move
    leaning = RIGHT.copy()
    leaning[:, 8:10] = True
    assert has_moved(leaning, RIGHT, LEFT, valid)


def test_named_class_is_that_of_most_predicted_pixels() -> None:
    classes = np.full((SIDE, SIDE), DOG, np.uint8)
    classes[:, 6:] = CAT
    assert named_class(LEFT, classes) == DOG  # 6 columns of dog, 4 of cat
    assert named_class(RIGHT, classes) == CAT
    assert named_class(NOTHING, classes) == 0
    score = ListeningScore()
    score.add(item(), said(NOTHING, NOTHING, NOTHING), classes)
    assert score.result().class_accuracy == 0.0  # nothing predicted is wrong


def test_frames_that_cannot_tell_are_left_out() -> None:
    score = ListeningScore()
    score.add(item(sounding=NOTHING), said(LEFT, LEFT, LEFT), None)
    assert math.isnan(score.result().g)
    predicted = said(LEFT, NOTHING, RIGHT)
    del predicted[SWAP]
    score.add(item(swaps=False), predicted, None)
    result = score.result()
    assert result.num_swaps == 0
    assert math.isnan(result.swap_accuracy)
    assert result.negatives[OFF_SCREEN].num_frames == 1


def test_ignored_pixels_do_not_count() -> None:
    masks = {ORIGINAL: np.where(LEFT, DOG, 255).astype(np.uint8), SWAP: np.where(RIGHT, CAT, 0).astype(np.uint8)}
    masks[SWAP][:, :3] = 255
    made = item()
    odd = EvalItem("odd", made.image, {name: made.conditions[name] for name in masks}, masks, (DOG, CAT))
    score = ListeningScore()
    score.add(odd, {ORIGINAL: LEFT | RIGHT, SWAP: RIGHT}, None)
    assert score.result().miou_original == 1.0
    assert tuple(CONDITIONS) == (ORIGINAL, MUTED, NOISE, OFF_SCREEN, SWAP)
    assert odd.sounding() == (DOG,)


def test_shapley_adds_up() -> None:
    audio, vision = shapley(none=1.0, audio=3.0, vision=2.0, both=10.0)
    assert (audio, vision) == (5.0, 4.0)
    assert audio + vision == 10.0 - 1.0
    assert shapley(0.0, 4.0, 0.0, 4.0) == (4.0, 0.0)  # only the ear matters


def test_margin_is_a_difference_of_logits() -> None:
    probability = np.full((SIDE, SIDE), 0.5, np.float32)
    probability[LEFT] = 1 / (1 + math.exp(-2.0))
    probability[RIGHT] = 1 / (1 + math.exp(1.0))
    assert margin(probability, LEFT, LEFT | RIGHT) == pytest.approx(3.0, abs=1e-5)
    assert margin(LEFT.astype(np.float32), LEFT, LEFT | RIGHT) < 40.0  # certain, and still finite


@pytest.mark.parametrize(("ear", "eye", "share"), [(1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (3.0, 1.0, 0.75)])
def test_audio_share_of_a_known_model(ear: float, eye: float, share: float) -> None:
    """Logit on the left = ear (when sound is there) + eye (when the picture is not grey)."""

    def predict(image: np.ndarray, audios: Sequence[np.ndarray]) -> list[Outputs]:
        found = []
        for audio in audios:
            logit = ear * audio.any() + eye * bool((image != 127).any())
            found.append(Outputs((LEFT / (1 + math.exp(-logit)) + RIGHT * 0.5).astype(np.float32), None, None))
        return found

    score = ShareScore(predict)
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    sound, silence = np.ones(16, np.float32), np.zeros(16, np.float32)
    score.add(image, sound, silence, LEFT, LEFT | RIGHT)
    score.add(image, sound, silence, NOTHING, LEFT | RIGHT)  # nothing sounds: says nothing
    result = score.result()
    assert result.num_frames == 1
    assert result.audio_share == pytest.approx(share, abs=1e-5)
    assert result.audio + result.vision == pytest.approx(ear + eye, abs=1e-5)
