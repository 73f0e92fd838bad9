"""AVSBench's labelled frames as evaluation items: their own sound, silence, noise, and another clip's sound."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import cv2
import numpy as np
from numpy.typing import NDArray

from train.avsbench import AvsBench, Clip, read_audio
from train.items import MUTED, NOISE, OFF_SCREEN, ORIGINAL, EvalItem

LOG_MEL_OFFSET = 0.01  # VGGish's
TRIES = 50  # other clips that are looked at for a sound of other classes
Audio = NDArray[np.float32]


def avsbench_items(data: AvsBench, num: int, seed: int, size: int) -> Iterator[EvalItem]:
    """The frames with a mask, clip by clip; with `num` > 0 only so many, of clips drawn by `seed`.

    Off-screen is the sound of a clip without a label in common; MS3 has no labels and so no such condition. Nothing
    says which other object could sound, so there is no swap. AVSS masks come at `size` pixels, as its code scores them.
    """
    rng = np.random.default_rng(seed)
    clips = [list(samples) for _, samples in groupby(data.labelled, key=lambda index: data.places[index][0])]
    if 0 < num < len(data.labelled):
        clips = [clips[index] for index in rng.permutation(len(clips))]
    chosen = [index for samples in clips for index in samples]
    for index in chosen[: num or None]:
        yield item_of(data, index, rng, size)


def item_of(data: AvsBench, index: int, rng: np.random.Generator, size: int) -> EvalItem:
    sample = data[index]
    number, frame = data.places[index]
    clip = data.clips[number]
    assert sample.mask is not None
    mask = sample.mask
    if data.kind == "avss" and mask.shape != (size, size):
        mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)  # type: ignore[assignment]
    conditions = {ORIGINAL: sample.audio, MUTED: silence(sample.audio), NOISE: noise_like(sample.audio, rng)}
    other = stranger(data, clip, rng)
    if other is not None:
        conditions[OFF_SCREEN] = read_audio(other.audio, frame)
    masks = dict.fromkeys(conditions, np.zeros_like(mask)) | {ORIGINAL: mask}
    return EvalItem(
        id=f"{clip.id}-{frame}",
        image=sample.image,
        conditions=conditions,
        mask_by_condition=masks,
        class_ids=(),
        clip=clip.id,
        sources=(clip.id, *((other.id,) if other else ())),
        label=clip.labels[0] if len(clip.labels) == 1 else "",
    )


def stranger(data: AvsBench, clip: Clip, rng: np.random.Generator) -> Clip | None:
    """A clip whose labels are all others; None where the set has no labels, or no such clip was met."""
    if not clip.labels:
        return None
    for number in rng.integers(len(data.clips), size=TRIES):
        other = data.clips[number]
        if other.labels and not set(other.labels) & set(clip.labels):
            return other
    return None


def silence(audio: Audio) -> Audio:
    """Of a waveform [n], or of a log-mel patch [1, 96, 64]."""
    return np.zeros_like(audio) if audio.ndim == 1 else np.full_like(audio, np.log(LOG_MEL_OFFSET))


def noise_like(audio: Audio, rng: np.random.Generator) -> Audio:
    """White noise of the same RMS; for a log-mel patch, its patch at the same RMS of the mel bands."""
    if audio.ndim == 1:
        noise = rng.standard_normal(len(audio)).astype(np.float32)
        return np.clip(noise * rms(audio) / rms(noise), -1.0, 1.0).astype(np.float32)
    import torch

    from rt_avsac.model.log_mel import LogMel
    from rt_avsac.model.settings import NUM_AUDIO_SAMPLES

    noise = rng.standard_normal((1, NUM_AUDIO_SAMPLES)).astype(np.float32)
    patch: Audio = np.exp(LogMel(LOG_MEL_OFFSET)(torch.from_numpy(noise))[0].numpy()) - LOG_MEL_OFFSET
    wanted = rms((np.exp(audio) - LOG_MEL_OFFSET).astype(np.float32))
    return np.log(patch * wanted / rms(patch) + LOG_MEL_OFFSET).astype(np.float32)


def rms(values: Audio) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)) + 1e-20))
