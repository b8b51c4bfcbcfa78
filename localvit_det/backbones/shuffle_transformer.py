"""Shuffle Transformer (arXiv:2106.03650; official code: mulinmeng/Shuffle-Transformer)."""

from __future__ import annotations

from typing import Any, ClassVar

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import Block, ConvDownsample, ConvStem, WindowAttention, add, build_norm, init_trunc_normal
from ..ops import DepthwiseConv2d, recomputed
from .base import AttentionViT
from .family import Release, check_odd, drop_path_ramp, swin_sizes

_FOLDERS = "https://drive.google.com/drive/folders"


class ShuffleBlock(Block):
    """Attention, neighbour-window connection, MLP. Arguments as in :class:`Block`, and those of the convolution.

    The depth-wise convolution is as wide as a window, so every token sees across the borders of its own
    window (section 3.2, "neighbor-window connection"). The official code never drops that branch.
    """

    def __init__(self, channels: int, window_size: int, norm_cfg: dict, **branches: Any) -> None:
        super().__init__(**branches)
        self.norm_local = build_norm(norm_cfg, channels)
        self.local = DepthwiseConv2d(channels, window_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = add(x, recomputed(self.norm1, self.mixer, x), self.drop_path)
        x = x + recomputed(self.norm_local, self.local, x)
        return add(x, recomputed(self.norm2, self.mlp, x), self.drop_path)


@MODELS.register_module()
class ShuffleTransformer(AttentionViT):
    """Windows of neighbours and windows spread over the feature map, in turn.

    Every even block attends among neighbours, every odd one among tokens shuffled over the whole feature
    map. Takes all arguments of :class:`AttentionViT`, and those below.

    Deviations from the official code: feature maps of any size (it needs multiples of 32·``window_size``), padded
    tokens masked out; ``attn_drop_rate`` is applied (it is ignored there); output norms, which its classifier lacks
    (``out_norm_cfg=None`` leaves them out).

    Args:
        arch: 'tiny', 'small', 'base' or a dict with embed_dims, depths, num_heads and drop_path_rate.
        qkv_bias: Whether query, key and value have a bias. (The official code has a switch of that name which only
            gives the depth-wise convolution its bias; the published models have that bias, and so have ours.)
    """

    title: ClassVar = "Shuffle Transformer"
    short_name: ClassVar = "shuffle"
    has_windows: ClassVar = True
    paper: ClassVar = (
        "Shuffle Transformer: Rethinking Spatial Shuffle for Vision Transformer",
        "https://arxiv.org/abs/2106.03650",
    )
    arch_settings: ClassVar = swin_sizes(tiny=0.1, small=0.3, base=0.5)  # drop path rates
    releases: ClassVar = {
        "tiny": Release(f"{_FOLDERS}/1goDJtcnxgBAcHhZnNwrgOlG_WBftpmOS?usp=sharing", top1=82.4),
        "small": Release(f"{_FOLDERS}/1GUBBQyDldY145vDiK-BHqivmpj3K6HK2?usp=sharing", top1=83.6),
        "base": Release(f"{_FOLDERS}/1x0biaJRdN4nxLmp_3lQcA_6hO_sDBoUM?usp=sharing", top1=84.0),
    }
    official_layout: ClassVar = (
        (r"^head\.|relative_position_index$", None),
        (r"^to_token\.conv(\d)\.0\.", r"stem.conv\1."),
        (r"^to_token\.conv(\d)\.1\.", r"stem.norm\1."),
        (r"^to_token\.", "stem."),
        (r"^stage(\d)\.patch_partition\.", lambda m: f"stages.{int(m[1]) - 1}.downsample."),
        (
            r"^stage(\d)\.layers\.(\d+)\.(\d)\.",  # pairs of blocks
            lambda m: f"stages.{int(m[1]) - 1}.blocks.{2 * int(m[2]) + int(m[3])}.",
        ),
        (r"(blocks\.\d+)\.norm2\.", r"\1.norm_local."),
        (r"(blocks\.\d+)\.norm3\.", r"\1.norm2."),
        (r"\.attn\.to_qkv\.", ".mixer.qkv."),
        (r"\.attn\.", ".mixer."),
    )
    resizable_weights: ClassVar = (*AttentionViT.resizable_weights, (r"\.local\.weight$", "kernel"))
    classifier_norm: ClassVar = False
    default_act_cfg: ClassVar = {"type": "ReLU6"}
    stem_channels: ClassVar = 32  # also in the base size

    def __init__(self, arch: str | dict = "tiny", *, qkv_bias: bool = False, **common: Any) -> None:
        super().__init__(arch, qkv_bias=qkv_bias, **common)
        check_odd("window_size", self.window_size)
        self.build()

    def reset_parameters(self) -> None:
        """Initialise all convolutions alike."""
        super().reset_parameters()
        init_trunc_normal(*(module for module in self.modules() if isinstance(module, nn.Conv2d)))

    def drop_path_rates(self) -> list[list[float]]:
        """Return rates that are constant inside a stage and rise from stage to stage: the official schedule."""
        rates = drop_path_ramp(self.drop_path_rate, len(self.depths))
        return [[rate] * depth for rate, depth in zip(rates, self.depths, strict=True)]

    def make_stem(self) -> nn.Module:
        """Make two strided convolutions: (B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉)."""
        return ConvStem(self.in_channels, self.stem_channels, self.embed_dims, self.norm_cfg, self.act_cfg)

    def make_downsample(self, stage: int) -> nn.Module:
        """Make a norm and a strided convolution: (B, C, H, W) -> (B, C', ⌈H/2⌉, ⌈W/2⌉)."""
        return ConvDownsample(self.channels[stage - 1], self.channels[stage], self.norm_cfg)

    def make_block(self, stage: int, index: int, drop_path_rate: float) -> nn.Module:
        """Make a block of three branches instead of two: (B, C, H, W) -> (B, C, H, W)."""
        branches = self.make_branches(stage, index, drop_path_rate)
        return ShuffleBlock(self.channels[stage], self.window_size, self.norm_cfg, **branches)

    def make_mixer(self, channels: int, stage: int, index: int) -> nn.Module:
        """Make window attention, in every second block on shuffled windows: (B, C, H, W) -> (B, C, H, W)."""
        return WindowAttention(
            channels,
            self.num_heads[stage],
            self.window_size,
            split="dilated" if index % 2 else "local",
            **self.attention,
        )
