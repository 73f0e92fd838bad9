"""Learning rate and picture size by step."""

from __future__ import annotations

from train.settings import TrainSettings


def rate(step: int, num_steps: int, settings: TrainSettings) -> float:
    """Factor on the learning rates: linear warm-up, constant, linear to zero over the last `decay_share`."""
    warmup = min((step + 1) / max(settings.warmup_steps, 1), 1.0)
    left = (num_steps - step) / max(settings.decay_share * num_steps, 1.0)
    return min(warmup, left, 1.0)


def sizes(num_steps: int, full: int, settings: TrainSettings) -> list[int]:
    """Picture side of every step: small first, the network's own at the end."""
    small = int(num_steps * settings.small_share) if settings.small_size else 0
    return [settings.small_size] * small + [full] * (num_steps - small)
