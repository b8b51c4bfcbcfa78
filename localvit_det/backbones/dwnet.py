"""DWNet (arXiv:2106.04263; official code: Atten4Vis/DemystifyLocalViT): convolution in attention's place."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers import (
    DepthwiseConv2d,
    Mixer,
    PackedPointwise,
    build_norm,
    cpu_inference,
    depthwise_conv,
    fuse_into_previous,
    inhomogeneous_conv,
    inhomogeneous_conv_in_bands,
    pad_to_multiple,
    scale_and_shift,
)
from .base import LocalViT
from .sizes import swin_sizes

_REDUCTION = 4  # of the channels inside the kernel generators


class DynamicDWConv(nn.Module):
    """Depth-wise convolution whose kernels are made for each image from its mean ("homogeneous dynamic").

    Training needs more than one image a batch: BatchNorm runs over one value per image and channel.

    Args:
        channels: Channels in and out.
        kernel_size: Side of the kernels, in tokens; odd.
        norm_cfg: Norm inside the generator.
    """

    def __init__(self, channels: int, kernel_size: int, norm_cfg: dict) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.reduce = nn.Conv2d(channels, channels // _REDUCTION, 1, bias=False)
        self.norm = build_norm(norm_cfg, channels // _REDUCTION)
        self.generate = nn.Conv2d(channels // _REDUCTION, channels * kernel_size**2, 1)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        channels = x.shape[1]
        kernels = self.generate(self.norm(self.reduce(F.adaptive_avg_pool2d(x, 1))).relu())  # B, C·k², 1, 1
        kernels = kernels.view(-1, channels, 1, self.kernel_size, self.kernel_size)
        # One convolution an image keeps channels-last memory; folding B into the groups, as the official
        # code does, would copy the map to and fro.
        images = zip(x.split(1), kernels, strict=True)
        maps = [depthwise_conv(image, kernel, self.bias) for image, kernel in images]
        return torch.cat(maps)

    def fuse(self) -> None:
        """Fold the generator's norm."""
        self.reduce, self.norm = fuse_into_previous(self.reduce, self.norm)

    @torch.no_grad()
    def absorb(self, norm: nn.Module) -> nn.Module:
        """Take a BatchNorm that follows into the generated kernels; returns what is left to apply."""
        if not isinstance(norm, _BatchNorm):
            return norm
        scale, shift = scale_and_shift(norm)
        per_kernel = scale.repeat_interleave(self.kernel_size**2)  # C·k²
        self.generate.weight.mul_(per_kernel[:, None, None, None])
        self.generate.bias.mul_(per_kernel)
        self.bias.mul_(scale).add_(shift)
        return nn.Identity()


