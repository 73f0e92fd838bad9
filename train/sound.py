"""Mixtures of sounds for one window: sources of several classes, ambience, noise, and their negatives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rt_avsac.model.settings import NUM_AUDIO_SAMPLES, SAMPLE_RATE_HZ
from train.mapping import SoundItem
from train.settings import DataSettings

Samples = NDArray[np.float32]
SOURCE_DBFS = -20.0
NOISE_COLOURS = (0.0, 0.5, 1.0)  # white, pink, brown: amplitude falls as 1 / f ** colour


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """float32 [15600]; `heard`: picture classes audible in it (empty: none); `sources`: ids of its recordings."""

    samples: Samples
    heard: frozenset[int]
    sources: tuple[str, ...]


class Sounds:
    """Sound items by class; class 0 holds what has no picture class (off-screen)."""

    def __init__(self, items: Sequence[SoundItem], settings: DataSettings) -> None:
        self.by_class: dict[int, list[SoundItem]] = defaultdict(list)
        self.ambience: list[SoundItem] = []
        for item in items:
            self.by_class[item.class_id].append(item)
            if item.label in settings.ambience_labels:
                self.ambience.append(item)
        self.classes = tuple(sorted(c for c in self.by_class if c != 0))
        self._kept: dict[str, NDArray[np.int16]] = {}

    def samples(self, item: SoundItem) -> Samples:
        """The recording, decoded once and kept as 16-bit samples."""
        if item.id not in self._kept:
            self._kept[item.id] = np.rint(np.clip(item.samples(), -1.0, 1.0) * 32767.0).astype(np.int16)
        return self._kept[item.id].astype(np.float32) / np.float32(32767.0)

    def draw(self, rng: np.random.Generator, class_id: int) -> SoundItem:
        """A label of the class, likelier the more clips it has up to 30, and one of its clips."""
        labels = defaultdict(list)
        for item in self.by_class[class_id]:
            labels[item.label].append(item)
        names = sorted(labels)
        weight = np.array([min(len(labels[name]), 30) for name in names], float)
        chosen = labels[names[rng.choice(len(names), p=weight / weight.sum())]]
        return chosen[rng.integers(len(chosen))]


def stranger(rng: np.random.Generator, sounds: Sounds, present: Collection[int]) -> int | None:
    """A class that is not in the picture, or 0 (off-screen); None when everything that sounds is there."""
    absent = [c for c in sounds.classes if c not in present]
    if 0 in sounds.by_class and (not absent or rng.random() < 0.5):
        return 0
    return int(rng.choice(absent)) if absent else None


def between(rng: np.random.Generator, limits: tuple[float, ...]) -> float:
    return float(rng.uniform(limits[0], limits[-1]))


def rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)) + 1e-12))


def from_db(db: float) -> float:
    return float(10.0 ** (db / 20.0))


def to_db(amplitude: float) -> float:
    return float(20.0 * np.log10(amplitude))


def noise(rng: np.random.Generator, colour: float, num_samples: int = NUM_AUDIO_SAMPLES) -> Samples:
    """Noise of RMS 1 whose amplitude falls as 1 / f ** colour."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** colour
    spectrum[0] = 0
    samples = np.fft.irfft(spectrum, num_samples).astype(np.float32)
    return samples / np.float32(rms(samples))


def source_window(rng: np.random.Generator, sound: Samples, settings: DataSettings) -> Samples:
    """A window of this recording (float32 [n]) in which it is audible, at SOURCE_DBFS over its loud part."""
    if rng.random() < settings.pitch_share:
        rate = rng.uniform(0.92, 1.08)
        positions = np.arange(0, len(sound) - 1, rate)
        sound = np.interp(positions, np.arange(len(sound)), sound).astype(np.float32)
    loud = max(_block_rms(sound).max(), 1e-5)
    best, best_share = np.zeros(NUM_AUDIO_SAMPLES, np.float32), -1.0
    for _ in range(6):
        window = np.zeros(NUM_AUDIO_SAMPLES, np.float32)
        spare = len(sound) - NUM_AUDIO_SAMPLES
        start = int(rng.integers(min(spare, 0), max(spare, 0) + 1))
        piece = sound[max(start, 0) : start + NUM_AUDIO_SAMPLES]
        window[max(-start, 0) : max(-start, 0) + len(piece)] = piece
        if rng.random() < settings.onset_share:
            edge = int(rng.uniform(settings.min_audible_s, 0.9) * SAMPLE_RATE_HZ)
            window[: NUM_AUDIO_SAMPLES - edge] = 0.0  # begins `edge` before the frame
            if rng.random() < 0.3:
                window = np.roll(window, -int(rng.uniform(0.0, 0.3) * (NUM_AUDIO_SAMPLES - edge)))  # and has ended
        share = float((_block_rms(window) > 0.15 * loud).mean())
        if share > best_share:
            best, best_share = window, share
        if share * NUM_AUDIO_SAMPLES >= settings.min_audible_s * SAMPLE_RATE_HZ:
            break
    return best * np.float32(from_db(SOURCE_DBFS - level_of(best)))


