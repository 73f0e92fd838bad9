"""ModelSettings: every choice of the network, as plain values that travel inside the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SAMPLE_RATE_HZ = 16_000
NUM_AUDIO_SAMPLES = 15_600  # 96 hops of 10 ms + one 25 ms window: the 0.975 s that end at the frame


@dataclass(frozen=True)
class ModelSettings:
    """Defaults are the edge model; `configs/` lists what the paper's models change.

    `(paper)` marks what arXiv 2402.02327 fixes, `(choice)` what it leaves open.
    """

    name: str = "avsac-edge"
    image_size: int = 224
    num_classes: int = 29  # background included; 1 = binary mask only, no class map
    # sounding: one mask; with classes, also a class map of the picture and the classes heard, as heads of their own.
    # semantic: the mask itself has num_classes channels (AVSS)
    output: Literal["sounding", "semantic"] = "sounding"
    backbone: Literal["efficientnet_lite0", "pvt_v2_b5", "resnet50"] = "efficientnet_lite0"
    drop_path: float = 0.0  # pvt_v2_b5 only: stochastic depth of its last block, in training
    audio_encoder: Literal["yamnet", "vggish"] = "yamnet"
    pixel_encoder: Literal["fpn", "deformable"] = "fpn"
    pixel_encoder_layers: int = 6  # deformable only
    pixel_encoder_ffn_dim: int = 2048  # deformable only
    token_strides: tuple[int, ...] = (16, 32)  # picture levels whose cells are the decoder's visual tokens
    dim: int = 128
    mask_dim: int = 64  # channels of the mask feature at stride 4
    decoder: Literal["bavd", "one_way"] = "bavd"  # one_way: the AVSegFormer-style baseline
    generator_layers: int = 0  # one_way only: layers that turn the sound into queries; 0 = learned + audio, as in BAVD
    generator_ffn_dim: int = 1024  # one_way only
    num_layers: int = 3
    num_heads: int = 4
    ffn_dim: int = 256
    activation: Literal["relu", "gelu"] = "relu"  # in the feed-forward blocks
    dropout: float = 0.0  # in the decoder's and the pixel encoder's layers (baseline: 0.1)
    num_queries: int = 24
    audio_tokens: int = 6  # time-frequency cells that the queries share out; 1 = one pooled vector (choice)
    self_attention: Literal["query", "spatial", "both", "none"] = "query"  # (paper: more of it hurts)
    gated: bool = True  # a learned scalar w on each cross-attention (paper eq. 1 and 2)
    gate_init: float = 0.1  # (choice)
    audio_to_vision: bool = True  # bridge: the visual tower reads the audio tower's last layer, not its input
    vision_to_audio: bool = True  # bridge: the audio tower reads the visual tower's last layer, not its input
    mixer: bool = False  # the baseline's channel gate on the mask feature
    scaled_product: bool = True  # F_AGV · F_VGA over the root of the channels, as in attention (choice)
    mlp_dim: int = 64  # hidden width of the MLP behind F_AGV · F_VGA (paper: 2048)
    mlp_layers: int = 2  # (paper: 3)
    head: Literal["light", "full"] = "light"  # full: mask at the input's resolution (paper); light: at a quarter of it
    auxiliary_mask: bool = (
        False  # in training, a second mask from F_AGV alone (the baseline's unused layers, put to use)
    )
    class_match: bool = True  # add the map Σ_c P(pixel is c) P(c is heard) to the product (ours, edge)

    @property
    def has_class_heads(self) -> bool:
        """The picture's class map and the classes heard are outputs of their own."""
        return self.output == "sounding" and self.num_classes > 1

    @property
    def num_outputs(self) -> int:
        """Channels of the mask."""
        return self.num_classes if self.output == "semantic" else 1
