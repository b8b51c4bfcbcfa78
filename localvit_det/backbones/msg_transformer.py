"""MSG-Transformer (arXiv:2105.15168, the form of CVPR 2022; official code: hustvl/MSG-Transformer).

Messengers are one more token for each window, which attends with it and exchanges channels with the neighbouring ones.
A feature map carries its messengers as a feature map of their own, one position for each window:
(B, C, hh, ww) = (B, C, ⌈H/ws⌉, ⌈W/ws⌉) with (B, C, H, W). Windows without any real token do not exist, so none has a
messenger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import (
    Block,
    WindowAttention,
    add_kept,
    build_norm,
    ceil_div,
    crop,
    draw_kept,
    key_padding_mask,
    pad_to_multiple,
    pointwise,
    split_heads,
    trunc_normal_,
    window_partition,
    window_reverse,
)
from ..ops import attention, recomputed, transformed
from .base import LocalViT
from .weights import SWIN_RELEASES, SWIN_SKELETON, Release, WarmStart

WithMessengers = tuple[Tensor, Tensor]  # a feature map and its messengers


def tile_messengers(tokens: Tensor, side: int, size: tuple[int, int], batch: int) -> Tensor:
    """Lay one token for each place of a region over all windows.

    Args:
        tokens: Of shape (1, side², 1, C), row by row.
        side: Of a region, in windows.
        size: Rows and columns of windows.
        batch: Images.

    Returns:
        Messengers of shape (B, C, *size), channels-last.
    """
    region = tokens.view(side, side, -1)  # side, side, C
    grid = region.repeat(ceil_div(size[0], side), ceil_div(size[1], side), 1)  # hh', ww', C
    return _dense(crop(grid.expand(batch, -1, -1, -1).permute(0, 3, 1, 2), size))


def shuffle_messengers(messengers: Tensor, side: int) -> Tensor:
    """Let the messengers of each region of side×side windows exchange channels: a transposition of token and group.

    The channels are cut into side² groups; group i of messenger j and group j of messenger i change places.

    Our reading, where a region hangs over the border (the paper and the official code have whole regions only): the
    same among its real windows. A group whose partner does not exist stays where it is, so nothing is lost, nothing
    comes from outside the feature map, and shuffling twice changes nothing, as in whole regions.

    Args:
        messengers: Of shape (B, C, hh, ww); side² divides C.
        side: Of a region, in windows.

    Returns:
        Messengers of the same shape, channels-last.
    """
    if side == 1:
        return messengers
    rows, columns = messengers.shape[-2:]
    padded = pad_to_multiple(messengers, side)  # B, C, hh', ww'
    grid = padded.permute(0, 2, 3, 1)  # B, hh', ww', C
    # (i j): place in the region; (k l): group of channels. They change roles.
    exchanged = rearrange(grid, "b (y i) (x j) (k l c) -> b (y k) (x l) (i j c)", i=side, j=side, k=side, l=side)
    if padded is messengers:
        return exchanged.permute(0, 3, 1, 2)
    real = torch.ones(1, 1, rows, columns, dtype=torch.bool, device=messengers.device)
    real = F.pad(real, (0, padded.shape[3] - columns, 0, padded.shape[2] - rows))  # 1, 1, hh', ww'
    # For each place and group, whether the partner is real: hh', ww', (i j), 1
    real = repeat(real, "1 1 (y i) (x j) -> (y k) (x l) (i j) 1", i=side, j=side, k=side, l=side)
    groups = (side**2, -1)
    grid = torch.where(real, exchanged.unflatten(3, groups), grid.unflatten(3, groups)).flatten(3)  # B, hh', ww', C
    return _dense(crop(grid.permute(0, 3, 1, 2), (rows, columns)))


def join_windows(patches: Tensor, messengers: Tensor, window_size: int) -> Tensor:
    """Cut a feature map into windows, each led by its messenger.

    Args:
        patches: Feature map of shape (B, C, H, W).
        messengers: Of shape (B, C, hh, ww).
        window_size: Side of a window, in tokens.

    Returns:
        Tokens of shape (1, C, B·hh·ww, 1 + ws²), channels-last, zeros where a window hangs over the border.
    """
    tokens = window_partition(pad_to_multiple(patches, window_size), window_size, "local")  # 1, C, n, ws²
    leaders = messengers.permute(0, 2, 3, 1).reshape(1, -1, 1, messengers.shape[1]).permute(0, 3, 1, 2)  # 1, C, n, 1
    return torch.cat((leaders, tokens), dim=3)


def split_windows(tokens: Tensor, size: Sequence[int], window_size: int) -> WithMessengers:
    """Undo :func:`join_windows`.

    Args:
        tokens: Of shape (1, C, B·hh·ww, 1 + ws²), channels-last.
        size: Height and width of the feature map, in tokens.
        window_size: Side of a window, in tokens.

    Returns:
        The feature map (B, C, H, W) and its messengers (B, C, hh, ww).
    """
    rows, columns = (ceil_div(side, window_size) for side in size)
    leaders, windows = tokens.permute(2, 0, 3, 1).split((1, window_size**2), dim=2)  # n, 1, 1 | ws², C
    whole = (rows * window_size, columns * window_size)
    patches = crop(window_reverse(windows, whole, window_size, "local"), size)  # B, C, H, W
    messengers = leaders.reshape(-1, rows, columns, tokens.shape[1]).permute(0, 3, 1, 2)  # B, C, hh, ww
    return patches, messengers


def join_positions(x: WithMessengers) -> Tensor:
    """Lay all positions after each other: (B, C, H, W) and (B, C, hh, ww) -> (1, C, 1, all), channels-last."""
    positions = torch.cat([part.permute(0, 2, 3, 1).flatten(0, 2) for part in x])  # each B·H·W, C -> all, C
    return positions[None, None].permute(0, 3, 1, 2)


def split_positions(joined: Tensor, like: WithMessengers) -> WithMessengers:
    """Undo :func:`join_positions`, with the shapes of ``like``; views."""
    counts = [part.shape[0] * part.shape[2] * part.shape[3] for part in like]
    parts = joined.permute(0, 2, 3, 1).flatten(0, 2).split(counts)  # each B·H·W, C
    patches, messengers = (
        part.unflatten(0, (shaped.shape[0], *shaped.shape[2:])).permute(0, 3, 1, 2)
        for part, shaped in zip(parts, like, strict=True)
    )
    return patches, messengers


def _dense(messengers: Tensor) -> Tensor:
    """Return a small copy: for a view, an exporter asks for each size whether it is a whole feature map."""
    return messengers.clone(memory_format=torch.preserve_format if transformed() else torch.channels_last)


class MessengerStem(nn.Module):
    """A 7×7 convolution of stride 4 and a norm, whose feature map gets the first messengers.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels of the feature map.
        window_size: Tokens per side of a window.
        region: Windows per side of a region; each place in it has a messenger of its own.
        norm_cfg: Norm after the convolution.
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
        """(B, C, H, W) and (B, C, hh, ww) -> (B, C', ⌈H/2⌉, ⌈W/2⌉) and (B, C', ⌈hh/2⌉, ⌈ww/2⌉)."""
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
    """Attention, exchange among messengers, MLP.

    The exchange acts on the residual sums, also where the branch is dropped. A branch is dropped for a whole image,
    feature map and messengers; the official code draws for each region.

    Args:
        region: Windows per side of a region, whose messengers exchange channels.
        branches: Norms, mixer, MLP and drop path rate, as :class:`Block` takes them.
    """

    mixer: MessengerAttention

    def __init__(self, region: int, **branches: Any) -> None:
        super().__init__(**branches)
        self.region = region

    def forward(self, x: WithMessengers) -> WithMessengers:  # type: ignore[override]
        """(B, C, H, W) and (B, C, hh, ww) -> the same shapes."""
        # Feature map and messengers share layers: each runs once, over both.
        windows = join_windows(*x, self.mixer.window_size)  # 1, C, B·windows, 1 + ws²
        mixed = recomputed(self.norm1, lambda normed: self.mixer(normed, x[0]), windows)
        patches, messengers = self.add(x, split_windows(mixed, x[0].shape[-2:], self.mixer.window_size))
        x = patches, shuffle_messengers(messengers, self.region)
        mixed = recomputed(
            self.norm2, lambda normed: pointwise(self.mlp, normed), join_positions(x)
        )  # 1, C, 1, all positions
        return self.add(x, split_positions(mixed, x))

    def add(self, x: WithMessengers, branch: WithMessengers) -> WithMessengers:
        """Add a branch to a feature map and its messengers, or leave it out of both, by image."""
        kept = draw_kept(x[0], self.drop_path)
        patches, messengers = (add_kept(*pair, kept, self.drop_path) for pair in zip(x, branch, strict=True))
        return patches, messengers


