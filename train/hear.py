"""Fine-tunes the audio encoder alone on mixtures, first: `python -m train.hear CONFIG key=value …`.

Which classes are heard, one sigmoid each. The encoder is small and pictures are not needed, so thousands of mixtures a
minute pass by; the result is what `audio_weights=` of `python -m train` takes. Settings are the run's own: audio_lr,
lr (of the head), batch_size, seed, root, audio_weights, ema_decay, out; epochs count the pool. `start_from`: a
checkpoint whose audio encoder and class head go on. `teacher_weights`: published YAMNet, whose 521 AudioSet classes the
encoder goes on telling apart, with `distill_weight`; so it does not forget what its few recordings do not hold.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
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
from rt_avsac.model.checkpoint import load
from rt_avsac.model.encoders import make_audio_encoder
from rt_avsac.model.pretrained import load_encoder, read_tensors
from rt_avsac.model.settings import NUM_AUDIO_SAMPLES
from train.device import choose, device_of
from train.log import span
from train.loop import limit_threads
from train.mapping import load_sounds
from train.schedule import rate
from train.settings import DataSettings, RunSettings, read_run
from train.sound import NOISE_COLOURS, Samples, Sounds, between, from_db, mix, noise, rms, set_level
from train.vary import elsewhere, shifted

POOL = 16000  # single sources, made once; mixtures are sums of them
NUM_PUBLISHED = 521  # AudioSet classes of the published YAMNet
NUM_CHECKS = 1000
SAY_EVERY_S = 15.0


def make_pool(
    sounds: Sounds, settings: DataSettings, num: int, seed: int, num_classes: int, varied: bool
) -> tuple[Samples, Tensor]:
    """Windows float32 [num, n] of one source each, every fourth of no picture class; heard [num, C].

    `varied`: without ambience and as if recorded elsewhere, for training.
    """
    if varied:
        settings = dataclasses.replace(settings, ambience_share=0.0)
    windows, heard = np.empty((num, NUM_AUDIO_SAMPLES), np.float32), torch.zeros(num, num_classes)
    for row in range(num):
        rng = np.random.default_rng((seed, row, 55))
        class_id = 0 if row % 4 == 0 and 0 in sounds.by_class else int(rng.choice(sounds.classes))
        window = mix(rng, sounds, [class_id], settings).samples
        windows[row] = elsewhere(rng, window) if varied else window
        heard[row, class_id] = float(class_id != 0)
    return windows, heard


def mixtures(
    rng: np.random.Generator, pool: Samples, heard: Tensor, num: int, settings: DataSettings
) -> tuple[Tensor, Tensor]:
    """audio float32 [num, n] and heard [num, C]: 1 to 3 windows of the pool over noise or a sound of no class;
    or noise or nothing alone."""
    audio = np.zeros((num, pool.shape[1]), np.float32)
    flags = torch.zeros(num, heard.shape[1])
    nameless = np.flatnonzero(heard.sum(dim=1).numpy() == 0)
    for row in range(num):
        kind = rng.random()
        if kind < 0.03:
            audio[row] = noise(rng, float(rng.choice(NOISE_COLOURS))) * from_db(rng.uniform(-90.0, -20.0))
            continue
        for _ in range(1 if kind < 0.6 else 2 if kind < 0.93 else 3):
            which = int(rng.integers(len(pool)))
            audio[row] += at_db(shifted(rng, pool[which]), rng.uniform(-settings.gain_db, settings.gain_db))
            flags[row] = torch.maximum(flags[row], heard[which])
        if rng.random() < settings.ambience_share:
            if rng.random() < 0.4 or not len(nameless):
                under = noise(rng, float(rng.choice(NOISE_COLOURS)))
            else:
                under = pool[rng.choice(nameless)]
            audio[row] += at_db(under, -between(rng, settings.ambience_snr_db))
        audio[row] = set_level(audio[row], between(rng, settings.level_dbfs))
    return torch.from_numpy(audio), flags


def at_db(window: Samples, gain_db: float) -> Samples:
    """The window at this RMS, relative to -20 dBFS."""
    return window * np.float32(from_db(gain_db - 20.0) / rms(window))


class Listener(nn.Module):
    """audio [B, n] → class logits [B, C]: the encoder and a linear head on its summary."""

    def __init__(self, run: RunSettings) -> None:
        super().__init__()
        self.encoder = make_audio_encoder(run.model)
        self.head = nn.Linear(self.encoder.dim, run.model.num_classes)
        if run.train.start_from:
            net, _ = load(run.train.start_from)
            same = type(net.audio_encoder) is type(self.encoder) and net.settings.num_classes == run.model.num_classes
            if not same or not net.settings.has_class_heads:
                raise UserError(
                    f"start_from {run.train.start_from}: asked the config's audio encoder and classes, it has others"
                )
            self.encoder.load_state_dict(net.audio_encoder.state_dict())
            self.head.load_state_dict(net.audio_class_head.state_dict())
        if run.train.audio_weights:
            load_encoder(self.encoder, run.train.audio_weights)

    def forward(self, audio: Tensor) -> Tensor:
        logit: Tensor = self.head(self.encoder.summary(self.encoder(audio)))
        return logit


class Teacher(nn.Module):
    """The published YAMNet: audio [B, n] → logits [B, 521] of AudioSet. UserError for another encoder or file."""

    def __init__(self, run: RunSettings) -> None:
        super().__init__()
        if run.model.audio_encoder != "yamnet":
            raise UserError(f"teacher_weights: asked with audio_encoder {run.model.audio_encoder}; they are YAMNet's")
        self.encoder = make_audio_encoder(run.model)
        load_encoder(self.encoder, run.train.teacher_weights)
        self.classes = nn.Linear(self.encoder.dim, NUM_PUBLISHED)
        found = read_tensors(run.train.teacher_weights, "YAMNet")
        if "fc.weight" not in found or "fc.bias" not in found:
            raise UserError(f"teacher_weights {run.train.teacher_weights}: no class layer (fc) inside")
        self.classes.load_state_dict({"weight": found["fc.weight"], "bias": found["fc.bias"]})

    def forward(self, audio: Tensor) -> Tensor:
        logit: Tensor = self.classes(self.encoder.summary(self.encoder(audio)))
        return logit


def judge(net: Listener, audio: Tensor, heard: NDArray[np.bool_]) -> dict[str, float]:
    """Of one-source windows: right at first, heard at 0.5; of the others: any class wrongly heard at 0.5."""
    with torch.no_grad():
        parts = audio.to(device_of(net)).split(32)
        probability = torch.cat([net(part).sigmoid() for part in parts]).cpu().numpy()
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
    """Writes encoder.safetensors, the EMA's, into `train.out` after every tenth of the steps."""
    from safetensors.torch import save_file

    settings, data = run.train, run.data
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    limit_threads(settings.num_threads)
    torch.manual_seed(settings.seed)
    device = choose(settings.device)
    net, teacher = Listener(run).to(device), None
    memory: nn.Linear | None = None
    if settings.teacher_weights and settings.distill_weight > 0.0:
        teacher = Teacher(run).to(device).requires_grad_(False)
        memory = copy.deepcopy(teacher.classes).requires_grad_(True)
    kept = copy.deepcopy(net).requires_grad_(False)
    sounds = Sounds(load_sounds(data.root, "train"), data)
    pool, heard = make_pool(sounds, data, POOL, settings.seed, run.model.num_classes, varied=True)
    known_audio, known_heard = make_pool(sounds, data, NUM_CHECKS, settings.seed, run.model.num_classes, varied=False)
    strangers = Sounds(load_sounds(data.root, "val"), data)
    check_audio, check_heard = make_pool(
        strangers, data, NUM_CHECKS, settings.seed, run.model.num_classes, varied=False
    )
    heads = [*net.head.parameters(), *(memory.parameters() if memory is not None else [])]
    groups = [
        {"params": net.encoder.parameters(), "lr": settings.audio_lr, "base_lr": settings.audio_lr},
        {"params": heads, "lr": settings.lr, "base_lr": settings.lr},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    num_steps = max(int(settings.epochs * POOL / settings.batch_size), 1)
    began = said = time.monotonic()
    for step in range(num_steps):
        audio, flags = mixtures(
            np.random.default_rng((settings.seed, step, 66)), pool, heard, settings.batch_size, data
        )
        audio, flags = audio.to(device), flags.to(device)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * rate(step, num_steps, settings)
        summary = net.encoder.summary(net.encoder(audio))
        loss = F.binary_cross_entropy_with_logits(net.head(summary), flags, reduction="none")[:, 1:].sum(1).mean()
        if teacher is not None and memory is not None:
            with torch.no_grad():
                published = teacher(audio).sigmoid()
            forgotten = F.binary_cross_entropy_with_logits(memory(summary), published, reduction="none")
            loss = loss + settings.distill_weight * forgotten.sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), settings.clip_norm)
        optimizer.step()
        with torch.no_grad():
            for mean, new in zip(kept.parameters(), net.parameters(), strict=True):
                mean.lerp_(new, 1.0 - min(settings.ema_decay, (1 + step) / (10 + step)))
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            left_s = (said - began) / (step + 1) * (num_steps - step - 1)
            say(f"step {step + 1}/{num_steps}  loss {loss.item():.3f}  left {span(left_s)}")
        if (step + 1) % max(num_steps // 10, 1) == 0 or step + 1 == num_steps:
            known = judge(kept, torch.from_numpy(known_audio), known_heard.numpy() > 0)
            new_ones = judge(kept, torch.from_numpy(check_audio), check_heard.numpy() > 0)
            text = "  ".join(f"{name} {value:.3f} (training {known[name]:.3f})" for name, value in new_ones.items())
            say(f"validation {step + 1}  {text}")
            temporary = out / "encoder.tmp"
            save_file(kept.encoder.state_dict(), temporary)
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
