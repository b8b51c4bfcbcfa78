"""MSG-Transformer (arXiv:2105.15168, the form of CVPR 2022; official code: hustvl/MSG-Transformer)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import (
    Block,
    WindowAttention,
    WithMessengers,
    add_messenger_keys,
    add_scaled,
    build_norm,
    ceil_div,
    drop_scale,
    join_windows,
    key_padding_mask,
    pad_to_multiple,
    part_windows,
    shuffle_messengers,
    tile_messengers,
    trunc_normal_,
)
from ..ops import attention, lean
from .base import LocalViT


class MessengerStem(nn.Module):
    """A 7×7 convolution of stride 4 and a norm; beside its map the first messengers.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the map.
        window_size: Tokens per side of a window.
        region: Windows per side of a region; each place in it has a messenger of its own.
        norm_cfg: Norm after the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, window_size: int, region: int, norm_cfg: dict) -> None:
        super().__init__()
        self.window_size, self.region = window_size, region
        self.proj = nn.Conv2d(in_channels, out_channels, 7, stride=4, padding=2)
        self.norm = build_norm(norm_cfg, out_channels)
        tokens = torch.empty(1, region**2, 1, out_channels)  # the official shape
        self.messengers = nn.Parameter(trunc_normal_(tokens))

    def forward(self, x: Tensor) -> WithMessengers:
        """(B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉) and (B, C, hh, ww)."""
        # Padded by the stride: the convolution alone would round sizes down.
        return self.accompany(self.norm(self.proj(pad_to_multiple(x, 4))))

    def accompany(self, patches: Tensor) -> WithMessengers:
        """A map with the first messengers beside it."""
        rows, columns = (ceil_div(side, self.window_size) for side in patches.shape[-2:])
        return patches, tile_messengers(self.messengers, self.region, (rows, columns), patches.shape[0])


