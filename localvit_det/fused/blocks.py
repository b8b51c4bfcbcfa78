"""Blocks, attention, MLPs and stems for inference: norms folded, 1×1 layers packed, branches over bands of rows."""

from __future__ import annotations

from torch import Tensor, nn

from ..backbones.gg_transformer import GlanceGazeAttention
from ..backbones.shuffle_transformer import ShuffleBlock
from ..backbones.twins import PositionBlock, SubsampledAttention
from ..layers import (
    Block,
    ConvMlp,
    ConvStem,
    Fused,
    WindowAttention,
    ceil_div,
    crop,
    fused,
    key_padding_mask,
    pad_to_multiple,
    register_fused,
    split_heads,
    window_partition,
    window_reverse,
)
from ..ops import attention, cpu_inference
from .bands import Banded, Reach, add_branch
from .detector import Variant
from .folding import fold_into_residual, fuse_bn_conv, fuse_conv_bn, split_outputs
from .packed import PackedConv1x1, in_place, pack


@register_fused(WindowAttention, convs=("qkv", "proj"))
class FusedWindowAttention(Banded):
    """A :class:`WindowAttention` that runs over bands of rows of windows; its position bias is looked up once.

    Args:
        mixer: The attention.
    """

    position_bias: Tensor | None

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
        """Fold the norm before the attention into the projection; return what is left to apply."""
        norm, qkv = fuse_bn_conv(norm, self.qkv)
        self.qkv = pack(qkv)
        return norm

    def mix_rows(self, x: Tensor) -> Tensor:
        """(B, C, rows, W) -> (B, C, rows, W)."""
        query, key, value = self.project(x, self.qkv, parts=3)  # each B·windows, heads, ws², d
        # Projecting before cropping keeps the product's input dense.
        return crop(self.proj(self.attend(query, key, value, x)), x.shape[-2:])

    def project(self, x: Tensor, layer: nn.Module, parts: int) -> tuple[Tensor, ...]:
        """Split into windows and project: (B, C, rows, W) -> ``parts`` times (B·windows, heads, ws², d).

        Args:
            x: The feature map.
            layer: A projection of each position, (B, C, any, any) -> (B, parts·C, any, any).
            parts: What the projection makes of each position, for example query, key and value.
        """
        windows = window_partition(pad_to_multiple(x, self.window_size), self.window_size, self.split)  # 1, C, n, ws²
        return split_heads(layer(windows).squeeze(0).permute(1, 2, 0), self.num_heads, parts)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, x: Tensor) -> Tensor:
        """Attend, and return to a feature map: three times (B·windows, heads, ws², d) -> (B, C, rows', W')."""
        mask = key_padding_mask(x, self.window_size, self.split) if self.mask_padding else None
        mixed = attention(query, key, value, [bias for bias in (self.position_bias, mask) if bias is not None])
        size = tuple(ceil_div(side, self.window_size) * self.window_size for side in x.shape[-2:])  # rows', W'
        return window_reverse(mixed, size, self.window_size, self.split)


