"""Fine-tunes the audio encoder alone on mixtures, first: `python -m train.hear CONFIG key=value …`.

Which classes are heard, one sigmoid each. The encoder is small and pictures are not needed, so thousands of mixtures a
minute pass by; the result is what `audio_weights=` of `python -m train` takes. Settings are the run's own:
audio_lr, batch_size, seed, root, audio_weights, out; epochs count the pool.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from rt_avsac.config import split_assignments
from rt_avsac.errors import UserError
from rt_avsac.model.encoders import make_audio_encoder
from rt_avsac.model.pretrained import load_encoder
from train.log import span
from train.loop import limit_threads
from train.mapping import load_sounds
from train.schedule import rate
from train.settings import DataSettings, RunSettings, read_run
from train.sound import Samples, Sounds, between, from_db, mix, noise, set_level

POOL = 8000  # single sources, made once; mixtures are sums of them
HEAD_LR = 1e-3
NUM_CHECKS = 1000
SAY_EVERY_S = 15.0


def make_pool(sounds: Sounds, settings: DataSettings, num: int, seed: int, num_classes: int) -> tuple[Samples, Tensor]:
    """Windows float32 [num, n] of one source each, every fourth of no picture class; heard [num, C]."""
    windows, heard = [], torch.zeros(num, num_classes)
    for row in range(num):
        rng = np.random.default_rng((seed, row, 55))
        class_id = 0 if row % 4 == 0 and 0 in sounds.by_class else int(rng.choice(sounds.classes))
        windows.append(mix(rng, sounds, [class_id], settings).samples)
        heard[row, class_id] = float(class_id != 0)
    return np.stack(windows), heard


def mixtures(
    rng: np.random.Generator, pool: Samples, heard: Tensor, num: int, settings: DataSettings
) -> tuple[Tensor, Tensor]:
    """audio float32 [num, n] and heard [num, C]: 1 to 3 windows of the pool, shifted in time, or noise or nothing."""
    audio = np.zeros((num, pool.shape[1]), np.float32)
    flags = torch.zeros(num, heard.shape[1])
    for row in range(num):
        kind = rng.random()
        if kind < 0.03:
            audio[row] = noise(rng, float(rng.choice([0.0, 0.5, 1.0]))) * from_db(rng.uniform(-90.0, -20.0))
            continue
        for _ in range(1 if kind < 0.6 else 2 if kind < 0.93 else 3):
            which = int(rng.integers(len(pool)))
            gain = from_db(rng.uniform(-settings.gain_db, settings.gain_db) - 20.0)
            window = vary(rng, pool[which])
            audio[row] += window * np.float32(gain / max(float(np.sqrt(np.mean(window**2))), 1e-6))
            flags[row] = torch.maximum(flags[row], heard[which])
        audio[row] = set_level(audio[row], between(rng, settings.level_dbfs))
    return torch.from_numpy(audio), flags


def vary(rng: np.random.Generator, window: Samples) -> Samples:
    """The window (float32 [n]) as another microphone might have heard it: moved in time, up to 18 % faster or slower,
    with more or less treble."""
    num, rate, treble = len(window), rng.uniform(0.85, 1.18), rng.uniform(-0.7, 0.7)
    position = (np.arange(num) * rate + rng.uniform(0.0, num)) % num
    moved = np.interp(position, np.arange(num), window, period=num).astype(np.float32)
    return moved + np.float32(treble) * np.roll(moved, 1)


class Listener(nn.Module):
    """audio [B, n] → class logits [B, C]: the encoder and a linear head on its summary."""

    def __init__(self, run: RunSettings) -> None:
        super().__init__()
        self.encoder = make_audio_encoder(run.model)
        if run.train.audio_weights:
            load_encoder(self.encoder, run.train.audio_weights)
        self.head = nn.Linear(self.encoder.dim, run.model.num_classes)

    def forward(self, audio: Tensor) -> Tensor:
        logit: Tensor = self.head(self.encoder.summary(self.encoder(audio)))
        return logit


def judge(net: Listener, audio: Tensor, heard: NDArray[np.bool_]) -> dict[str, float]:
    """Of one-source windows: right at first, heard at 0.5; of the others: any class wrongly heard at 0.5."""
    with torch.no_grad():
        probability = torch.cat([net(part).sigmoid() for part in audio.split(32)]).numpy()
    probability[:, 0] = 0.0
    one, none = heard.any(axis=1), ~heard.any(axis=1)
    return {
        "first": float((probability[one].argmax(1) == heard[one].argmax(1)).mean()),
        "heard": float((probability[one][heard[one]] > 0.5).mean()),
        "alarm": float((probability[none].max(axis=1) > 0.5).mean()) if none.any() else 0.0,
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def train(run: RunSettings) -> None:
    """Writes encoder.safetensors into `train.out` after every tenth of the steps."""
    from safetensors.torch import save_file

    settings, data = run.train, run.data
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    limit_threads(settings.num_threads)
    torch.manual_seed(settings.seed)
    net = Listener(run)
    sounds = Sounds(load_sounds(data.root, "train"), data)
    pool, heard = make_pool(sounds, data, POOL, settings.seed, run.model.num_classes)
    strangers = Sounds(load_sounds(data.root, "val"), data)
    check_audio, check_heard = make_pool(strangers, data, NUM_CHECKS, settings.seed, run.model.num_classes)
    groups = [
        {"params": net.encoder.parameters(), "lr": settings.audio_lr, "base_lr": settings.audio_lr},
        {"params": net.head.parameters(), "lr": HEAD_LR, "base_lr": HEAD_LR},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    num_steps = max(int(settings.epochs * POOL / settings.batch_size), 1)
    began = said = time.monotonic()
    for step in range(num_steps):
        audio, flags = mixtures(
            np.random.default_rng((settings.seed, step, 66)), pool, heard, settings.batch_size, data
        )
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate(step, num_steps, settings)
        loss = F.binary_cross_entropy_with_logits(net(audio), flags, reduction="none")[:, 1:].sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), settings.clip_norm)
        optimizer.step()
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            left_s = (said - began) / (step + 1) * (num_steps - step - 1)
            print(
                f"step {step + 1}/{num_steps}  loss {loss.item():.3f}  left {span(left_s)}", file=sys.stderr, flush=True
            )
        if (step + 1) % max(num_steps // 10, 1) == 0 or step + 1 == num_steps:
            known = judge(net, torch.from_numpy(pool[:NUM_CHECKS]), heard[:NUM_CHECKS].numpy() > 0)
            new = judge(net, torch.from_numpy(check_audio), check_heard.numpy() > 0)
            text = "  ".join(f"{name} {value:.3f} (training {known[name]:.3f})" for name, value in new.items())
            say(f"validation {step + 1}  {text}")
            temporary = out / "encoder.tmp"
            save_file(net.encoder.state_dict(), temporary)
            os.replace(temporary, out / "encoder.safetensors")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.hear", description=__doc__)
    parser.add_argument("config")
    parser.add_argument("assignments", nargs="*", metavar="key=value")
    arguments = parser.parse_args(argv)
    try:
        train(read_run(arguments.config, split_assignments(arguments.assignments)))
    except UserError as error:
        print(f"python -m train.hear: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
