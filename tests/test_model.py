"""The network: the edge model's size, shapes and export; what each setting changes; the paper's parameter counts."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any

import pytest
import torch
from nets import VGGISH, inputs, make, make_paper, millions
from torch import Tensor

from rt_avsac.model.avsac import Avsac, Deployed
from rt_avsac.model.settings import ModelSettings

# every key, shape and type of the edge model's weights, in order: shipped and half-trained weights depend on it
EDGE_KEYS_SHA256 = "7cc09c9b0c6ce3dfcd90257fe10c4642852bc05270f95f46804930647e45fc8f"


pytestmark = pytest.mark.usefixtures("one_thread")


def test_edge_model_is_small_and_its_weights_keep_their_names() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net = Avsac(ModelSettings()).eval()
    assert millions(net) <= 12.0
    described = "\n".join(f"{key} {tuple(value.shape)} {value.dtype}" for key, value in net.state_dict().items())
    assert hashlib.sha256(described.encode()).hexdigest() == EDGE_KEYS_SHA256
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        Deployed(net)(torch.zeros(1, 224, 224, 3, dtype=torch.uint8), torch.zeros(1, 15_600))
    assert 0.5e9 < counter.get_total_flops() / 2 <= 2.5e9


def test_edge_shapes() -> None:
    net = make()
    image, audio = inputs()
    with torch.no_grad():
        seen, heard = net.see(image), net.hear(audio)
        decoded = net.decode(seen, heard)
        outputs = Deployed(net)(image[:1].permute(0, 2, 3, 1).byte(), audio[:1])
    assert seen.tokens.shape == decoded.f_agv.shape == (2, 16 + 4, 128)
    assert heard.queries.shape == decoded.f_vga.shape == (2, 24, 128)
    assert seen.class_logit is not None
    assert seen.class_logit.shape == (2, 29, 8, 8)
    assert decoded.sounding_logit.shape == (2, 1, 16, 16)
    assert decoded.mix_logit is decoded.auxiliary_logit is decoded.semantic_logit is None
    assert [tuple(output.shape) for output in outputs] == [(1, 64, 64), (1, 29, 16, 16), (1, 29)]
    sounding, of_class, of_audio = outputs
    with torch.no_grad():  # picture and all, it is the network's
        shown = net(image[:1].byte().float(), audio[:1]).sounding_logit
        wanted = torch.nn.functional.interpolate(shown, scale_factor=4.0, mode="bilinear").sigmoid()[:, 0]
    torch.testing.assert_close(sounding, wanted, atol=1e-5, rtol=1e-4)
    assert ((sounding > 0) & (sounding < 1)).all()
    torch.testing.assert_close(of_class.sum(dim=1), torch.ones(1, 16, 16))
    assert ((of_audio > 0) & (of_audio < 1)).all()


def test_other_picture_sizes_than_the_settings() -> None:
    """Training begins with smaller pictures; positions follow."""
    net = make()
    image, audio = inputs(side=96)
    with torch.no_grad():
        small = net(image, audio)
        at_home = Avsac(dataclasses.replace(net.settings, image_size=96)).eval()
        at_home.load_state_dict(net.state_dict())
        torch.testing.assert_close(small.sounding_logit, at_home(image, audio).sounding_logit)
    assert small.sounding_logit.shape == (2, 1, 24, 24)


@pytest.mark.parametrize("paper", [False, True])
def test_export_gives_the_same_numbers(paper: bool) -> None:
    net = make_paper() if paper else make()
    image, audio = inputs(batch=1)
    given = (image.permute(0, 2, 3, 1).byte(), audio)
    program = torch.export.export(Deployed(net), given)
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(name.startswith(("aten.", "<built-in function getitem")) for name in operators), operators
    with torch.no_grad():
        for got, want in zip(program.module()(*given), Deployed(net)(*given), strict=True):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_pictures_of_a_batch_do_not_mix() -> None:
    net = make()
    image, audio = inputs(batch=3)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        torch.testing.assert_close(
            net(image[order], audio[order]).sounding_logit,
            net(image, audio).sounding_logit[order],
            atol=1e-4,
            rtol=1e-4,
        )


def test_sound_changes_the_mask_and_silence_is_finite() -> None:
    net = make()
    image, audio = inputs()
    with torch.no_grad():
        seen = net.see(image)
        logits = [net.decode(seen, net.hear(sound)).sounding_logit for sound in (audio, audio.flip(0), audio * 0)]
    assert all(logit.isfinite().all() for logit in logits)
    assert not torch.allclose(logits[0], logits[1], atol=1e-4)
    with torch.no_grad():
        silent = net.hear(audio * 0).queries
    torch.testing.assert_close(silent[0], silent[1])


def test_gradient_reaches_both_towers_and_both_encoders() -> None:
    net = make().train()
    image, audio = inputs(batch=4)
    net(image, audio).sounding_logit.square().mean().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in without if name.startswith("bavd.") and not name.endswith("key.bias")] == []
    for part in (net.backbone, net.audio_encoder, net.pixel_encoder):
        assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0


# ---- what each setting of BAVD changes ----


def towers(net: Avsac, shaken: str | None = None) -> tuple[Tensor, Tensor]:
    """F_VGA and F_AGV of random features, after changing the parameters whose name contains `shaken`."""
    generator = torch.Generator().manual_seed(4)
    queries, tokens, position = (torch.randn(2, n, 128, generator=generator) for n in (24, 20, 20))
    with torch.no_grad():
        for name, parameter in net.bavd.named_parameters():
            if shaken is not None and shaken in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        return net.bavd(queries, tokens, position[:1])  # type: ignore[no-any-return]


def changed(net_settings: dict[str, Any], shaken: str) -> tuple[bool, bool]:
    """Whether F_VGA, F_AGV notice a change of these parameters."""
    before, after = towers(make(**net_settings)), towers(make(**net_settings), shaken)
    return tuple(not torch.allclose(a, b, atol=1e-4) for a, b in zip(before, after, strict=True))  # type: ignore[return-value]


def test_bridges() -> None:
    """Each tower hears of the other's layers through its bridge only."""
    assert changed({}, "query_self") == (True, True)
    assert changed({"audio_to_vision": False}, "query_self") == (True, False)
    assert changed({}, "token_cross") == (True, True)
    assert changed({"vision_to_audio": False}, "token_cross") == (False, True)
    alone = {"audio_to_vision": False, "vision_to_audio": False}
    assert changed(alone, "query_self") == (True, False)
    assert changed(alone, "token_cross") == (False, True)


