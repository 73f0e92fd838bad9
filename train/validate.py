"""Validation while training: fixed composed scenes, each with its own sound, another object's, and three negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rt_avsac.model.avsac import Avsac
from train.forward import repeat
from train.losses import sounding_target
from train.scene import Pictures, Scene, compose
from train.settings import DataSettings
from train.sound import Sounds, mix, mute, only_noise

CONDITIONS = ("original", "swap", "mute", "noise", "off")
FALSE_ALARM_SHARE = 0.005  # of the picture


@dataclass
class Probe:
    """A scene with one sound per condition; without a second object, "swap" is the original again."""

    scene: Scene
    audio: Tensor  # float32 [5, n]
    heard: Tensor  # bool [5, C]
    can_swap: bool
    class_id: int


def make_probes(pictures: Pictures, sounds: Sounds, settings: DataSettings, num: int, size: int, seed: int, num_classes: int) -> list[Probe]:
    """`num` scenes, every other one with two or more objects that can sound."""
    probes: list[Probe] = []
    index = 0
    while len(probes) < num:
        rng = np.random.default_rng((seed, index, 991))
        index += 1
        scene = compose(rng, pictures, settings, size)
        able = [c for c in scene.classes if c in sounds.classes]
        if not able or (len(able) > 1) != (len(probes) % 2 == 0):
            continue
        present = set(np.unique(scene.label).tolist())
        absent = [c for c in sounds.classes if c not in present]
        order = [int(c) for c in rng.permutation(able)]
        swap = order[1] if len(order) > 1 else order[0]
        mixtures = [
            mix(rng, sounds, [order[0]], settings),
            mix(rng, sounds, [swap], settings),
            mute(rng),
            only_noise(rng, settings),
            mix(rng, sounds, [int(rng.choice(absent)) if rng.random() < 0.5 else 0], settings),
        ]
        heard = torch.zeros(len(mixtures), num_classes, dtype=torch.bool)
        for row, mixture in enumerate(mixtures):
            heard[row, list(mixture.heard)] = True
        audio = torch.from_numpy(np.stack([m.samples for m in mixtures]))
        probes.append(Probe(scene, audio, heard, len(order) > 1, order[0]))
    return probes


@torch.no_grad()
def masks_of(net: Avsac, probe: Probe) -> tuple[Tensor, Tensor]:
    """→ probability [5, S, S] of sounding, and class probability [C, S, S]."""
    image = torch.from_numpy(probe.scene.image)[None].permute(0, 3, 1, 2).float()
    seen = net.see(image)
    decoded = net.decode(repeat(seen, len(probe.audio)), net.hear(probe.audio))
    size = probe.scene.image.shape[:2]
    probability = F.interpolate(decoded.sounding_logit, size=size, mode="bilinear").sigmoid()[:, 0]
    if seen.class_logit is None:
        return probability, probability[:1]
    return probability, F.interpolate(seen.class_logit, size=size, mode="bilinear").softmax(1)[0]


def validate(net: Avsac, probes: Sequence[Probe]) -> dict[str, float]:
    """Means over the probes; "score" = mean of mIoU, swap accuracy, class right, and 1 - false alarms."""
    net.eval()
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for probe in probes:
        probability, classes = masks_of(net, probe)
        target, valid = sounding_target(torch.from_numpy(probe.scene.label)[None], probe.heard[None])
        mask, truth, counts = probability > 0.5, target > 0.5, valid > 0.5
        first = iou(mask[0], truth[0], counts[0])
        note("miou", first)
        if probe.scene.quality == "human":
            note("miou_human", first)
        if probe.can_swap:
            note("swap", float(iou(mask[1], truth[1], counts[1]) > iou(mask[1], truth[0], counts[1])))
        for row, name in enumerate(CONDITIONS[2:], start=2):
            note(f"alarm_{name}", float(mask[row].float().mean() > FALSE_ALARM_SHARE))
        if len(classes) > 1:
            votes = torch.bincount(classes[1:].argmax(0)[mask[0]] + 1, minlength=len(classes))
            note("class", float(votes.sum() > 0 and int(votes.argmax()) == probe.class_id))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    alarm = np.mean([means[f"alarm_{name}"] for name in CONDITIONS[2:]])
    parts = [means["miou"], means.get("swap", 0.0), means.get("class", means["miou"]), 1.0 - float(alarm)]
    return means | {"score": float(np.mean(parts))}


def iou(mask: Tensor, truth: Tensor, valid: Tensor) -> float:
    either = ((mask | truth) & valid).sum().item()
    return ((mask & truth & valid).sum().item() / either) if either else 1.0


def save_sheet(path: Path, net: Avsac, probes: Sequence[Probe], num: int = 12) -> None:
    """A picture per row, its mask under each condition in the columns (red: predicted, green: outline of the truth)."""
    import cv2

    net.eval()
    rows = []
    for probe in probes[:num]:
        probability, _ = masks_of(net, probe)
        target, _ = sounding_target(torch.from_numpy(probe.scene.label)[None], probe.heard[None])
        cells = [probe.scene.image]
        for mask, truth in zip(probability.numpy(), target.numpy(), strict=True):
            cell = probe.scene.image.astype(np.float32)
            cell += mask[..., None] * 0.6 * (np.array([255.0, 0.0, 0.0]) - cell)
            cell = np.ascontiguousarray(cell.astype(np.uint8))
            outlines, _ = cv2.findContours(truth.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(cell, outlines, -1, (0, 255, 0), 1)
            cells.append(cell)
        rows.append(np.concatenate(cells, axis=1))
    sheet = cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert done
    path.write_bytes(data.tobytes())
