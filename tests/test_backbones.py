"""Backbones, audio front ends and deformable attention against independent implementations; published layouts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rt_avsac.errors import ModelError
from rt_avsac.model.deformable import NUM_HEADS, NUM_LEVELS, NUM_POINTS, DeformableAttention
from rt_avsac.model.efficientnet import EfficientNetLite0
from rt_avsac.model.log_mel import LogMel
from rt_avsac.model.pretrained import load_encoder
from rt_avsac.model.pvt_v2 import PvtV2
from rt_avsac.model.resnet import ResNet
from rt_avsac.model.vggish import Vggish
from rt_avsac.model.yamnet import SameConv, YamNet

DEPTHS = (2, 1, 2, 1)


pytestmark = pytest.mark.usefixtures("one_thread")


def shake(module: nn.Module, seed: int = 0) -> None:
    """Random values everywhere, norms and statistics included, so that no swapped pair goes unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                scale = 0.5 * (value[0].numel() if value.ndim > 1 else 100) ** -0.5
                start = 1.0 if value.ndim < 2 and not name.endswith(("bias", "mean")) else 0.0
                value.copy_(start + scale * torch.randn(value.shape, generator=generator))


def picture(side: int = 64) -> tuple[Tensor, Tensor]:
    """An image in [0, 255], and as ImageNet's networks want it."""
    image = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 255.0
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return image, (image / 255.0 - mean[:, None, None]) / std[:, None, None]


