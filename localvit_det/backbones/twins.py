"""Twins (arXiv:2104.13840; official code: Meituan-AutoML/Twins): attention to a subsampled map, and in windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import (
    Block,
    Fusible,
    PatchEmbed,
    WindowAttention,
    build_norm,
    init_trunc_normal,
    pad_to_multiple,
    split_heads,
)
from ..ops import DepthwiseConv2d, kernel_attention, recomputed
from .base import AttentionViT
from .family import Release, for_each_stage

_DRIVE = "https://drive.google.com/file/d"
_COPIES = "https://download.openmmlab.com/mmclassification/v0/twins"  # MMPretrain's, in its own layout


def _release(top1: float, file: str, net: str, batch: str, copy: str) -> Release:
    address = f"{_COPIES}/twins-{net}_3rdparty_{batch}_in1k_20220126-{copy}.pth"
    return Release(f"{_DRIVE}/{file}/view?usp=sharing", address, top1=top1)


class SubsampledAttention(Fusible):
    """Multi-head attention of all tokens to a feature map that a strided convolution made smaller.

    "Spatial reduction attention" in PVT, "global sub-sampled attention" in Twins. Our reading: where ``ratio`` does not
    divide a side, the convolution sees zeros beyond the border, as in the patch embeddings, so that every token is
    looked at. The official code leaves the rest out, and cannot run feature maps smaller than ``ratio``.

    Args:
        channels: Channels in and out.
        num_heads: Attention heads; divides ``channels``.
        ratio: Side and stride of the convolution, in tokens; 1 for none.
        qkv_bias: Whether query, key and value have a bias.
        attn_drop_rate: Dropout on the attention weights.
        drop_rate: Dropout on the output.

    Raises:
        ValueError: If ``num_heads`` does not divide ``channels``.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        ratio: int,
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide {channels} channels.")
        self.num_heads = num_heads
        self.ratio = ratio
        self.attn_drop_rate = attn_drop_rate
        self.query = nn.Conv2d(channels, channels, 1, bias=qkv_bias)
        self.key_value = nn.Conv2d(channels, 2 * channels, 1, bias=qkv_bias)
        self.proj = nn.Conv2d(channels, channels, 1)
        self.proj_drop = nn.Dropout(drop_rate)
        self.reset_parameters()
        self.reduce: nn.Module
        self.norm: nn.Module
        if ratio > 1:
            self.reduce = nn.Conv2d(channels, channels, ratio, stride=ratio)
            self.norm = build_norm({"type": "LN2d"}, channels)
        else:
            self.reduce, self.norm = nn.Identity(), nn.Identity()

    def reset_parameters(self) -> None:
        """Initialise the 1×1 convolutions anew."""
        init_trunc_normal(self.query, self.key_value, self.proj)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        reduced = self.reduce(pad_to_multiple(x, self.ratio))  # B, C, ⌈H/r⌉, ⌈W/r⌉
        pair = recomputed(self.norm, self.key_value, reduced)  # B, 2C, ⌈H/r⌉, ⌈W/r⌉
        # H·W tokens of each image, views in channels-last memory; heads become B, heads, H·W, d:
        (query,), (key, value) = (
            split_heads(y.permute(0, 2, 3, 1).flatten(1, 2), self.num_heads, parts)
            for y, parts in ((self.query(x), 1), (pair, 2))
        )
        drop_rate = self.attn_drop_rate if self.training else 0.0
        mixed = kernel_attention(query, key, value, drop_rate=drop_rate)  # B, heads, H·W, d
        mixed = mixed.transpose(1, 2).flatten(2).unflatten(1, x.shape[2:])  # -> B, H·W, C -> B, H, W, C
        return self.proj_drop(self.proj(mixed.permute(0, 3, 1, 2)))