def test_layers_are_updated_in_parallel() -> None:
    """One layer: the tokens read the queries as they came, so the query tower's weights cannot reach them."""
    assert changed({"num_layers": 1}, "query_self") == (True, False)


def test_order_of_queries_and_of_tokens_does_not_matter() -> None:
    net = make()
    queries, tokens, position = torch.randn(2, 24, 128), torch.randn(2, 20, 128), torch.randn(1, 20, 128)
    q, t = torch.randperm(24), torch.randperm(20)
    with torch.no_grad():
        f_vga, f_agv = net.bavd(queries, tokens, position)
        other_vga, other_agv = net.bavd(queries[:, q], tokens[:, t], position[:, t])
    torch.testing.assert_close(other_vga, f_vga[:, q], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(other_agv, f_agv[:, t], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("where", "on_queries", "on_tokens"),
    [("query", True, False), ("spatial", False, True), ("both", True, True), ("none", False, False)],
)
def test_self_attention_placement(where: str, on_queries: bool, on_tokens: bool) -> None:
    names = [name for name, _ in make(self_attention=where).bavd.named_parameters()]
    assert any("query_self." in name for name in names) == on_queries
    assert any("token_self." in name for name in names) == on_tokens
    if on_tokens:
        assert changed({"self_attention": where, "audio_to_vision": False}, "token_self.")[1]


def test_gates() -> None:
    gates = {name: p for name, p in make(gate_init=0.25).bavd.named_parameters() if "gate" in name}
    assert len(gates) == 2 * 3
    assert all(p.item() == 0.25 and p.requires_grad for p in gates.values())
    fixed = [p for name, p in make(gated=False).bavd.named_parameters() if "gate" in name]
    assert all(p.item() == 1.0 and not p.requires_grad for p in fixed)
    closed = make(gate_init=0.0)
    image, audio = inputs()
    with torch.no_grad():  # closed gates: the sound no longer reaches F_AGV
        seen = closed.see(image)
        first, second = (closed.decode(seen, closed.hear(sound)).f_agv for sound in (audio, audio.flip(0)))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_number_of_layers(num_layers: int) -> None:
    assert len(make(num_layers=num_layers).bavd.layers) == num_layers  # type: ignore[arg-type]


@pytest.mark.parametrize(("make_net", "grid"), [(make, 6), (functools.partial(make_paper, **VGGISH), 24)])
def test_audio_tokens(make_net: Any, grid: int) -> None:
    """Query i carries cell i mod audio_tokens; with one token, all carry the same."""
    _, audio = inputs()
    for num_tokens in (1, grid):
        net = make_net(audio_tokens=num_tokens)
        with torch.no_grad():
            carried = net.hear(audio).queries - net.queries
        for index in range(net.settings.num_queries):
            torch.testing.assert_close(carried[:, index], carried[:, index % num_tokens], atol=1e-5, rtol=1e-4)
        distinct = (carried[:, :1] - carried[:, 1:num_tokens]).abs().amax(dim=2)
        assert distinct.shape[1] == num_tokens - 1
        assert (distinct > 1e-6).all()


def test_vggish_tokens_carry_the_embedding_too() -> None:
    """`cell_projection` of each cell plus `audio_projection` of the 128-d embedding; log-mel patches give the same."""
    net = make_paper(**VGGISH)
    _, audio = inputs()
    with torch.no_grad():
        cells = net.audio_encoder(audio)
        embedding = net.audio_encoder.summary(cells)
        assert net.cell_projection is not None
        want = net.cell_projection(cells[:, :, 2, 1]) + net.audio_projection(embedding)
        got = net.hear(audio).queries - net.queries
        torch.testing.assert_close(got[:, 2 * 4 + 1], want, atol=1e-5, rtol=1e-4)
        assert torch.equal(net.hear(net.audio_encoder.log_mel(audio)).queries, net.hear(audio).queries)
        alone = make_paper(**(VGGISH | {"audio_tokens": 1}))
        assert alone.cell_projection is None
        want = alone.audio_projection(alone.audio_encoder.summary(alone.audio_encoder(audio)))
        torch.testing.assert_close((alone.hear(audio).queries - alone.queries)[:, 7], want, atol=1e-5, rtol=1e-4)


def test_class_match_is_the_probability_of_a_heard_class() -> None:
    net = make()
    image, audio = inputs()
    with torch.no_grad():
        seen, heard = net.see(image), net.hear(audio)
        of_pixel = torch.full((2, 29, 8, 8), -20.0)
        of_pixel[:, 3, :4] = 20.0  # class 3 above, class 5 below
        of_pixel[:, 5, 4:] = 20.0
        of_sound = torch.full((2, 29), -20.0)
        of_sound[:, 3] = 20.0
        match = net.match(seen._replace(class_logit=of_pixel), heard._replace(class_logit=of_sound))
    assert match.shape == (2, 1, 16, 16)
    torch.testing.assert_close(match[:, :, 0], torch.ones(2, 1, 16))
    torch.testing.assert_close(match[:, :, -1], -torch.ones(2, 1, 16))
    with_match, without = net.mlp[0], make(class_match=False).mlp[0]
    assert with_match.in_channels == without.in_channels + 1 == 25  # type: ignore[union-attr, operator]


def test_output_is_linear_of_feature_plus_mlp_of_product() -> None:
    """M = Linear(F_AGV + MLP(F_AGV · F_VGA)), the paper's output, step by step."""
    net = make(class_match=False)
    image, audio = inputs()
    with torch.no_grad():
        decoded = net(image, audio)
        feature, queries = decoded.mask_feature, net.query_projection(decoded.f_vga)
        product = torch.zeros(2, 24, 16, 16)
        for query in range(24):
            product[:, query] = (feature * queries[:, query, :, None, None]).sum(dim=1) / 8.0  # root of 64 channels
        torch.testing.assert_close(decoded.sounding_logit, net.head(feature + net.mlp(product)), atol=1e-5, rtol=1e-4)


# ---- the paper's parts ----