def authors_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' PvtV2 names → those of the authors' files."""
    names = {
        "patch_embedding.layer_norm": "patch_embedding.norm",
        "layer_norm_1": "norm1",
        "layer_norm_2": "norm2",
        "attention.layer_norm": "attn.norm",
        "attention.spatial_reduction": "attn.sr",
        "attention.query": "attn.q",
        "attention.proj": "attn.proj",
        "dense1": "fc1",
        "dense2": "fc2",
    }
    out = {}
    for key, value in state.items():
        stage, rest = re.fullmatch(r"encoder\.layers\.(\d)\.(.+)", key).groups()  # type: ignore[union-attr]
        number = int(stage) + 1
        if ".attention.value." in rest:
            continue
        if ".attention.key." in rest:
            value = torch.cat([value, state[key.replace("key", "value")]])
            rest = rest.replace("attention.key", "attn.kv")
        for theirs, ours in names.items():
            rest = rest.replace(theirs, ours)
        rest = rest.replace("patch_embedding.", f"patch_embed{number}.").replace("blocks.", f"block{number}.")
        out[re.sub(r"^layer_norm\.", f"norm{number}.", rest)] = value
    return out


def timm_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for key, value in state.items():
        key = key.replace("patch_embed1.", "patch_embed.").replace("dwconv.dwconv", "dwconv")
        for number in (2, 3, 4):
            key = key.replace(f"patch_embed{number}.", f"stages.{number - 1}.downsample.")
        for number in (1, 2, 3, 4):
            key = re.sub(rf"^block{number}\.", f"stages.{number - 1}.blocks.", key)
            key = re.sub(rf"^norm{number}\.", f"stages.{number - 1}.norm.", key)
        out[key] = value
    return out


def test_pvt_v2_equals_transformers(tmp_path: Path) -> None:
    from transformers import PvtV2Backbone, PvtV2Config

    config = PvtV2Config(  # type: ignore[call-arg]
        depths=list(DEPTHS),
        hidden_sizes=[64, 128, 320, 512],
        num_attention_heads=[1, 2, 5, 8],
        sr_ratios=[8, 4, 2, 1],
        mlp_ratios=[4, 4, 4, 4],
        qkv_bias=True,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    reference: Any = PvtV2Backbone(config).eval()
    for name, module in reference.named_modules():
        if name.endswith(("patch_embedding.layer_norm", "attention.layer_norm")):
            module.eps = 1e-5  # as in the authors' code, where only the blocks' norms have 1e-6
    shake(reference)
    published = authors_layout(reference.state_dict())
    torch.save(published | {"head.weight": torch.zeros(1000, 512), "head.bias": torch.zeros(1000)}, tmp_path / "a.pth")
    torch.save({"state_dict": timm_layout(published)}, tmp_path / "timm.pth")
    image, normalised = picture()
    with torch.no_grad():
        wanted = reference(normalised).feature_maps
    for name in ("a.pth", "timm.pth"):
        net = PvtV2(DEPTHS).eval()
        load_encoder(net, tmp_path / name)
        with torch.no_grad():
            levels = net(net.norm(image))
        for level, want in zip(levels, wanted, strict=True):
            assert level.std() > 0.3
            torch.testing.assert_close(level, want, atol=2e-5, rtol=1e-4)


def test_resnet_equals_transformers(tmp_path: Path) -> None:
    from transformers import ResNetBackbone, ResNetConfig

    config = ResNetConfig(  # type: ignore[call-arg]
        embedding_size=64,
        hidden_sizes=[256, 512, 1024, 2048],
        depths=list(DEPTHS),
        layer_type="bottleneck",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    reference: Any = ResNetBackbone(config).eval()
    shake(reference)
    published = {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    for key, value in reference.state_dict().items():
        if "num_batches" in key:
            continue  # old files have none
        key = key.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
        key = re.sub(r"encoder\.stages\.(\d)\.layers", lambda m: f"layer{int(m[1]) + 1}", key)
        key = key.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")
        key = re.sub(r"layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}", key)
        key = re.sub(r"layer\.(\d)\.normalization", lambda m: f"bn{int(m[1]) + 1}", key)
        published[key] = value
    torch.save(published, tmp_path / "resnet.pth")
    net = ResNet(DEPTHS).eval()
    load_encoder(net, tmp_path / "resnet.pth")
    image, normalised = picture()
    with torch.no_grad():
        for level, want in zip(net(net.norm(image)), reference(normalised).feature_maps, strict=True):
            assert level.std() > 1e-3
            torch.testing.assert_close(level, want, atol=1e-5, rtol=1e-4)


def test_lite0_equals_its_published_description(tmp_path: Path) -> None:
    """The published network, block by block from its own keys and functional calls alone."""
    net = EfficientNetLite0().eval()
    shake(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.mul_(12.0)  # so that ReLU6 has something to cut
    numbered = [f"stages.{stage}.{index}" for stage, blocks in enumerate(net.stages) for index in range(len(blocks))]  # type: ignore[arg-type]
    published = {"_fc.weight": torch.zeros(1000, 1280), "_conv_head.weight": torch.zeros(1280, 320, 1, 1)}
    for key, value in net.state_dict().items():
        for number, prefix in enumerate(numbered):
            key = key.replace(f"{prefix}.", f"_blocks.{number}.")
        expands = ".expand." in key
        key = key.replace("stem.0", "_conv_stem").replace("stem.1", "_bn0")
        key = key.replace("expand.0", "_expand_conv").replace("expand.1", "_bn0") if expands else key
        key = key.replace("depthwise.0", "_depthwise_conv").replace("depthwise.1", "_bn1")
        published[key.replace("project.0", "_project_conv").replace("project.1", "_bn2")] = value
    torch.save(published, tmp_path / "lite0.pth")

    def conv(x: Tensor, name: str, norm: str, **kwargs: Any) -> Tensor:
        x = F.conv2d(x, published[f"{name}.weight"], **kwargs)
        mean, var = published[f"{norm}.running_mean"], published[f"{norm}.running_var"]
        return F.batch_norm(x, mean, var, published[f"{norm}.weight"], published[f"{norm}.bias"], eps=1e-3)

    image, _ = picture()
    x = F.relu6(conv((image - 127.0) / 128.0, "_conv_stem", "_bn0", stride=2, padding=1))
    assert (x == 6.0).any()
    kernels = [3] + [3] * 2 + [5] * 2 + [3] * 3 + [5] * 3 + [5] * 4 + [3]
    wanted = []
    for number, kernel in enumerate(kernels):
        block, y = f"_blocks.{number}", x
        if f"{block}._expand_conv.weight" in published:
            y = F.relu6(conv(y, f"{block}._expand_conv", f"{block}._bn0"))
        stride = 2 if number in (1, 3, 5, 11) else 1
        y = F.relu6(
            conv(y, f"{block}._depthwise_conv", f"{block}._bn1", stride=stride, padding=kernel // 2, groups=y.shape[1])
        )
        y = conv(y, f"{block}._project_conv", f"{block}._bn2")
        x = x + y if x.shape == y.shape else y
        if number in (2, 4, 10, 15):
            wanted.append(x)
    other = EfficientNetLite0().eval()
    load_encoder(other, tmp_path / "lite0.pth")
    with torch.no_grad():
        for level, want in zip(other(other.norm(image)), wanted, strict=True):
            torch.testing.assert_close(level, want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("make", "millions"), [(PvtV2, 81.44), (ResNet, 23.51), (Vggish, 72.14)])
def test_published_parameter_counts(make: type[nn.Module], millions: float) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in make().parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_pvt_v2_drops_paths_in_training_only() -> None:
    net = PvtV2((1, 1, 1, 1), drop_path=0.9)
    image, _ = picture(32)
    torch.manual_seed(0)
    with torch.no_grad():
        first, second = net(image)[3], net(image)[3]
        assert not torch.equal(first, second)
        net.eval()
        torch.testing.assert_close(net(image)[3], net(image)[3])


def reference_log_mel(audio: np.ndarray, offset: float) -> np.ndarray:
    """float64 [96, 64] by scipy: 25 ms periodic Hann, 10 ms hop, 512 points, 64 HTK bands 125–7500 Hz."""
    hann = scipy.signal.get_window("hann", 400, fftbins=True)
    frames = np.stack([audio[start : start + 400] for start in range(0, len(audio) - 399, 160)]) * hann
    spectrum = np.abs(scipy.fft.rfft(frames, 512, axis=1))
    edges_mel = np.linspace(1127.0 * np.log(1 + 125.0 / 700.0), 1127.0 * np.log(1 + 7500.0 / 700.0), 66)
    mel = np.zeros((len(frames), 64))
    for k in range(1, 257):
        bin_mel = 1127.0 * np.log(1 + k * 16_000 / 512 / 700.0)
        for band in range(64):
            low, center, high = edges_mel[band : band + 3]
            weight = min((bin_mel - low) / (center - low), (high - bin_mel) / (high - center))
            mel[:, band] += max(weight, 0.0) * spectrum[:, k]
    return np.log(mel + offset)


def sound(seed: int = 3) -> np.ndarray:
    """A second of tones and noise, float32 [15600]."""
    rng = np.random.default_rng(seed)
    time = np.arange(15_600) / 16_000
    tones = sum(np.sin(2 * np.pi * hz * time + rng.uniform(0, 6)) for hz in (180, 950, 3200))
    return (0.2 * tones + 0.02 * rng.standard_normal(15_600)).astype(np.float32)


@pytest.mark.parametrize("offset", [0.001, 0.01])  # YAMNet's, VGGish's
def test_log_mel_equals_scipy(offset: float) -> None:
    audio = sound()
    got = LogMel(offset)(torch.from_numpy(audio)[None])[0, 0].numpy()
    assert got.shape == (96, 64)
    np.testing.assert_allclose(got, reference_log_mel(audio.astype(np.float64), offset), atol=2e-3)


def test_log_mel_is_not_computed_in_half_precision() -> None:
    audio = 0.1 * torch.randn(1, 15_600, generator=torch.Generator().manual_seed(1))
    plain = LogMel(0.001)(audio)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(LogMel(0.001)(audio.bfloat16().float()), LogMel(0.001)(audio.bfloat16()))
        assert torch.equal(LogMel(0.001)(audio), plain)


def test_yamnet_pads_as_tensorflow() -> None:
    """ "same" at stride 2 on even sizes: the window starts on the first pixel, and one row is missing at the end."""
    conv = SameConv(1, 1, 3, 2)
    shake(conv)
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    padded = np.pad(x, ((0, 1), (0, 1)))
    kernel, bias = conv.weight.detach().numpy()[0, 0], conv.bias.item()  # type: ignore[union-attr]
    want = scipy.signal.correlate2d(padded, kernel, "valid")[::2, ::2] + bias
    np.testing.assert_allclose(conv(torch.from_numpy(x)[None, None])[0, 0].detach().numpy(), want, atol=1e-5)


def test_vggish_equals_numpy(tmp_path: Path) -> None:
    """Front end, layer order and the channels-last reading of the cells, in numpy and scipy alone."""
    net = Vggish().eval()
    shake(net)
    torch.save({**net.state_dict(), "pproc.pca_means": torch.zeros(128, 1)}, tmp_path / "vggish.pth")
    weights = {key: value.numpy() for key, value in net.state_dict().items()}
    audio = sound()
    x = reference_log_mel(audio.astype(np.float64), 0.01)[None].astype(np.float32)  # [1, 96, 64]
    for index in (0, 3, 6, 8, 11, 13):
        columns = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), axis=(1, 2))
        x = np.tensordot(weights[f"features.{index}.weight"], columns, axes=([1, 2, 3], [0, 3, 4]))
        x = np.maximum(x + weights[f"features.{index}.bias"][:, None, None], 0.0)
        if index not in (6, 11):
            x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).max(axis=(2, 4))
    cells = x
    flat = cells.transpose(1, 2, 0).ravel()  # time, frequency, channel
    for index in (0, 2, 4):
        flat = np.maximum(weights[f"embeddings.{index}.weight"] @ flat + weights[f"embeddings.{index}.bias"], 0.0)
    load_encoder(net, tmp_path / "vggish.pth")
    with torch.no_grad():
        got = net(torch.from_numpy(audio)[None])
        from_patch = net(net.log_mel(torch.from_numpy(audio)[None]))
        np.testing.assert_allclose(got[0].numpy(), cells, atol=2e-3 * cells.max())
        np.testing.assert_allclose(net.summary(got)[0].numpy(), flat, atol=2e-3 * flat.max())
    assert flat.max() > 0
    assert torch.equal(got, from_patch)
    with pytest.raises(ModelError, match=r"asked \[1, 96, 64\], got \[1, 95, 64\]"):
        net(torch.zeros(1, 1, 95, 64))
    with pytest.raises(ModelError, match="log-mel patches are for VGGish"):
        YamNet()(torch.zeros(1, 1, 96, 64))


def slow_deformable(net: DeformableAttention, queries: np.ndarray, values: np.ndarray, sizes: list[Any]) -> np.ndarray:
    """The paper's formula, one token, head, level and point at a time."""

    def linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
        return x @ layer.weight.detach().numpy().astype(float).T + layer.bias.detach().numpy()

    length, dim = queries.shape
    width_of_head = dim // NUM_HEADS
    value = linear(net.value, values).reshape(length, NUM_HEADS, width_of_head)
    offset = linear(net.offset, queries).reshape(length, NUM_HEADS, NUM_LEVELS, NUM_POINTS, 2)
    weight = linear(net.weight, queries).reshape(length, NUM_HEADS, NUM_LEVELS * NUM_POINTS)
    weight = np.exp(weight) / np.exp(weight).sum(axis=2, keepdims=True)
    centers = [((c + 0.5) / w, (r + 0.5) / h) for h, w in sizes for r in range(h) for c in range(w)]
    starts = np.cumsum([0] + [h * w for h, w in sizes])
    out = np.zeros((length, NUM_HEADS, width_of_head))
    for token, (x0, y0) in enumerate(centers):
        for head in range(NUM_HEADS):
            for level, (height, width) in enumerate(sizes):
                for point in range(NUM_POINTS):
                    dx, dy = offset[token, head, level, point]
                    x, y = x0 * width + dx - 0.5, y0 * height + dy - 0.5  # in pixels, centres at whole numbers
                    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
                        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
                            if 0 <= row < height and 0 <= column < width:
                                share = (1 - abs(x - column)) * (1 - abs(y - row))
                                share *= weight[token, head, level * NUM_POINTS + point]
                                out[token, head] += share * value[starts[level] + row * width + column, head]
    return linear(net.out, out.reshape(length, dim))


