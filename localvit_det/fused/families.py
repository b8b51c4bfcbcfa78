"""What single families have, for inference; what they share is in `blocks`."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..backbones.dwnet import ConvMixer, DynamicDWConv, InhomogeneousDWConv, KernelGenerator
from ..backbones.gg_transformer import GlanceGazeAttention
from ..backbones.msg_transformer import MessengerAttention, MessengerBlock
from ..backbones.shuffle_transformer import ShuffleBlock
from ..backbones.twins import PositionBlock, SubsampledAttention
from ..layers import (
    Fused,
    crop,
    fused,
    key_padding_mask,
    pad_to_multiple,
    register_fused,
    split_heads,
    window_partition,
)
from ..layers.messenger import WithMessengers, join_windows, shuffle_messengers, split_windows
from ..ops import DepthwiseConv2d, attention, cpu_inference, inhomogeneous_conv_by_rows, is_plain
from . import blocks
from .blocks import Banded, FusedBlock, FusedWindowAttention, add_branch
from .detector import Variant
from .folding import fold_into_residual, fuse_bn_conv, fuse_conv_bn, has_statistics, scale_and_shift, split_outputs
from .packed import PackedConv1x1, compared_once, pack


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


@register_fused(GlanceGazeAttention, convs=("qkv", "proj"))
class FusedGlanceGaze(FusedWindowAttention):
    """A :class:`GlanceGazeAttention` with separate projections to values, which Gaze needs as a map, and the rest."""

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


@register_fused(ConvMixer, convs=("expand", "project"))
class FusedConvMixer(Banded):
    """A :class:`ConvMixer` without its norms; the last product runs over bands."""

    def __init__(self, mixer: ConvMixer) -> None:
        super().__init__()
        self.pad_to = mixer.pad_to
        expand, self.norm1 = fuse_conv_bn(mixer.expand, mixer.norm1)
        # The activation can run inside the product only where no norm stands between them.
        alone = isinstance(self.norm1, nn.Identity)
        self.expand = PackedConv1x1(expand, mixer.act if alone else None)
        self.act = nn.Identity() if alone else mixer.act
        self.conv: nn.Module
        if type(mixer.conv) is DepthwiseConv2d:
            self.conv, self.norm2 = fuse_conv_bn(mixer.conv, mixer.norm2)
        else:
            self.conv = fused(mixer.conv)
            absorbs = isinstance(self.conv, FusedDynamicDWConv)
            self.norm2 = cast(FusedDynamicDWConv, self.conv).fold_output_norm(mixer.norm2) if absorbs else mixer.norm2
        project, self.norm3 = fuse_conv_bn(mixer.project, mixer.norm3)
        self.project = pack(project)

    def mix_whole(self, x: Tensor) -> tuple[Tensor]:
        """Compute all up to the depth-wise convolution: (B, C, H, W) -> (B, C, H', W'), padded to ``pad_to``."""
        if self.pad_to:
            x = pad_to_multiple(x, self.pad_to)
        x = self.act(self.norm1(self.expand(x)))  # B, C, H', W'
        return (F.relu(self.norm2(self.conv(x)), inplace=True),)

    def mix_rows(self, x: Tensor) -> Tensor:
        """Project: (B, C, rows, W) -> (B, C, rows, W)."""
        return self.norm3(self.project(x))


@register_fused(DynamicDWConv, convs=("reduce", "generate"))
class FusedDynamicDWConv(Fused, DynamicDWConv):
    """A :class:`DynamicDWConv` without the norm in its generator, which can take the norm that follows."""

    def __init__(self, conv: DynamicDWConv) -> None:
        nn.Module.__init__(self)
        self.kernel_size = conv.kernel_size
        self.reduce, self.norm = fuse_conv_bn(conv.reduce, conv.norm)
        self.generate, self.bias = conv.generate, conv.bias

    @torch.no_grad()
    def fold_output_norm(self, norm: nn.Module) -> nn.Module:
        """Fold a BatchNorm that follows into the generated kernels; return what is left to apply."""
        bare = type(self.generate) is nn.Conv2d and is_plain(self.generate)  # no adapter, hook or parametrization
        if not bare or not has_statistics(norm):
            return norm
        scale, shift = scale_and_shift(norm)
        per_kernel = scale.repeat_interleave(self.kernel_size**2)  # C·k²
        generate = nn.Conv2d(self.generate.in_channels, self.generate.out_channels, 1).to(self.generate.weight)
        generate.weight.copy_(self.generate.weight * per_kernel[:, None, None, None])
        cast(Tensor, generate.bias).copy_(cast(Tensor, self.generate.bias) * per_kernel)
        self.generate = generate.requires_grad_(False)
        self.bias = nn.Parameter(self.bias * scale + shift, requires_grad=False)
        return nn.Identity()


@register_fused(InhomogeneousDWConv)
class FusedInhomogeneousDWConv(Fused, InhomogeneousDWConv):
    """An :class:`InhomogeneousDWConv` that makes the kernels of a few rows at a time on a CPU."""

    def __init__(self, conv: InhomogeneousDWConv) -> None:
        nn.Module.__init__(self)
        self.kernel_size = conv.kernel_size
        self.groups = conv.groups
        reduce, self.norm = fuse_conv_bn(conv.reduce, conv.norm)
        self.reduce = pack(reduce)
        self.generate = conv.generate

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        generate = self.generate
        if not cpu_inference(x) or type(generate) is not KernelGenerator or not is_plain(generate):
            return super().forward(x)  # whoever listens to the generator hears one call, with memory of its own
        reduced = self.norm(self.reduce(x)).relu()  # B, C/4, H, W
        workspace = reduced.new_empty(0)  # for all bands: new memory costs page faults

        def kernels(start: int, stop: int) -> Tensor:
            return generate(reduced[:, :, start:stop], out=workspace)  # B, G·k², rows, W

        return inhomogeneous_conv_by_rows(x, kernels, self.groups, self.kernel_size)


@register_fused(MessengerAttention, convs=("qkv", "proj"))
class FusedMessengerAttention(Fused):
    """A :class:`MessengerAttention`, its position bias looked up once, for any number of rows of windows."""

    position_bias: Tensor

    def __init__(self, mixer: MessengerAttention) -> None:
        super().__init__()
        self.num_heads, self.window_size = mixer.num_heads, mixer.window_size
        self.norm: nn.Module = nn.Identity()
        self.qkv = pack(mixer.qkv)
        self.proj = pack(mixer.proj)
        self.register_buffer("position_bias", mixer.position_bias().detach().contiguous())

    def fold_input_norm(self, norm: nn.Module) -> nn.Module:
        """Fold the norm before the attention into the projection, or apply it inside the bands; leave none."""
        self.norm, qkv = fuse_bn_conv(norm, self.qkv)
        self.qkv = pack(qkv)
        return nn.Identity()

    def add(self, x: WithMessengers, out: WithMessengers) -> None:
        """Add the branch to x, (B, C, rows, W) and (B, C, ⌈rows/ws⌉, ww), into the memory of ``out``; on a CPU."""
        side = self.window_size
        if x[0].shape[2] % side or x[0].shape[3] % side:
            mixed = self(join_windows(*x, side), x[0])  # 1, C, B·windows, 1 + ws²
            for base, branch, target in zip(x, split_windows(mixed, x[0].shape[-2:], side), out, strict=True):
                torch.add(base, branch, out=target)
            return
        # Windows are views of a feature map without padding: one pass to cut, one to merge and add.
        count, channels, rows, columns = x[1].shape
        patches, sums = (_windows(part, side) for part in (x[0], out[0]))  # B, hh, ww, ws, ws, C
        tokens = x[0].new_empty(count, rows, columns, 1 + side**2, channels)
        tokens[:, :, :, 0] = x[1].permute(0, 2, 3, 1)
        tokens[:, :, :, 1:].unflatten(3, (side, side)).copy_(patches)
        mixed = self(tokens.flatten(0, 2)[None].permute(0, 3, 1, 2), x[0])  # 1, C, B·windows, 1 + ws²
        mixed = mixed.permute(0, 2, 3, 1).reshape(tokens.shape)  # B, hh, ww, 1 + ws², C
        torch.add(x[1], mixed[:, :, :, 0].permute(0, 3, 1, 2), out=out[1])
        torch.add(patches, mixed[:, :, :, 1:].unflatten(3, (side, side)), out=sums)

    def forward(self, tokens: Tensor, patches: Tensor) -> Tensor:
        """Norm, attend, project: tokens (1, C, B·windows, 1 + ws²) of this feature map -> the same shape."""
        qkv = self.qkv(self.norm(tokens))  # 1, 3C, B·windows, 1 + ws²
        query, key, value = split_heads(qkv.squeeze(0).permute(1, 2, 0), self.num_heads, parts=3)
        mask = key_padding_mask(patches, self.window_size, "local", leaders=1)
        biases = [self.position_bias] if mask is None else [self.position_bias, mask]
        return self.proj(rearrange(attention(query, key, value, biases), "n heads t d -> 1 (heads d) n t"))


@register_fused(MessengerBlock)
class FusedMessengerBlock(FusedBlock):
    """A :class:`MessengerBlock` whose branches run over bands of rows of windows on a CPU."""

    mixer: FusedMessengerAttention | MessengerAttention

    def __init__(self, block: MessengerBlock) -> None:
        super().__init__(block)
        self.region = block.region

    # Takes pairs, where other blocks take feature maps.
    def forward(self, x: WithMessengers) -> WithMessengers:  # type: ignore[override]
        """(B, C, H, W) and (B, C, hh, ww) -> the same shapes."""
        if not cpu_inference(x[0]):
            return self._forward(*x)
        with compared_once():  # the MLP runs twice
            return self._forward(*x)

    def _forward(self, patches: Tensor, messengers: Tensor) -> WithMessengers:
        """(B, C, H, W) and (B, C, hh, ww) -> the same shapes."""
        patches, messengers = self.attend(patches, messengers)
        messengers = shuffle_messengers(messengers, self.region)
        patches = add_branch(patches, self.norm2, self.mlp, overwrite=True)
        return patches, add_branch(messengers, self.norm2, self.mlp)

    def attend(self, patches: Tensor, messengers: Tensor) -> WithMessengers:
        """Add the first branch: (B, C, H, W) and (B, C, hh, ww) -> the same shapes."""
        if not cpu_inference(patches) or not isinstance(self.mixer, FusedMessengerAttention):
            tokens = join_windows(patches, messengers, self.mixer.window_size)  # 1, C, B·windows, 1 + ws²
            mixed = self.mixer(self.norm1(tokens), patches)
            branches = split_windows(mixed, patches.shape[-2:], self.mixer.window_size)
            return patches + branches[0], messengers + branches[1]
        side = self.mixer.window_size
        sums = torch.empty_like(patches), torch.empty_like(messengers)
        cuts = blocks.cut_into_bands(patches, side, "local")
        if len(cuts) < 2:
            self.mixer.add((patches, messengers), sums)
            return sums
        for image in range(len(patches)):
            for (rows,) in cuts:
                windows = slice(rows.start // side, -(-rows.stop // side))
                self.mixer.add(
                    (patches[image, None, :, rows], messengers[image, None, :, windows]),
                    (sums[0][image, None, :, rows], sums[1][image, None, :, windows]),
                )
        return sums


def _windows(x: Tensor, side: int) -> Tensor:
    """View a feature map of whole windows, (B, C, H, W), as (B, hh, ww, ws, ws, C)."""
    return x.permute(0, 2, 3, 1).unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)


def _add_new(x: Tensor, new: Tensor) -> Tensor:
    """Compute ``x + new``, both (B, C, H, W), in the memory of ``new`` where it may be overwritten."""
    return new.add_(x) if cpu_inference(x) and x.dtype == new.dtype else x + new
