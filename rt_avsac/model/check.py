"""Which settings go together."""

from __future__ import annotations

from rt_avsac.errors import ModelError
from rt_avsac.model.deformable import NUM_GROUPS
from rt_avsac.model.settings import ModelSettings

STRIDES = (8, 16, 32)  # picture levels that can be the decoder's tokens


def check(settings: ModelSettings, audio_grid: tuple[int, int]) -> None:
    """ModelError for what no network can be made of. `audio_grid`: cells of the audio encoder, time x frequency."""
    height, width = audio_grid
    if settings.audio_tokens not in (1, height * width):
        raise ModelError(f"model: audio_tokens asked {settings.audio_tokens}, this encoder has 1 or {height * width}")
    if settings.num_queries < settings.audio_tokens:
        raise ModelError(
            f"model: audio_tokens {settings.audio_tokens} need as many num_queries, got {settings.num_queries}"
        )
    if settings.class_match and not settings.has_class_heads:
        raise ModelError("model: class_match needs output sounding and num_classes > 1")
    if settings.output == "semantic" and settings.num_classes == 1:
        raise ModelError("model: output semantic needs num_classes > 1")
    widths = [("dim", settings.dim), *([("mask_dim", settings.mask_dim)] if settings.mixer else [])]
    for name, width in widths:
        if width % settings.num_heads:
            raise ModelError(f"model: {name} must divide by num_heads {settings.num_heads}, got {width}")
    if settings.dim % 4:
        raise ModelError(f"model: dim must divide by 4 for the positions, got {settings.dim}")
    if settings.token_strides not in (STRIDES, STRIDES[1:], STRIDES[2:]):
        raise ModelError(f"model: token_strides asked {settings.token_strides}, known: 8,16,32 or 16,32 or 32")
    if settings.image_size % 32:
        raise ModelError(f"model: image_size must divide by 32, got {settings.image_size}")
    needs_all = settings.pixel_encoder == "deformable" or settings.auxiliary_mask
    if needs_all and settings.token_strides != STRIDES:
        asked = "pixel_encoder deformable" if settings.pixel_encoder == "deformable" else "auxiliary_mask"
        raise ModelError(f"model: {asked} needs token_strides 8,16,32, got {settings.token_strides}")
    if settings.pixel_encoder == "deformable" and (settings.dim % NUM_GROUPS or settings.mask_dim % NUM_GROUPS):
        raise ModelError(
            f"model: pixel_encoder deformable needs dim and mask_dim that divide by {NUM_GROUPS}, "
            f"got {settings.dim} and {settings.mask_dim}"
        )