class MessengerDownsample(nn.Module):
    """A 3×3 convolution of stride 2 and a norm, the same for the map and for its messengers.

    ⌈⌈H/2⌉/ws⌉ = ⌈⌈H/ws⌉/2⌉: what comes out is again one messenger for each window.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        norm_cfg: Norm after the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = build_norm(norm_cfg, out_channels)

    def forward(self, x: WithMessengers) -> WithMessengers:
        """(B, C, H, W) -> (B, C', ⌈H/2⌉, ⌈W/2⌉), twice."""
        patches, messengers = (self.norm(self.reduction(part)) for part in x)
        return patches, messengers


class MessengerAttention(WindowAttention):
    """Attention among the tokens of each window and its messenger.

    The position bias of a messenger is one number per head for it as a key and one for it as a query.

    Args:
        channels: Channels in and out.
        num_heads: Attention heads.
        window_size: Side of a window, in tokens.
        attention: Further arguments of :class:`WindowAttention`.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int, **attention: Any) -> None:
        super().__init__(channels, num_heads, window_size, split="local", **attention)
        bias = torch.empty(num_heads, 2, 1, 1)  # the official shape
        self.rel_pos_msg = nn.Parameter(trunc_normal_(bias))

    def forward(self, x: WithMessengers) -> WithMessengers:
        """(B, C, H, W) and (B, C, hh, ww), both normed -> the same shapes."""
        patches, messengers = x
        qkv = self.qkv(join_windows(patches, messengers, self.window_size))  # 1, 3C, B·windows, 1 + ws²
        qkv = qkv[0].permute(1, 2, 0).unflatten(2, (3, self.num_heads, -1))  # B·windows, 1 + ws², 3, heads, d
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()
        mixed = attention(query, key, value, self.attn_mask(patches), self.attn_drop_rate if self.training else 0.0)
        mixed = mixed.transpose(1, 2).flatten(2)[None].permute(0, 3, 1, 2)  # 1, C, B·windows, 1 + ws²
        return part_windows(self.proj_drop(self.proj(mixed)), patches.shape[-2:], self.window_size)

    def attn_mask(self, x: Tensor) -> Tensor:
        """Position bias plus the mask of padded keys: (1 | B·windows, heads, 1 + ws², 1 + ws²)."""
        mask = add_messenger_keys(key_padding_mask(x, self.window_size, self.split))
        bias = self.position_bias()
        return bias if mask is None else bias + mask

    def position_bias(self) -> Tensor:
        """By query and key: (1, heads, 1 + ws², 1 + ws²)."""
        tokens = self.relative_position_bias_table[self.relative_position_index]  # ws², ws², heads
        as_key, as_query = self.rel_pos_msg.unbind(1)  # heads, 1, 1
        count = len(tokens)
        bias = torch.cat((as_key.expand(-1, count, 1), tokens.permute(2, 0, 1)), dim=2)
        return torch.cat((as_query.expand(-1, 1, 1 + count), bias), dim=1)[None]


class MessengerBlock(Block):
    """Attention, exchange among messengers, MLP.

    The exchange acts on the residual sums, also where the branch is dropped. A branch is dropped for a whole image,
    map and messengers; the official code draws for each region.

    Args:
        region: Windows per side of a region, whose messengers exchange channels.
        branches: Norms, mixer, MLP and drop path rate, as :class:`Block` takes them.
    """

    def __init__(self, region: int, **branches: Any) -> None:
        super().__init__(**branches)
        self.region = region

    def forward(self, x: WithMessengers) -> WithMessengers:
        """(B, C, H, W) and (B, C, hh, ww) -> the same shapes."""
        patches, messengers = x
        scale = drop_scale(patches, self.drop_path)
        normed = self.norm1(messengers)
        mixed, letters = lean(self.norm1, lambda normed_patches: self.mixer((normed_patches, normed)), patches)
        patches = add_scaled(patches, mixed, scale)
        messengers = shuffle_messengers(add_scaled(messengers, letters, scale), self.region)
        scale = drop_scale(patches, self.drop_path)
        patches, messengers = (add_scaled(y, lean(self.norm2, self.mlp, y), scale) for y in (patches, messengers))
        return patches, messengers


@MODELS.register_module()
class MSGTransformer(LocalViT):
    """Local windows, each with a messenger; the messengers of a region of windows exchange channels in every block.

    What its stages carry is a map and its messengers; only the map is returned. Takes all arguments of
    :class:`LocalViT`, and those below.

    Deviations from the official code: maps of any size (it needs sides of whole regions in all stages, multiples of
    224 pixels), with padding masked out and regions that hang over the border exchanging among their real windows, see
    :func:`shuffle_messengers`; output norms, which its classifier lacks; drop path by image instead of by region.

    Args:
        arch: 'tiny', 'small', 'base' or a dict with embed_dims, depths, num_heads and drop_path_rate.
        num_heads: Heads per stage. Default: as ``arch`` says.
        shuffle_size: Windows per side of a region, by stage.
        qkv_bias: Whether query, key and value have a bias.
        attn_drop_rate: Dropout on the attention weights.
        common: Arguments of :class:`LocalViT`.

    Raises:
        ValueError: If there is not one region size per stage, or a stage has channels that cannot be cut into one
            group for each window of a region.
    """

    title: ClassVar = "MSG-Transformer"
    short_name: ClassVar = "msg"
    paper: ClassVar = (
        "MSG-Transformer: Exchanging Local Spatial Information by Manipulating Messenger Tokens",
        "https://arxiv.org/abs/2105.15168",
    )
    no_weight_decay_keywords: ClassVar = ("relative_position_bias_table", "rel_pos_msg")
    arch_settings: ClassVar = {
        "tiny": {"embed_dims": 64, "depths": (2, 4, 12, 4), "num_heads": (2, 4, 8, 16), "drop_path_rate": 0.1},
        "small": {"embed_dims": 96, "depths": (2, 4, 12, 4), "num_heads": (3, 6, 12, 24), "drop_path_rate": 0.3},
        "base": {"embed_dims": 96, "depths": (2, 4, 28, 4), "num_heads": (3, 6, 12, 24), "drop_path_rate": 0.5},
    }
    official_layout: ClassVar = (
        (r"^head\.|^norm\.|relative_position_index$", None),
        (r"^patch_embed\.", "stem."),
        (r"^msg_tokens$", "stem.messengers"),
        (r"^layers\.(\d)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample."),
        (r"^layers\.(\d)\.", r"stages.\1."),
        (r"\.attn\.", ".mixer."),
    )
    default_norm_cfg: ClassVar = {"type": "LN2d"}

    def __init__(
        self,
        arch: str | dict = "tiny",
        num_heads: Sequence[int] | None = None,
        shuffle_size: Sequence[int] = (4, 4, 2, 1),
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(arch, **common)
        self.num_heads: tuple[int, ...] = tuple(self.setting("num_heads", num_heads))
        self.shuffle_size = tuple(shuffle_size)
        self.qkv_bias = qkv_bias
        self.attn_drop_rate = attn_drop_rate
        if len(self.shuffle_size) != len(self.depths) or min(self.shuffle_size) < 1:
            raise ValueError(f"shuffle_size={self.shuffle_size} must be {len(self.depths)} numbers of windows.")
        for side, channels in zip(self.shuffle_size, self.channels, strict=True):
            if channels % side**2:
                raise ValueError(
                    f"shuffle_size={self.shuffle_size} does not fit: {channels} channels cannot be cut into {side**2} "
                    f"equal groups, one for each of {side}×{side} windows; choose another region or width."  # noqa: RUF001
                )

    def make_stem(self) -> nn.Module:
        """Overlapping patches, and the first messengers."""
        return MessengerStem(self.in_channels, self.embed_dims, self.window_size, self.shuffle_size[0], self.norm_cfg)

    def make_downsample(self, stage: int) -> nn.Module:
        """A strided convolution and a norm."""
        return MessengerDownsample(self.channels[stage - 1], self.channels[stage], self.norm_cfg)

    def make_block(self, stage: int, index: int, drop_path_rate: float) -> nn.Module:
        """A block whose messengers exchange channels."""
        channels = self.channels[stage]
        return MessengerBlock(
            self.shuffle_size[stage],
            norm1=self.make_mixer_norm(channels),
            mixer=self.make_mixer(channels, stage, index),
            norm2=build_norm(self.norm_cfg, channels),
            mlp=self.make_mlp(channels, stage),
            drop_path_rate=drop_path_rate,
        )

    def make_mixer(self, channels: int, stage: int, index: int) -> nn.Module:
        """Attention in windows of neighbours with their messenger."""
        return MessengerAttention(
            channels,
            self.num_heads[stage],
            self.window_size,
            qkv_bias=self.qkv_bias,
            attn_drop_rate=self.attn_drop_rate,
            drop_rate=self.drop_rate,
        )

    def end_stage(self, x: WithMessengers, stage: int) -> tuple[WithMessengers, Tensor]:
        """Messengers go on with their map, and do not leave."""
        return x, super().end_stage(x[0], stage)[1]
