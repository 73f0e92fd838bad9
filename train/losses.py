"""Losses of AVSAC: dice + BCE on the sounding mask, the mixer's mean map, AVFS, and the class heads (paper, 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rt_avsac.model.avsac import Decoded, Heard, Seen
from train.settings import TrainSettings

DICE_EPS = 1e-3
IGNORE = 255


def sounding_target(label: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
    """label uint8 [B, S, S], heard bool [B, K, C] → target float [B·K, S, S] (1 = its class is heard), valid alike."""
    batch, sounds = heard.shape[:2]
    valid = label != IGNORE
    index = label.long().masked_fill(~valid, 0)
    table = heard.clone()
    table[:, :, 0] = False  # the background never sounds
    flat = index.flatten(1)[:, None].expand(batch, sounds, -1)
    target = table.gather(2, flat).unflatten(2, label.shape[1:])
    return target.flatten(0, 1).float(), valid[:, None].expand(-1, sounds, -1, -1).flatten(0, 1).float()


def dice(probability: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - squared-sum dice per frame, mean over frames; [N, H, W]. Its gradient vanishes where the target is empty."""
    probability, target = probability * valid, target * valid
    overlap = (probability * target).sum((1, 2))
    size = probability.square().sum((1, 2)) + target.square().sum((1, 2))
    return (1.0 - (2.0 * overlap + DICE_EPS) / (size + DICE_EPS)).mean()


def bce(logit: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Per-frame mean over the valid pixels, then over frames; what teaches the network silence."""
    loss = F.binary_cross_entropy_with_logits(logit, target, reduction="none") * valid
    return (loss.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1.0)).mean()


def avfs(decoded: Decoded, heard: Heard, target: Tensor, sides: list[int], form: str) -> Tensor:
    """Frame-wise synchrony of the audio-guided vision F_AGV with the audio F_a (paper, eq. 5; choices in the form).

    Target: softmax over channels of F_a averaged over its queries, detached. Prediction: log-softmax over channels of
    F_AGV, pooled over the frame's foreground tokens (kl_frame) or of each of them (kl_token); l2_frame and l2_token
    take the squared distance of the features instead. Frames without foreground do not count.
    `target` [N, H, W]; `sides`: grid side of each level of tokens.
    """
    levels = [F.adaptive_avg_pool2d(target[:, None], side).flatten(1) for side in sides]
    weight = (torch.cat(levels, dim=1) > 0.5).float()  # [N, L]
    audio = heard.queries.mean(dim=1).detach()  # [N, d]
    count = weight.sum(dim=1)
    has = (count > 0).float()
    if form.endswith("frame"):
        pooled = (decoded.f_agv * weight[..., None]).sum(1) / count.clamp(min=1.0)[:, None]
        per_frame = _distance(pooled, audio, form)
    else:
        per_token = _distance(decoded.f_agv, audio[:, None].expand_as(decoded.f_agv), form)
        per_frame = (per_token * weight).sum(1) / count.clamp(min=1.0)
    return (per_frame * has).mean()


def _distance(vision: Tensor, audio: Tensor, form: str) -> Tensor:
    """[…, d], [… , d] → […]: KL(softmax(audio) ‖ softmax(vision)) or mean squared distance."""
    if form.startswith("kl"):
        return F.kl_div(vision.log_softmax(-1), audio.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    return (vision - audio).square().mean(-1)


def classes_of_pixels(logit: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy per picture over its valid pixels, mean over pictures; logit [B, C, h, w], label [B, S, S]."""
    side = label.shape[-1] // 4
    logit = F.interpolate(logit, size=(side, side), mode="bilinear")
    small = F.interpolate(label[:, None].float(), size=(side, side), mode="nearest")[:, 0].long()
    valid = (small != IGNORE).float()
    loss = F.cross_entropy(logit, small.masked_fill(small == IGNORE, 0), reduction="none") * valid
    return (loss.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1.0)).mean()


def semantic(logit: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy at the label's size + 0.1 dice of "not background" (AVSS); logit [N, C, h, w], label [N, S, S]."""
    logit = F.interpolate(logit, size=label.shape[-2:], mode="bilinear")
    valid = (label != IGNORE).float()
    index = label.long().masked_fill(label == IGNORE, 0)
    loss = F.cross_entropy(logit, index, reduction="none") * valid
    entropy = (loss.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1.0)).mean()
    foreground = 1.0 - logit.softmax(1)[:, 0]
    return entropy + 0.1 * dice(foreground, (index > 0).float(), valid)


def total(
    seen: Seen,
    heard: Heard,
    decoded: Decoded,
    label: Tensor,
    flags: Tensor,
    target: Tensor,
    valid: Tensor,
    sides: list[int],
    settings: TrainSettings,
) -> dict[str, Tensor]:
    """Every part, weighted, and "total"; flags bool [N, C] heard, target and valid [N, S, S]."""
    side = min(decoded.sounding_logit.shape[-1] * 2, target.shape[-1])
    logit = F.interpolate(decoded.sounding_logit, size=(side, side), mode="bilinear")[:, 0]
    small_target = F.adaptive_avg_pool2d(target[:, None], side)[:, 0]
    small_valid = (F.adaptive_avg_pool2d(valid[:, None], side)[:, 0] > 0.5).float()
    if decoded.semantic_logit is not None:
        sounding_label = torch.where(target > 0.5, label.repeat_interleave(len(target) // len(label), 0), 0)
        sounding_label = torch.where(valid > 0.5, sounding_label, IGNORE)
        parts = {"semantic": semantic(decoded.semantic_logit, sounding_label)}
        if decoded.auxiliary_logit is not None:
            parts["auxiliary"] = settings.auxiliary_weight * semantic(decoded.auxiliary_logit, sounding_label)
    else:
        parts = {
            "bce": settings.bce_weight * bce(logit, small_target, small_valid),
            "dice": settings.dice_weight * dice(logit.sigmoid(), small_target, small_valid),
        }
        if decoded.auxiliary_logit is not None:
            auxiliary = F.interpolate(decoded.auxiliary_logit, size=(side, side), mode="bilinear")[:, 0]
            parts["auxiliary"] = settings.auxiliary_weight * bce(auxiliary, small_target, small_valid)
    if settings.avfs_form != "off":
        parts["avfs"] = settings.avfs_weight * avfs(decoded, heard, target, sides, settings.avfs_form)
    if decoded.mix_logit is not None:
        mean_map = F.interpolate(decoded.mix_logit, size=(side, side), mode="bilinear")[:, 0].sigmoid()
        parts["mix"] = settings.mix_weight * dice(mean_map, small_target, small_valid)
    if seen.class_logit is not None:
        parts["class"] = settings.class_weight * classes_of_pixels(seen.class_logit, label)
    if heard.class_logit is not None:
        flags = flags[:, 1:].float()
        parts["audio_class"] = (
            settings.audio_class_weight
            * F.binary_cross_entropy_with_logits(heard.class_logit[:, 1:], flags, reduction="none").sum(1).mean()
        )
    parts["total"] = torch.stack(list(parts.values())).sum()
    return parts
