"""The picture backbone and the audio encoder that the settings name."""

from __future__ import annotations

from rt_avsac.errors import ModelError
from rt_avsac.model.efficientnet import EfficientNetLite0
from rt_avsac.model.pvt_v2 import PvtV2
from rt_avsac.model.resnet import ResNet
from rt_avsac.model.settings import ModelSettings
from rt_avsac.model.vggish import Vggish
from rt_avsac.model.yamnet import YamNet


def make_backbone(settings: ModelSettings) -> EfficientNetLite0 | PvtV2 | ResNet:
    if settings.backbone == "efficientnet_lite0":
        return EfficientNetLite0()
    if settings.backbone == "pvt_v2_b5":
        return PvtV2(drop_path=settings.drop_path)
    if settings.backbone == "resnet50":
        return ResNet()
    raise ModelError(f"model: unknown backbone {settings.backbone!r}")


def make_audio_encoder(settings: ModelSettings) -> YamNet | Vggish:
    if settings.audio_encoder == "yamnet":
        return YamNet()
    if settings.audio_encoder == "vggish":
        return Vggish()
    raise ModelError(f"model: unknown audio encoder {settings.audio_encoder!r}")