class InhomogeneousDWConv(nn.Module):
    """Depth-wise convolution with a kernel for each position, shared by groups of channels.

    Args:
        channels: Channels in and out.
        kernel_size: Side of the kernels, in tokens; odd.
        group_channels: Channels that share a kernel; divides ``channels``.
        norm_cfg: Norm inside the generator.
    """

    def __init__(self, channels: int, kernel_size: int, group_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.reduce = nn.Conv2d(channels, channels // _REDUCTION, 1)
        self.norm = build_norm(norm_cfg, channels // _REDUCTION)
        self.generate = nn.Conv2d(channels // _REDUCTION, channels // group_channels * kernel_size**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        reduced = self.norm(self.reduce(x)).relu()  # B, C/4, H, W
        # The 1×1 convolution as a matrix product: its result is contiguous, so that a tap of all positions lies in
        # one run, where a channels-last convolution would scatter it and the operator would have to copy.
        weight = self.generate.weight.flatten(1).expand(len(x), -1, -1)  # B, G·k², C/4
        bias = self.generate.bias[None, :, None]

        def kernels(start: int, stop: int) -> Tensor:
            rows = reduced[:, :, start:stop]  # B, C/4, rows, W
            return torch.baddbmm(bias, weight, rows.flatten(2)).unflatten(2, rows.shape[2:])  # B, G·k², rows, W

        if cpu_inference(x):
            groups = self.generate.out_channels // self.kernel_size**2
            return inhomogeneous_conv_in_bands(x, kernels, groups, self.kernel_size)
        return inhomogeneous_conv(x, kernels(0, x.shape[2]), self.kernel_size)

    def fuse(self) -> None:
        """Fold the generator's norm. (A norm that follows is per channel, the kernels are not.)"""
        self.reduce, self.norm = fuse_into_previous(self.reduce, self.norm)


class ConvMixer(Mixer):
    """1×1 convolution, depth-wise convolution, 1×1 convolution, each with a norm; ReLU between.

    Args:
        channels: Channels in and out.
        conv: The depth-wise convolution, (B, C, H, W) -> (B, C, H, W).
        norm_cfg: The three norms.
        pad_to: Pad the input to multiples of this, in tokens; None for no padding.
    """

    def __init__(self, channels: int, conv: nn.Module, norm_cfg: dict, pad_to: int | None = None) -> None:
        super().__init__()
        self.pad_to = pad_to
        self.expand = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm1 = build_norm(norm_cfg, channels)
        self.act = nn.ReLU(inplace=True)
        self.conv = conv
        self.norm2 = build_norm(norm_cfg, channels)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm3 = build_norm(norm_cfg, channels)

    def spread(self, x: Tensor) -> tuple[Tensor]:
        """Everything up to the depth-wise convolution: (B, C, H, W) -> (B, C, H', W'), padded if so wished."""
        if self.pad_to:
            x = pad_to_multiple(x, self.pad_to)
        x = self.act(self.norm1(self.expand(x)))
        return (F.relu(self.norm2(self.conv(x)), inplace=True),)

    def gather(self, x: Tensor) -> Tensor:
        """The projection: (B, C, H, W) -> (B, C, H, W)."""
        return self.norm3(self.project(x))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return super().forward(x)[..., : x.shape[2], : x.shape[3]]

    def fuse(self) -> None:
        """Fold the norms into the convolutions before them."""
        expand, self.norm1 = fuse_into_previous(self.expand, self.norm1)
        if isinstance(self.norm1, nn.Identity):
            self.expand, self.act = PackedPointwise(expand, self.act), nn.Identity()
        if isinstance(self.conv, nn.Conv2d):
            self.conv, self.norm2 = fuse_into_previous(self.conv, self.norm2)
        elif isinstance(self.conv, DynamicDWConv):
            self.norm2 = self.conv.absorb(self.norm2)
        self.project, self.norm3 = fuse_into_previous(self.project, self.norm3)


@MODELS.register_module()
class DWNet(LocalViT):
    """Swin's skeleton with static depth-wise convolutions.

    Takes all arguments of :class:`LocalViT`, and those below. ``window_size`` is the side of the kernels.

    Args:
        arch: 'tiny', 'base' or a dict with embed_dims, depths and drop_path_rate.
        pad_to_window: Pad every block's input to multiples of ``window_size``, as the official detection code
            does (a leftover of its Swin skeleton). A convolution needs no padding, and those cells become
            non-zero and reach the borders; switch it on only to run the released detectors exactly.
        common: Arguments of :class:`LocalViT`.
    """

    title: ClassVar = "DWNet"
    short_name: ClassVar = "dwnet"
    paper: ClassVar = (
        "On the Connection between Local Attention and Dynamic Depth-wise Convolution",
        "https://arxiv.org/abs/2106.04263",
    )
    arch_settings: ClassVar = swin_sizes(heads=False, tiny=0.2, base=0.5)  # drop path rates
    official_layout: ClassVar = (
        (r"^head\.|^norm\.", None),  # of the classifier
        (r"^patch_embed\.", "stem."),
        (r"^layers\.(\d)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample."),
        (r"^layers\.(\d)\.", r"stages.\1."),
        (r"^norm(\d)\.", r"out_norms.\1."),
        (r"(blocks\.\d+)\.bn\.", r"\1.norm2."),
        (r"\.attn2conv\.conv\.conv1\.(0\.)?(?=weight|bias)", ".mixer.conv.reduce."),
        (r"\.attn2conv\.conv\.(bn|conv1\.1)\.", ".mixer.conv.norm."),
        (r"\.attn2conv\.conv\.conv2\.(0\.)?(?=weight|bias)", ".mixer.conv.generate."),
        (r"\.attn2conv\.conv0\.", ".mixer.expand."),
        (r"\.attn2conv\.conv2\.", ".mixer.project."),
        (r"\.attn2conv\.bn0\.", ".mixer.norm1."),
        (r"\.attn2conv\.bn\.", ".mixer.norm2."),
        (r"\.attn2conv\.bn2\.", ".mixer.norm3."),
        (r"\.attn2conv\.", ".mixer."),
    )

    def __init__(self, arch: str | dict = "tiny", pad_to_window: bool = False, **common: Any) -> None:
        super().__init__(arch, **common)
        self.pad_to_window = pad_to_window
        self.build()

    def make_mixer_norm(self, channels: int) -> nn.Module:
        """None: the mixer normalises after each convolution."""
        return nn.Identity()

    def make_mixer(self, stage: int, index: int) -> nn.Module:
        """1×1, depth-wise, 1×1."""
        pad_to = self.window_size if self.pad_to_window else None
        return ConvMixer(self.channels[stage], self.make_conv(stage), self.norm_cfg, pad_to)

    def make_conv(self, stage: int) -> nn.Module:
        """The depth-wise convolution."""
        return DepthwiseConv2d(self.channels[stage], self.window_size)


@MODELS.register_module()
class DynamicDWNet(DWNet):
    """DWNet with kernels made for each image. Arguments as in :class:`DWNet`.

    The official classification code replaces the dynamic convolution by a static one by mistake (an
    if/if/else); its detection code and the released weights are dynamic, and so is this.
    """

    short_name: ClassVar = "ddwnet"

    def make_conv(self, stage: int) -> nn.Module:
        """The depth-wise convolution."""
        return DynamicDWConv(self.channels[stage], self.window_size, self.norm_cfg)


@MODELS.register_module()
class IDynamicDWNet(DWNet):
    """DWNet with kernels made for each position ("inhomogeneous dynamic"). Arguments as in :class:`DWNet`.

    A kernel is shared by embed_dims/32, doubled by each stage, neighbouring channels: 3/6/12/24 in the tiny
    size and 4/8/16/32 in the base size, as published, which is 32 kernels at every position.
    """

    short_name: ClassVar = "iddwnet"

    def make_conv(self, stage: int) -> nn.Module:
        """The depth-wise convolution."""
        channels = self.channels[stage]
        return InhomogeneousDWConv(channels, self.window_size, max(1, channels // 32), self.norm_cfg)
