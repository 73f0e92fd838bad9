"""The paper's models: shapes, parameter counts, training masks, settings that do not go together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import VGGISH, config_settings, inputs, make, make_paper, millions
from torch import nn
from torch.nn import functional as F

from rt_avsac.errors import ModelError
from rt_avsac.model import checkpoint
from rt_avsac.model.avsac import Avsac, Deployed

pytestmark = pytest.mark.usefixtures("one_thread")


def test_paper_shapes_and_training_masks() -> None:
    net = make_paper()
    image, audio = inputs()
    with torch.no_grad():
        decoded = net(image, audio)
        assert decoded.mix_logit is None
        assert decoded.auxiliary_logit is None
        outputs = Deployed(net)(image[:1].permute(0, 2, 3, 1).byte(), audio[:1])
    assert decoded.sounding_logit.shape == (2, 1, 64, 64)
    assert decoded.f_agv.shape == (2, 64 + 16 + 4, 64)
    assert [tuple(output.shape) for output in outputs] == [(1, 64, 64)]
    trained = net.train()(image, audio)
    assert trained.mix_logit is not None
    torch.testing.assert_close(trained.mix_logit, trained.mask_feature.mean(dim=1, keepdim=True))
    assert trained.auxiliary_logit is not None
    assert trained.auxiliary_logit.shape == (2, 1, 64, 64)


@pytest.mark.parametrize("changes", [VGGISH, {"decoder": "one_way", "generator_layers": 2, "audio_tokens": 1}])
def test_no_parameter_of_the_paper_models_is_idle(changes: dict[str, Any]) -> None:
    """Gradients by way of all outputs reach every parameter: nothing is carried along for the count."""
    net = make_paper(**changes).train()
    image, audio = inputs()
    decoded = net(image, audio)
    assert decoded.mix_logit is not None
    assert decoded.auxiliary_logit is not None
    (decoded.sounding_logit.mean() + decoded.mix_logit.mean() + decoded.auxiliary_logit.mean()).backward()
    assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []


def test_semantic_output() -> None:
    net = make_paper(num_classes=71, output="semantic")
    image, audio = inputs()
    with torch.no_grad():
        decoded = net(image, audio)
        sounding, of_class = Deployed(net)(image[:1].permute(0, 2, 3, 1).byte(), audio[:1])
    assert decoded.semantic_logit is not None
    probability = decoded.semantic_logit.softmax(dim=1)
    assert probability.shape == (2, 71, 64, 64)
    torch.testing.assert_close(decoded.sounding_logit.sigmoid(), 1.0 - probability[:, :1], atol=1e-5, rtol=1e-4)
    assert sounding.shape == (1, 64, 64)
    assert of_class.shape == (1, 71, 16, 16)
    torch.testing.assert_close(of_class.sum(dim=1), torch.ones(1, 16, 16))


def test_one_way_decoder_never_writes_to_the_picture() -> None:
    net = make_paper(decoder="one_way", generator_layers=2)
    image, audio = inputs()
    with torch.no_grad():
        seen = net.see(image)
        first, second = (net.decode(seen, net.hear(sound)) for sound in (audio, audio.flip(0)))
    assert torch.equal(first.f_agv, seen.tokens)
    assert torch.equal(first.f_agv, second.f_agv)
    assert not torch.allclose(first.f_vga, second.f_vga, atol=1e-5)
    assert net.query_generator is not None
    assert make_paper(decoder="one_way").query_generator is None  # generator_layers 0: learned + audio, as in BAVD


def test_mixer_gates_channels() -> None:
    net = make_paper()
    assert net.mixer is not None
    feature, audio = torch.randn(2, 64, 16, 16), torch.randn(2, 64)
    with torch.no_grad():
        gate = net.mixer(feature, audio) / feature
        torch.testing.assert_close(gate, gate[:, :, :1, :1].expand_as(gate), atol=1e-4, rtol=1e-3)
        assert ((gate > 0) & (gate < 1)).all()
        assert not torch.allclose(net.mixer(feature, audio.flip(0)), net.mixer(feature, audio))
    assert make_paper(mixer=False).mixer is None


def test_mask_feature_follows_the_paper() -> None:
    """conv3x3(upsample2(stride-8 slice of F_AGV) + lateral): the coarser tokens have no part in it."""
    net = make_paper(mixer=False)
    image, _ = inputs()
    with torch.no_grad():
        seen = net.see(image)
        f_agv = torch.randn(2, 84, 64)
        slice8 = f_agv[:, :64].transpose(1, 2).reshape(2, 64, 8, 8)
        want = net.refine4(F.interpolate(slice8, scale_factor=2, mode="bilinear") + seen.lateral4)
        torch.testing.assert_close(net.mask_feature(f_agv, seen), want)


def test_dropout_is_for_training_only() -> None:
    image, audio = inputs()
    for rate, same in ((0.0, True), (0.5, False)):
        net = make_paper(dropout=rate).train()
        for module in net.modules():  # their batch statistics change from pass to pass
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        with torch.no_grad():
            assert torch.equal(net(image, audio).f_agv, net(image, audio).f_agv) == same
            net.eval()
            assert torch.equal(net(image, audio).f_agv, net(image, audio).f_agv)


@pytest.mark.parametrize(
    ("name", "total", "backbone", "audio"),
    [
        ("avsac_pvt_s4", 181.25, 81.44, 72.14),
        ("avsac_pvt_ms3", 181.25, 81.44, 72.14),
        ("avsac_pvt_avss", 181.25, 81.44, 72.14),
        ("avsegformer_pvt_ms3", 186.05, 81.44, 72.14),
        ("avsac_r50_s4", 124.2, 23.51, 72.14),
        ("avsac_r50_ms3", 124.2, 23.51, 72.14),
        ("avsac_r50_avss", 124.2, 23.51, 72.14),
    ],
)
def test_parameter_counts_of_the_configs(name: str, total: float, backbone: float, audio: float) -> None:
    with torch.device("meta"):
        net = Avsac(config_settings(name))
    assert millions(net) == pytest.approx(total, rel=0.005)
    assert millions(net.backbone) == pytest.approx(backbone, rel=0.005)
    assert millions(net.audio_encoder) == pytest.approx(audio, rel=0.005)
    if name.startswith("avsegformer"):
        assert millions(net) - millions(net.backbone) - millions(net.audio_encoder) == pytest.approx(32.47, rel=0.005)
    assert net.settings.name == name.replace("_", "-")
    bigger = dataclasses.replace(net.settings, image_size=512)
    with torch.device("meta"):
        assert millions(Avsac(bigger)) == millions(net)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_tokens": 5}, "audio_tokens asked 5, this encoder has 1 or 6"),
        ({"num_queries": 4}, "audio_tokens 6 need as many num_queries, got 4"),
        ({"num_classes": 1}, "class_match needs"),
        ({"image_size": 100}, "image_size must divide by 32, got 100"),
        ({"num_classes": 1, "class_match": False, "output": "semantic"}, "output semantic needs num_classes > 1"),
        ({"num_heads": 3}, "dim must divide by num_heads 3, got 128"),
        ({"mixer": True, "mask_dim": 30}, "mask_dim must divide by num_heads 4, got 30"),
        ({"dim": 6, "num_heads": 1}, "dim must divide by 4"),
        ({"token_strides": (32, 16)}, r"token_strides asked \(32, 16\)"),
        (
            {"pixel_encoder": "deformable", "token_strides": (8, 16, 32), "dim": 40},
            "dim and mask_dim that divide by 32, got 40 and 64",
        ),
        ({"pixel_encoder": "deformable"}, "pixel_encoder deformable needs token_strides"),
        ({"auxiliary_mask": True}, "auxiliary_mask needs token_strides"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("strides", [(32,), (16, 32), (8, 16, 32)])
def test_token_strides(strides: tuple[int, ...]) -> None:
    image, audio = inputs()
    with torch.no_grad():
        decoded = make(token_strides=strides)(image, audio)
    assert decoded.f_agv.shape[1] == sum((64 // stride) ** 2 for stride in strides)
    assert decoded.sounding_logit.shape == (2, 1, 16, 16)


def test_checkpoint_brings_back_settings_and_weights(tmp_path: Path) -> None:
    net = make_paper(num_classes=71, output="semantic", audio_encoder="yamnet", audio_tokens=6)
    path = tmp_path / "net.safetensors"
    checkpoint.save(path, net, [str(i) for i in range(71)], {"step": 3})
    other, header = checkpoint.load(path)
    assert other.settings == net.settings
    assert header["step"] == 3
    image, audio = inputs()
    with torch.no_grad():
        assert torch.equal(other(image, audio).sounding_logit, net(image, audio).sounding_logit)
    assert [item.name for item in tmp_path.iterdir()] == ["net.safetensors"]