def test_deformable_attention_equals_a_slow_loop() -> None:
    dim, sizes = 16, [(6, 4), (3, 2), (2, 1)]
    net = DeformableAttention(dim)
    shake(net)
    with torch.no_grad():
        net.offset.weight.mul_(8.0)  # some points fall outside
    length = sum(h * w for h, w in sizes)
    rng = np.random.default_rng(0)
    queries, values = rng.standard_normal((2, 2, length, dim)).astype(np.float32)
    with torch.no_grad():
        got = net(torch.from_numpy(queries), torch.from_numpy(values), sizes).numpy()
    for b in range(2):
        np.testing.assert_allclose(got[b], slow_deformable(net, queries[b], values[b], sizes), atol=1e-5)


def test_a_wrong_file_names_its_first_odd_key(tmp_path: Path) -> None:
    torch.save(ResNet((1, 1, 1, 1)).state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ModelError, match=r"YAMNet weights .*resnet\.pth: not this network's file: 54 of 54 .*'conv1"):
        load_encoder(YamNet(), tmp_path / "resnet.pth")
    torch.save(ResNet((2, 1, 1, 1)).state_dict(), tmp_path / "deeper.pth")
    with pytest.raises(ModelError, match=r"0 of \d+ tensors missing, 18 unknown, 0 .* 'layer1\.1\.conv1\.weight'"):
        load_encoder(ResNet((1, 1, 1, 1)), tmp_path / "deeper.pth")
    state = ResNet((1, 1, 1, 1)).state_dict()
    state["layer4.0.conv3.weight"] = torch.zeros(8, 512, 1, 1)
    torch.save(state, tmp_path / "resnet.pth")
    with pytest.raises(ModelError, match=r"'layer4.0.conv3.weight': asked \[2048, 512, 1, 1\], got \[8, 512, 1, 1\]"):
        load_encoder(ResNet((1, 1, 1, 1)), tmp_path / "resnet.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None, "object", []])
def test_what_is_no_file_of_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "object":
        torch.save({"model": Path("/")}, path)  # would run code on unpickling
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ModelError, match="YAMNet weights") as caught:
        load_encoder(YamNet(), path)
    assert "\n" not in str(caught.value)
