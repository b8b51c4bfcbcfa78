"""DWNet's mixers for inference: norms folded, products packed, kernels made band by band."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.dwnet import ConvMixer, DynamicDWConv, InhomogeneousDWConv, KernelGenerator
from ..layers import Fused, fused, pad_to_multiple, register_fused
from ..ops import DepthwiseConv2d, cpu_inference, inhomogeneous_conv_by_rows, is_plain
from .bands import Banded
from .folding import fuse_conv_bn, has_statistics, scale_and_shift
from .packed import PackedConv1x1, pack


@register_fused(ConvMixer, convs=("expand", "project"))
class FusedConvMixer(Banded):
    """A :class:`ConvMixer` without its norms; the last product runs over bands.

    Args:
        mixer: The mixer.
    """

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
    """A :class:`DynamicDWConv` without the norm in its generator, which can take the norm that follows.

    Args:
        conv: The convolution.
    """

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
    """An :class:`InhomogeneousDWConv` that makes the kernels of a few rows at a time on a CPU.

    Args:
        conv: The convolution.
    """

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
