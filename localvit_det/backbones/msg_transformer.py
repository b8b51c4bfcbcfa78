"""MSG-Transformer (arXiv:2105.15168, the form of CVPR 2022; official code: hustvl/MSG-Transformer).

Messengers are one more token for each window, which attends with it and exchanges channels with the neighbouring ones.
Windows without any real token do not exist, so none has a messenger. See `layers.messenger` for how they are laid out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import (
    Block,
    WindowAttention,
    add,
    build_norm,
    ceil_div,
    is_pointwise,
    key_padding_mask,
    pad_to_multiple,
    pointwise,
    split_heads,
    trunc_normal_,
)
from ..layers.messenger import (
    WithMessengers,
    cut_positions,
    join_positions,
    merge_positions,
    shuffle_messengers,
    split_positions,
    tile_messengers,
)
from ..ops import attention, channels_last, recomputed
from .base import AttentionViT
from .family import SWIN_RELEASES, SWIN_SKELETON, Release, WarmStart


class MessengerStem(nn.Module):
    """A 7×7 convolution of stride 4 and a norm, whose feature map gets the first messengers.

    Each place in a region, of ``region`` windows per side, has a messenger of its own.
    """

    def __init__(self, in_channels: int, out_channels: int, window_size: int, region: int, norm_cfg: dict) -> None:
        super().__init__()
        self.window_size, self.region = window_size, region
        self.proj = nn.Conv2d(in_channels, out_channels, 7, stride=4, padding=2)
        self.norm = build_norm(norm_cfg, out_channels)
        self.messengers = nn.Parameter(torch.empty(1, region**2, 1, out_channels))  # the official shape
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the messengers anew."""
        trunc_normal_(self.messengers)

    def forward(self, x: Tensor) -> WithMessengers:
        """(B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉) and (B, C, hh, ww)."""
        # Padded by the stride: the convolution alone would round sizes down.
        return self.accompany(self.norm(self.proj(pad_to_multiple(x, 4))))

    def accompany(self, patches: Tensor) -> WithMessengers:
        """Return a feature map with the first messengers: (B, C, H, W) -> the same and (B, C, hh, ww)."""
        rows, columns = (ceil_div(side, self.window_size) for side in patches.shape[-2:])
        return patches, tile_messengers(self.messengers, self.region, (rows, columns), patches.shape[0])


class MessengerDownsample(nn.Module):
    """A 3×3 convolution of stride 2 and a norm, the same for the feature map and for its messengers.

    ⌈⌈H/2⌉/ws⌉ = ⌈⌈H/ws⌉/2⌉: what comes out is again one messenger for each window.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = build_norm(norm_cfg, out_channels)

    def forward(self, x: WithMessengers) -> WithMessengers:
        """(B, C, H, W) and (B, C, hh, ww) -> (B, C', ⌈H/2⌉, ⌈W/2⌉) and (B, C', ⌈hh/2⌉, ⌈ww/2⌉)."""
        patches, messengers = (self.norm(self.reduction(part)) for part in x)
        return patches, messengers


class MessengerAttention(WindowAttention):
    """Attention among the tokens of each window and its messenger. Arguments as in :class:`WindowAttention`.

    The position bias of a messenger is one number per head for it as a key and one for it as a query.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int, **attention: Any) -> None:
        super().__init__(channels, num_heads, window_size, split="local", **attention)
        self.rel_pos_msg = nn.Parameter(trunc_normal_(torch.empty(num_heads, 2, 1, 1)))  # the official shape
        self._derive_index()

    def reset_parameters(self) -> None:
        """Initialise all weights anew."""
        super().reset_parameters()
        trunc_normal_(self.rel_pos_msg)

    def _derive_index(self) -> None:
        super()._derive_index()
        as_key = (2 * self.window_size - 1) ** 2  # the row after those of the table; after it that of one as a query
        index = F.pad(self.relative_position_index, (1, 0), value=as_key)
        self.relative_position_index = F.pad(index, (0, 0, 1, 0), value=as_key + 1)

    # Takes windows, where other mixers take feature maps; the block below takes pairs.
    def forward(self, windows: Tensor, patches: Tensor) -> Tensor:  # type: ignore[override]
        """Windows led by messengers, normed, (1, C, B·windows, 1 + ws²), and their map (B, C, H, W) -> windows."""
        qkv = pointwise(self.qkv, windows)  # 1, 3C, B·windows, 1 + ws²
        query, key, value = split_heads(qkv.squeeze(0).permute(1, 2, 0), self.num_heads, parts=3)
        mixed = attention(query, key, value, self.biases(patches), self.attn_drop_rate if self.training else 0.0)
        mixed = mixed.transpose(1, 2).flatten(2)[None].permute(0, 3, 1, 2)  # 1, C, B·windows, 1 + ws²
        return self.proj_drop(pointwise(self.proj, mixed))

    def biases(self, x: Tensor) -> list[Tensor]:
        """Return what logits get: position bias, mask of padded keys: each (1 | n, heads | 1, 1 | 1 + ws², 1 + ws²)."""
        mask = key_padding_mask(x, self.window_size, self.split, leaders=1)
        return [self.position_bias()] if mask is None else [self.position_bias(), mask]

    def position_bias(self) -> Tensor:
        """Return the position bias by query and key: (1, heads, 1 + ws², 1 + ws²)."""
        table = cast(Tensor, self.relative_position_bias_table)  # MSG always has one
        rows = torch.cat((table, self.rel_pos_msg.flatten(1).t()))  # (2·ws-1)² + 2, heads
        return F.embedding(self.relative_position_index, rows).permute(2, 0, 1)[None]


