"""Window attention for inference."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from ..backbones.gg_transformer import GlanceGazeAttention
from ..backbones.twins import SubsampledAttention
from ..layers import (
    Fused,
    WindowAttention,
    crop,
    form_of,
    key_padding_mask,
    pad_to_multiple,
    window_partition,
    window_reverse,
)
from ..ops import attention
from ..ops.cpu_kernels import one_kernel
from .bands import Banded, Reach
from .folding import fuse_bn_conv, split_outputs
from .forms import form_like
from .packed import PackedConv1x1, pack


class FusedWindowAttention(Banded):
    """A :class:`WindowAttention` that runs over bands of rows of windows; its position bias is looked up once.

    Args:
        mixer: The attention.
    """

    def __init__(self, mixer: WindowAttention) -> None:
        super().__init__()
        self.num_heads, self.window_size, self.split = mixer.num_heads, mixer.window_size, mixer.split
        self.mask_padding = mixer.mask_padding
        self.qkv = pack(mixer.qkv)
        self.proj = pack(mixer.proj)
        table = mixer.relative_position_bias_table
        if table is None:
            self.position_bias = None
        else:
            bias = table.detach()[mixer.relative_position_index].permute(2, 0, 1)[None]  # 1, heads, ws², ws²
            self.register_buffer("position_bias", bias.contiguous())

    @property
    def reach(self) -> Reach:
        """A row of windows."""
        return self.window_size, self.split

    def fold_input_norm(self, norm: nn.Module) -> nn.Module:
        """Take the norm before the attention into the projection; returns what is left to apply."""
        norm, qkv = fuse_bn_conv(norm, self.qkv)
        self.qkv = pack(qkv)
        return norm

    def gather(self, x: Tensor) -> Tensor:
        """(B, C, rows, W) -> (B, C, rows, W)."""
        padded = pad_to_multiple(x, self.window_size)  # B, C, rows', W'
        query, key, value = self.project(padded, self.qkv, parts=3)
        # Projecting before cropping keeps the product's input dense.
        return crop(self.proj(self.attend(query, key, value, x, padded)), x.shape[-2:])

    def project(self, x: Tensor, layer: nn.Module, parts: int) -> tuple[Tensor, ...]:
        """Windows of a projected map: (B, C, H', W') -> ``parts`` times (B·windows, heads, ws², d).

        Args:
            x: The map, padded to whole windows.
            layer: A projection of each position, (B, C, any, any) -> (B, parts·C, any, any).
            parts: What the projection makes of each position, for example query, key and value.
        """
        if not one_kernel(x):
            return window_partition(layer(x), self.window_size, self.split, self.num_heads, parts).unbind()
        # Windows first: one copy of C channels instead of parts·C, and attention reads parts and heads in place.
        tokens = window_partition(x, self.window_size, self.split)[:, :, 0]  # 1, B·windows, ws², C
        y = layer(tokens.permute(0, 3, 1, 2))  # -> 1, C, B·windows, ws² -> 1, parts·C, B·windows, ws²
        return rearrange(y, "1 (p heads d) n t -> p n heads t d", p=parts, heads=self.num_heads).unbind()  # views

    def attend(self, query: Tensor, key: Tensor, value: Tensor, x: Tensor, padded: Tensor) -> Tensor:
        """Attention and back to a map: three times (B·windows, heads, ws², d) -> (B, C, H', W')."""
        mask = key_padding_mask(x, self.window_size, self.split) if self.mask_padding else None
        if self.position_bias is not None:
            mask = self.position_bias if mask is None else self.position_bias + mask
        mixed = attention(query, key, value, mask)
        return window_reverse(mixed, padded.shape[-2:], self.window_size, self.split)


class FusedGlanceGaze(FusedWindowAttention):
    """A :class:`GlanceGazeAttention` with separate projections to values, which Gaze needs as a map, and to the rest.

    Args:
        mixer: The attention.
    """

    def __init__(self, mixer: GlanceGazeAttention) -> None:
        super().__init__(mixer)
        channels = mixer.proj.in_channels
        self.query_key, self.value = (
            PackedConv1x1(part) for part in split_outputs(mixer.qkv, (2 * channels, channels))
        )
        del self.qkv
        self.gaze = mixer.gaze

    def fold_input_norm(self, norm: nn.Module) -> nn.Module:
        """Take the norm before the attention into both projections; returns what is left to apply."""
        _, query_key = fuse_bn_conv(norm, self.query_key)
        norm, value = fuse_bn_conv(norm, self.value)
        self.query_key, self.value = pack(query_key), pack(value)
        return norm

    def spread(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gaze, whose convolution crosses every band: (B, C, H, W) -> three maps (B, C, H, W): x, value, gaze."""
        value = self.value(x)
        return x, value, self.gaze(value)

    def gather(self, x: Tensor, value: Tensor, gaze: Tensor) -> Tensor:
        """Glance and projection: three maps (B, C, rows, W) -> (B, C, rows, W)."""
        padded = pad_to_multiple(x, self.window_size)  # B, C, rows', W'
        query, key = self.project(padded, self.query_key, parts=2)
        value = pad_to_multiple(value, self.window_size)  # B, C, rows', W'
        value = window_partition(value, self.window_size, self.split, self.num_heads)[0]
        mixed = crop(self.attend(query, key, value, x, padded), x.shape[-2:])  # B, C, rows, W
        return self.proj(mixed + gaze)


class FusedSubsampledAttention(Fused, SubsampledAttention):
    """A :class:`SubsampledAttention` with packed products."""


@form_of(SubsampledAttention)
def fuse_subsampled(mixer: SubsampledAttention) -> FusedSubsampledAttention:
    """The same attention, with packed products."""
    return form_like(mixer, FusedSubsampledAttention)


form_of(WindowAttention)(FusedWindowAttention)
form_of(GlanceGazeAttention)(FusedGlanceGaze)