class PositionBlock(Block):
    """A block whose result passes a depth-wise convolution: the only place where Twins knows positions.

    The "position encoding generator" of CPVT (arXiv:2102.10882): the zeros beyond the border show a token where it is.
    """

    def __init__(self, channels: int, **branches: Any) -> None:
        super().__init__(**branches)
        self.position = DepthwiseConv2d(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = super().forward(x)
        return x + self.position(x)


class Twins(AttentionViT):
    """What both kinds of Twins share, which end their constructors with :meth:`build`.

    Takes all arguments of :class:`AttentionViT`, and those below.

    Args:
        arch: 'small', 'base', 'large' or a dict with embed_dims, depths, num_heads and drop_path_rate. Its rates are
            those of the classifiers; the official detectors have 0.2 in all sizes, and so have the configs here.
        sr_ratios: Tokens per side that become one in the feature map that tokens attend to, per stage.
    """

    title: ClassVar = "Twins"
    paper: ClassVar = (
        "Twins: Revisiting the Design of Spatial Attention in Vision Transformers",
        "https://arxiv.org/abs/2104.13840",
    )
    joint_weights: ClassVar = ((r"\.attn\.attn\.in_proj_(weight|bias)$", ((r".attn.q.\1", 1), (r".attn.kv.\1", 2))),)
    official_layout: ClassVar = (
        (r"^head\.|^norm\.|^norm_after_stage3\.", None),  # of the classifier
        # MMPretrain's and MMSegmentation's names, where they have others
        (r"^(patch_embeds\.\d)\.projection\.", r"\1.proj."),
        (r"^(?:stages|layers)\.(\d)\.(\d+)\.", r"blocks.\1.\2."),
        (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
        (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
        (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
        (r"^position_encodings\.(\d)\.proj\.", r"pos_block.\1.proj.0."),
        # and the official ones, which are timm's, too
        (r"^patch_embeds\.0\.", "stem."),
        (r"^patch_embeds\.(\d)\.", r"stages.\1.downsample."),
        (r"^blocks\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
        (r"^pos_block\.(\d)\.proj\.0\.", r"stages.\1.blocks.0.position."),
        (r"^norm_list\.(\d)\.", r"out_norms.\1."),
        (r"\.attn\.q\.", ".mixer.query."),
        (r"\.attn\.kv\.", ".mixer.key_value."),
        (r"\.attn\.sr\.", ".mixer.reduce."),
        (r"\.attn\.", ".mixer."),
    )
    # The patch embeddings and the norms inside attention keep PyTorch's epsilon, as in the official code.
    default_norm_cfg: ClassVar = {"type": "LN2d", "eps": 1e-6}

    no_weight_decay_keywords = (".position.",)

    def __init__(
        self,
        arch: str | dict = "small",
        *,
        sr_ratios: Sequence[int] | int = (8, 4, 2, 1),
        **common: Any,
    ) -> None:
        super().__init__(arch, **common)
        self.sr_ratios = for_each_stage("sr_ratios", sr_ratios, len(self.depths))

    def reset_parameters(self) -> None:
        """Initialise convolutions over neighbours by their fan-out, as the official code does."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
                height, width = module.kernel_size
                fan_out = height * width * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def make_downsample(self, stage: int) -> nn.Module:
        """Make patches of 2×2 tokens and a norm: (B, C, H, W) -> (B, C', ⌈H/2⌉, ⌈W/2⌉)."""
        return PatchEmbed(self.channels[stage - 1], self.channels[stage], patch_size=2)

    def make_block(self, stage: int, index: int, drop_path_rate: float) -> nn.Module:
        """Make a block, (B, C, H, W) -> (B, C, H, W); the first one of each stage encodes positions."""
        branches = self.make_branches(stage, index, drop_path_rate)
        return Block(**branches) if index else PositionBlock(self.channels[stage], **branches)

    def make_mixer(self, channels: int, stage: int, index: int) -> nn.Module:
        """Make attention to the subsampled feature map: (B, C, H, W) -> (B, C, H, W)."""
        return SubsampledAttention(channels, self.num_heads[stage], self.sr_ratios[stage], **self.attention)


@MODELS.register_module()
class TwinsPCPVT(Twins):
    """Twins-PCPVT: PVT with conditional positions; every block attends to the subsampled feature map.

    Arguments as in :class:`Twins`. There are no windows, so ``window_size`` changes nothing. As published, the returned
    feature maps have no norms; ``out_norm_cfg='default'`` gives them some.
    """

    short_name: ClassVar = "pcpvt"
    arch_settings: ClassVar = {
        size: {
            "embed_dims": (64, 128, 320, 512),
            "depths": depths,
            "num_heads": (1, 2, 5, 8),
            "mlp_ratio": (8, 8, 4, 4),
            "drop_path_rate": rate,
        }
        for size, depths, rate in (
            ("small", (3, 4, 6, 3), 0.2),
            ("base", (3, 4, 18, 3), 0.3),
            ("large", (3, 8, 27, 3), 0.5),
        )
    }
    releases: ClassVar = {
        "small": _release(81.2, "1TWIx_8M-4y6UOKtbCgm1v-UVQ-_lYe6X", "pcpvt-small", "8xb128", "ef23c132"),
        "base": _release(82.7, "1BsD3ZRivvPsHoZB1AX-tbirFLtCln8ky", "pcpvt-base", "8xb128", "f8c4b0d5"),
        "large": _release(83.1, "17xZXOWEcSGs0quBmMEkBYCxjPRYH-L45", "pcpvt-large", "16xb64", "c1ef8d80"),
    }

    def __init__(self, arch: str | dict = "small", out_norm_cfg: dict | str | None = None, **common: Any) -> None:
        super().__init__(arch, out_norm_cfg=out_norm_cfg, **common)
        self.build()


@MODELS.register_module()
class TwinsSVT(Twins):
    """Twins-SVT: attention in local windows and attention to the subsampled feature map, in turn.

    The output norms stand in the trunk, as in the official detection code: the next stage takes the normed feature map.
    With ``out_norm_cfg=None`` this is the classifier's trunk. Arguments as in :class:`Twins`, and those below.

    Args:
        arch: 'small', 'base', 'large' or a dict, as in :class:`Twins`.
        mask_padding: Whether tokens do not look at the padding of their window. The official code, and timm's, let
            them: switch it off to compute exactly the same at sizes that windows do not divide.
    """

    short_name: ClassVar = "svt"
    has_windows: ClassVar = True
    arch_settings: ClassVar = {
        "small": {"embed_dims": 64, "depths": (2, 2, 10, 4), "num_heads": (2, 4, 8, 16), "drop_path_rate": 0.2},
        "base": {"embed_dims": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24), "drop_path_rate": 0.3},
        "large": {"embed_dims": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32), "drop_path_rate": 0.5},
    }
    releases: ClassVar = {
        "small": _release(81.7, "131SVOphM_-SaBytf4kWjo3ony5hpOt4S", "svt-small", "8xb128", "8fe5205b"),
        "base": _release(83.2, "1s83To8xgDWY6Ad8VBP3Nx9gqY709rrGu", "svt-base", "8xb128", "e31cc8e9"),
        "large": _release(83.7, "1um39wxIaicmOquP2fr_SiZdxNCUou8w-", "svt-large", "16xb64", "4817645f"),
    }

    def __init__(self, arch: str | dict = "small", mask_padding: bool = True, **common: Any) -> None:
        super().__init__(arch, **common)
        self.mask_padding = mask_padding
        self.build()

    def normed_stages(self) -> Sequence[int]:
        """Return the stages that end in a norm: all that run."""
        return range(self.out_indices[-1] + 1)

    def end_stage(self, x: Tensor, stage: int) -> tuple[Tensor, Tensor]:
        """Return the normed feature map twice: for the next stage, and as an output."""
        _, normed = super().end_stage(x, stage)
        return normed, normed

    def make_mixer(self, channels: int, stage: int, index: int) -> nn.Module:
        """Make attention in windows (even blocks) or to the subsampled feature map: (B, C, H, W) -> (B, C, H, W)."""
        if index % 2:
            return super().make_mixer(channels, stage, index)
        return WindowAttention(
            channels,
            self.num_heads[stage],
            self.window_size,
            split="local",
            position_bias=False,
            mask_padding=self.mask_padding,
            **self.attention,
        )