def level_of(samples: Samples) -> float:
    """RMS over the loud part, dBFS, at least -100."""
    blocks = _block_rms(samples)
    active = blocks[blocks > 0.15 * max(blocks.max(), 1e-6)]
    return to_db(max(float(np.sqrt(np.mean(active**2))), 1e-5)) if len(active) else -100.0


def _block_rms(samples: Samples, block: int = 400) -> NDArray[np.float64]:
    whole = samples[: max(len(samples) // block, 1) * block]
    blocks = whole.reshape(-1, block) if len(whole) >= block else whole[None]
    return np.sqrt(np.mean(np.square(blocks, dtype=np.float64), axis=1))


def mix(rng: np.random.Generator, sounds: Sounds, classes: Sequence[int], settings: DataSettings) -> Mixture:
    """One source of each class (0: any off-screen one) at gains of ± gain_db, ambience under them, one level."""
    total, sources = np.zeros(NUM_AUDIO_SAMPLES, np.float32), []
    for class_id in classes:
        item = sounds.draw(rng, class_id)
        gain = from_db(rng.uniform(-settings.gain_db, settings.gain_db)) if len(classes) > 1 else 1.0
        total += source_window(rng, sounds.samples(item), settings) * np.float32(gain)
        sources.append(item.id)
    if rng.random() < settings.ambience_share:
        snr_db = between(rng, settings.ambience_snr_db)
        under, name = ambience(rng, sounds, settings)
        total += under * np.float32(from_db(SOURCE_DBFS - snr_db))
        sources.append(name)
    heard = frozenset(class_id for class_id in classes if class_id != 0)
    return Mixture(set_level(total, between(rng, settings.level_dbfs)), heard, tuple(sources))


def ambience(rng: np.random.Generator, sounds: Sounds, settings: DataSettings) -> tuple[Samples, str]:
    """Ambient sound of RMS 1, and its id."""
    if not sounds.ambience or rng.random() < 0.4:
        colour = NOISE_COLOURS[rng.integers(len(NOISE_COLOURS))]
        return noise(rng, colour), f"noise(1/f^{colour})"
    item = sounds.ambience[rng.integers(len(sounds.ambience))]
    window = source_window(rng, sounds.samples(item), settings)
    return window / np.float32(rms(window)), item.id


def mute(rng: np.random.Generator) -> Mixture:
    """Digital silence, or the hiss of a microphone that hears nothing."""
    samples = np.zeros(NUM_AUDIO_SAMPLES, np.float32)
    if rng.random() < 0.5:
        samples = noise(rng, 0.0) * np.float32(from_db(rng.uniform(-90.0, -62.0)))
    return Mixture(samples, frozenset(), ("mute",))


def only_noise(rng: np.random.Generator, settings: DataSettings) -> Mixture:
    colour = NOISE_COLOURS[rng.integers(len(NOISE_COLOURS))] if rng.random() < 0.6 else 0.0
    return Mixture(
        set_level(noise(rng, colour), between(rng, settings.level_dbfs)), frozenset(), (f"noise(1/f^{colour})",)
    )


def set_level(samples: Samples, dbfs: float) -> Samples:
    """`samples` at this RMS, clipped to [-1, 1] as a sound card would."""
    return np.clip(samples * np.float32(from_db(dbfs) / rms(samples)), -1.0, 1.0)