@MODELS.register_module()
class MSGTransformer(LocalViT):
    """Local windows, each with a messenger; the messengers of a region of windows exchange channels in every block.

    What its stages carry is a feature map and its messengers; only the feature map is returned. Takes all arguments of
    :class:`LocalViT`, and those below.

    Deviations from the official code: feature maps of any size (it needs sides of whole regions in all stages,
    multiples of 224 pixels), with padding masked out and regions that hang over the border exchanging among their real
    windows, see :func:`shuffle_messengers`; output norms, which its classifier lacks; drop path by image instead of by
    region.

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
    official_layout: ClassVar = (
        (r"^head\.|^norm\.|relative_position_index$", None),
        (r"^patch_embed\.", "stem."),
        (r"^msg_tokens$", "stem.messengers"),
        (r"^layers\.(\d)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample."),
        (r"^layers\.(\d)\.", r"stages.\1."),
        (r"\.attn\.", ".mixer."),
    )
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
        return MessengerAttention(
            channels,
            self.num_heads[stage],
            self.window_size,
            qkv_bias=self.qkv_bias,
            attn_drop_rate=self.attn_drop_rate,
            drop_rate=self.drop_rate,
        )

    def end_stage(self, x: WithMessengers, stage: int) -> tuple[WithMessengers, Tensor]:
        """Pass messengers on with their feature map, and return only that."""
        return x, super().end_stage(x[0], stage)[1]