@register_fused(GlanceGazeAttention, convs=("qkv", "proj"))
class FusedGlanceGaze(FusedWindowAttention):
    """A :class:`GlanceGazeAttention` with separate projections to values, which Gaze needs as a map, and to the rest.

    Args:
        mixer: The attention.
    """

    def __init__(self, mixer: GlanceGazeAttention) -> None:
        super().__init__(mixer)
        channels = mixer.proj.in_channels
        query_key, value = split_outputs(mixer.qkv, (2 * channels, channels))
        self.query_key, self.value = pack(query_key), pack(value)
        del self.qkv
        self.gaze = mixer.gaze

    def fold_input_norm(self, norm: nn.Module) -> nn.Module:
        """Fold the norm before the attention into both projections; return what is left to apply."""
        _, query_key = fuse_bn_conv(norm, self.query_key)
        norm, value = fuse_bn_conv(norm, self.value)
        self.query_key, self.value = pack(query_key), pack(value)
        return norm

    def mix_whole(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gaze, whose convolution crosses every band: (B, C, H, W) -> three times (B, C, H, W): x, value, gaze."""
        value = self.value(x)
        return x, value, self.gaze(value)

    # Takes what `mix_whole` returns here, three feature maps.
    def mix_rows(self, x: Tensor, value: Tensor, gaze: Tensor) -> Tensor:  # type: ignore[override]
        """Glance and project: three times (B, C, rows, W) -> (B, C, rows, W)."""
        query, key = self.project(x, self.query_key, parts=2)  # each B·windows, heads, ws², d
        value = window_partition(pad_to_multiple(value, self.window_size), self.window_size, self.split)  # 1, C, n, ws²
        (value,) = split_heads(value.squeeze(0).permute(1, 2, 0), self.num_heads)  # B·windows, heads, ws², d
        mixed = crop(self.attend(query, key, value, x), x.shape[-2:])  # B, C, rows, W
        return self.proj(mixed + gaze)


@register_fused(SubsampledAttention)
class FusedSubsampledAttention(Variant, SubsampledAttention):
    """A :class:`SubsampledAttention` with packed products."""


@register_fused(ConvMlp, convs=("fc1", "fc2"))
class FusedMlp(Banded):
    """A :class:`ConvMlp` whose first layer applies the activation by itself.

    Args:
        mlp: The MLP.
    """

    def __init__(self, mlp: ConvMlp) -> None:
        super().__init__()
        self.norm: nn.Module = nn.Identity()
        self.fc1 = PackedConv1x1(mlp.fc1, mlp.act)
        self.fc2 = pack(mlp.fc2)

    def fold_input_norm(self, norm: nn.Module) -> nn.Module:
        """Fold the norm before the MLP into the first layer, or apply it inside the bands; nothing is left to apply."""
        self.norm, fc1 = fuse_bn_conv(norm, self.fc1)
        self.fc1 = PackedConv1x1(fc1, self.fc1.act)
        return nn.Identity()

    def mix_rows(self, x: Tensor) -> Tensor:
        """(B, C, rows, W) -> (B, C, rows, W)."""
        return self.fc2(self.fc1(self.norm(x)))


@register_fused(Block)
class FusedBlock(Fused):
    """A :class:`Block` whose branches run over bands of rows on a CPU.

    A branch that can work on bands derives from :class:`Banded`; one that can take the norm before it into its own
    weights offers ``fold_input_norm(norm) -> nn.Module``, which returns what is left to apply.

    Args:
        block: The block.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm1, self.mixer = _fused_branch(block.norm1, block.mixer)
        self.norm2, self.mlp = _fused_branch(block.norm2, block.mlp)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = add_branch(x, self.norm1, self.mixer)
        return add_branch(x, self.norm2, self.mlp, overwrite=True)


@register_fused(ShuffleBlock)
class FusedShuffleBlock(FusedBlock):
    """A :class:`ShuffleBlock`; the norm before its convolution is folded, too, where its shift is small."""

    def __init__(self, block: ShuffleBlock) -> None:
        super().__init__(block)
        self.norm_local, self.local = fold_into_residual(self.mixer, block.norm_local, block.local)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = add_branch(x, self.norm1, self.mixer)
        x = _add_new(x, self.local(self.norm_local(x)))
        return add_branch(x, self.norm2, self.mlp, overwrite=True)


@register_fused(PositionBlock)
class FusedPositionBlock(FusedBlock):
    """A :class:`PositionBlock`."""

    def __init__(self, block: PositionBlock) -> None:
        super().__init__(block)
        self.position = block.position

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = super().forward(x)
        return _add_new(x, self.position(x))


def _add_new(x: Tensor, new: Tensor) -> Tensor:
    """Compute ``x + new``, both (B, C, H, W), in the memory of ``new`` where it may be overwritten."""
    return new.add_(x) if cpu_inference(x) and x.dtype == new.dtype else x + new


def _fused_branch(norm: nn.Module, branch: nn.Module) -> tuple[nn.Module, nn.Module]:
    branch = fused(branch)
    # Of its class: a wrapper that passes attributes on does not take the norm.
    fold = getattr(type(branch), "fold_input_norm", None)
    return fold(branch, norm) if fold else norm, branch


@register_fused(ConvStem)
class FusedConvStem(Fused):
    """A :class:`ConvStem` without norms, and with activations in place: its feature maps are the largest of all.

    Args:
        stem: The stem.
    """

    def __init__(self, stem: ConvStem) -> None:
        super().__init__()
        self.conv1, self.norm1 = fuse_conv_bn(stem.conv1, stem.norm1)
        self.conv2, self.norm2 = fuse_conv_bn(stem.conv2, stem.norm2)
        self.act1, self.act2 = in_place(stem.act1), in_place(stem.act2)
        self.conv3 = pack(stem.conv3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉)."""
        x = self.act1(self.norm1(self.conv1(x)))  # B, C', ⌈H/2⌉, ⌈W/2⌉
        x = self.act2(self.norm2(self.conv2(x)))  # B, C, ⌈H/4⌉, ⌈W/4⌉
        return self.conv3(x)
