"""Validation while training: fixed composed items through the listening protocol, and a sheet of masks to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from rt_avsac.model.avsac import Avsac
from rt_avsac.scale import scale
from train.device import device_of
from train.forward import repeat
from train.items import CONDITIONS, ORIGINAL, EvalItem
from train.listening import ListeningScore


@torch.no_grad()
def predict(net: Avsac, item: EvalItem) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.uint8] | None]:
    """→ predicted mask of each condition, bool at its size; class of each pixel under the original."""
    names = list(item.conditions)
    height, width = item.mask_by_condition[ORIGINAL].shape
    device = device_of(net)
    image = torch.from_numpy(scale(item.image, net.settings.image_size)).to(device)
    seen = net.see(image[None].permute(0, 3, 1, 2).float())
    heard = net.hear(torch.from_numpy(np.stack([item.conditions[name] for name in names])).to(device))
    logit = net.decode(repeat(seen, len(names)), heard).sounding_logit
    masks = F.interpolate(logit, size=(height, width), mode="bilinear")[:, 0] > 0
    predicted = dict(zip(names, masks.cpu().numpy(), strict=True))
    if seen.class_logit is None or heard.class_logit is None:
        return predicted, None
    of_class = F.interpolate(seen.class_logit, size=(height, width), mode="bilinear").softmax(1)[0, 1:]
    is_heard = heard.class_logit[names.index(ORIGINAL), 1:].sigmoid()
    return predicted, ((of_class * is_heard[:, None, None]).argmax(0) + 1).to(torch.uint8).cpu().numpy()


def validate(net: Avsac, items: Sequence[EvalItem]) -> dict[str, float]:
    """The listening protocol's measures; "score" = mean of mIoU, swap accuracy, class right, and 1 - false alarms."""
    net.eval()
    everything, human = ListeningScore(), ListeningScore()
    for item in items:
        predicted, class_map = predict(net, item)
        everything.add(item, predicted, class_map)
        if item.mask_quality.startswith("human"):
            human.add(item, predicted, class_map)
    result = everything.result()
    alarms = {f"alarm_{name}": each.frame_false_alarm for name, each in result.negatives.items()}
    parts = [
        result.miou_original,
        result.swap_accuracy,
        result.class_accuracy,
        1.0 - float(np.mean(list(alarms.values()))),
    ]
    return {
        "score": float(np.nanmean(parts)),
        "miou": result.miou_original,
        "miou_human": human.result().miou_original,
        "swap": result.swap_accuracy,
        "class": result.class_accuracy,
        "g": result.g,
        **alarms,
    }


def save_sheet(path: Path, net: Avsac, items: Sequence[EvalItem], num: int = 12, side: int = 160) -> None:
    """A picture per row, a condition per column (red: predicted, green: outline of the truth)."""
    import cv2

    net.eval()
    rows = []
    for item in items[:num]:
        predicted, _ = predict(net, item)
        height, width = item.mask_by_condition[ORIGINAL].shape
        image = np.asarray(cv2.resize(item.image, (width, height)), np.uint8)
        cells = [image]
        for name in CONDITIONS:
            cell = image.copy()
            if name in predicted:
                cell = np.where(predicted[name][..., None], 0.4 * cell + [153.0, 0.0, 0.0], cell).astype(np.uint8)
                truth = np.isin(item.mask_by_condition[name], (0, 255), invert=True).astype(np.uint8)
                outlines, _ = cv2.findContours(truth, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                cv2.drawContours(cell, outlines, -1, (0, 255, 0), 2)
            cells.append(cell)
        rows.append(
            np.concatenate([cv2.resize(cell, (side, side), interpolation=cv2.INTER_AREA) for cell in cells], axis=1)
        )
    _, data = cv2.imencode(".png", np.concatenate(rows)[:, :, ::-1])
    path.write_bytes(data.tobytes())