class MessengerBlock(Block):
    """Attention, exchange among the messengers of each region, MLP. Arguments as in :class:`Block`, but for the region.

    The exchange acts on the residual sums, also where the branch is dropped. A branch is dropped for a whole image,
    feature map and messengers; the official code draws for each region.

    Raises:
        ValueError: A norm takes more than one position, which would be windows of all images of a batch.
    """

    mixer: MessengerAttention

    def __init__(self, region: int, **branches: Any) -> None:
        super().__init__(**branches)
        for norm in (self.norm1, self.norm2):
            if not is_pointwise(norm):
                raise ValueError(
                    f"{type(norm).__name__} would mix the windows of all images of a batch: set norm_cfg to LN2d or BN."
                )
        self.region = region

    def forward(self, x: WithMessengers) -> WithMessengers:  # type: ignore[override]
        """(B, C, H, W) and (B, C, hh, ww) -> the same shapes, views of one tensor."""
        # Feature map and messengers share layers and sums: each runs once, over both.
        side = self.mixer.window_size
        joined = join_positions(x)  # B, C, 1, L
        windows = cut_positions(joined, x, side)  # 1, C, B·windows, 1 + ws²
        mixed = recomputed(self.norm1, lambda normed: self.mixer(normed, x[0]), windows)
        joined = add(joined, merge_positions(mixed, x, side), self.drop_path)
        patches, messengers = split_positions(joined, x)
        joined = join_positions((patches, shuffle_messengers(messengers, self.region)))
        return split_positions(add(joined, recomputed(self.norm2, self.mlp, joined), self.drop_path), x)


@MODELS.register_module()
class MSGTransformer(AttentionViT):
    """Local windows, each with a messenger; the messengers of a region of windows exchange channels in every block.

    What its stages carry is a feature map and its messengers; only the feature map is returned. Takes all arguments of
    :class:`AttentionViT`, and those below.

    Deviations from the official code: feature maps of any size (it needs sides of whole regions in all stages,
    multiples of 224 pixels), with padding masked out and regions that hang over the border exchanging among their real
    windows, see :func:`shuffle_messengers`; output norms, which its classifier lacks; drop path by image instead of by
    region.

    Args:
        arch: 'tiny', 'small', 'base' or a dict with embed_dims, depths, num_heads and drop_path_rate.
        shuffle_size: Windows per side of a region, by stage.

    Raises:
        ValueError: If there is not one region size per stage, or a stage has channels that cannot be cut into one
            group for each window of a region.
    """

    title: ClassVar = "MSG-Transformer"
    short_name: ClassVar = "msg"
    has_windows: ClassVar = True
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
    releases: ClassVar = {  # of no weights; the tiny size is narrower than any Swin
        "tiny": Release(top1=82.4),
        "small": Release(top1=83.4, warm_start=SWIN_RELEASES["tiny"].address),
        "base": Release(top1=84.0, warm_start=SWIN_RELEASES["small"].address),
    }
    official_layout: ClassVar = (*SWIN_SKELETON, (r"^msg_tokens$", "stem.messengers"), (r"\.attn\.", ".mixer."))
    # The stem and downsampling are other convolutions than Swin's. The stages have other depths: block n takes block n,
    # as a block knows the residual sums after those before it.
    warm_starts: ClassVar = {
        "swin": WarmStart(
            ((r"^patch_embed\.|\.downsample\.", None), *SWIN_SKELETON, (r"\.attn\.", ".mixer.")),
            surplus=r"\.blocks\.",
            size="embed_dims, which MSG-S and MSG-B share with Swin-T and Swin-S",
        )
    }
    default_norm_cfg: ClassVar = {"type": "LN2d"}

    def __init__(self, arch: str | dict = "tiny", *, shuffle_size: Sequence[int] = (4, 4, 2, 1), **common: Any) -> None:
        super().__init__(arch, **common)
        self.shuffle_size = tuple(shuffle_size)
        if len(self.shuffle_size) != len(self.depths) or min(self.shuffle_size) < 1:
            raise ValueError(f"shuffle_size={self.shuffle_size} must be {len(self.depths)} numbers of windows.")
        for side, channels in zip(self.shuffle_size, self.channels, strict=True):
            if channels % side**2:
                raise ValueError(
                    f"shuffle_size={self.shuffle_size} does not fit: {channels} channels cannot be cut into {side**2} "
                    f"equal groups, one for each of {side}×{side} windows; choose another region or width."  # noqa: RUF001
                )
        self.build()

    def make_stem(self) -> nn.Module:
        """Make overlapping patches and messengers: (B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉) and (B, C, hh, ww)."""
        return MessengerStem(self.in_channels, self.embed_dims, self.window_size, self.shuffle_size[0], self.norm_cfg)

    def make_downsample(self, stage: int) -> nn.Module:
        """Make a strided convolution and a norm, for the feature map and its messengers."""
        return MessengerDownsample(self.channels[stage - 1], self.channels[stage], self.norm_cfg)

    def make_block(self, stage: int, index: int, drop_path_rate: float) -> nn.Module:
        """Make a block whose messengers exchange channels: (B, C, H, W) and (B, C, hh, ww) -> the same shapes."""
        return MessengerBlock(self.shuffle_size[stage], **self.make_branches(stage, index, drop_path_rate))

    def make_mixer(self, channels: int, stage: int, index: int) -> nn.Module:
        """Make attention in windows of neighbours with their messenger."""
        return MessengerAttention(channels, self.num_heads[stage], self.window_size, **self.attention)

    def end_stage(self, x: WithMessengers, stage: int) -> tuple[WithMessengers, Tensor]:
        """Pass messengers on with their feature map, and return only that."""
        x = channels_last(x[0]), channels_last(x[1])  # two tensors again, (B, C, H, W) and (B, C, hh, ww)
        return x, super().end_stage(x[0], stage)[1]
