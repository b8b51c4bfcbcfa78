"""DWNet (arXiv:2106.04263; official code: Atten4Vis/DemystifyLocalViT): convolution in place of attention."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import Fusible, build_norm, crop, pad_to_multiple
from ..ops import DepthwiseConv2d, cpu_inference, depthwise_conv, inhomogeneous_conv, is_plain
from .base import LocalViT
from .family import SWIN_RELEASES, SWIN_SKELETON, Release, WarmStart, check_odd, swin_sizes

_REDUCTION = 4  # of the channels inside the kernel generators


def _release(name: str, top1: float) -> Release:
    address = f"https://github.com/Atten4Vis/DemystifyLocalViT/releases/download/prerelease/{name}_224.pth"
    return Release(address, address, top1=top1)


class DynamicDWConv(Fusible):
    """Depth-wise convolution with kernels made for each image from its mean ("homogeneous dynamic").

    Training needs more than one image a batch: the generator's BatchNorm runs over one value per image and channel.
    """

    def __init__(self, channels: int, kernel_size: int, norm_cfg: dict) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.reduce = nn.Conv2d(channels, channels // _REDUCTION, 1, bias=False)
        self.norm = build_norm(norm_cfg, channels // _REDUCTION)
        self.generate = nn.Conv2d(channels // _REDUCTION, channels * kernel_size**2, 1)
        self.bias = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        """Initialise the bias anew."""
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        kernels = self.generate(self.norm(self.reduce(F.adaptive_avg_pool2d(x, 1))).relu())  # B, C·k², 1, 1
        kernels = kernels.view(len(x), len(self.bias), 1, self.kernel_size, self.kernel_size)  # B, C, 1, k, k
        # One convolution an image keeps channels-last memory; folding B into the groups, as the official
        # code does, would copy the feature map to and fro. (`len` is a plain number for tracers, too.)
        images = [(x[i : i + 1], kernels[i]) for i in range(len(x))] or [(x, kernels.sum(0))]  # or a batch of none
        return torch.cat([depthwise_conv(image, kernel, self.bias) for image, kernel in images])


class KernelGenerator(nn.Conv2d):
    """1×1 convolution whose result is contiguous on a CPU, so that a tap of all positions lies in one run.

    A channels-last one would scatter it, and the operator would have to copy; on a GPU a position's taps in one run
    are what its kernels read.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W), in the memory of ``out`` where that is given and has the right type."""
        if not x.is_cpu:
            return super().forward(x)
        weight = self.weight.flatten(1).expand(len(x), -1, -1)  # B, C', C
        bias, tokens = cast(Tensor, self.bias)[None, :, None], x.flatten(2)  # 1, C', 1 and B, C, H·W
        if out is None or x.dtype != weight.dtype:  # autocast casts inputs only without `out`
            return torch.baddbmm(bias, weight, tokens).unflatten(2, x.shape[2:])  # B, C', H, W
        out.resize_(len(x), weight.shape[1], tokens.shape[2])
        return torch.baddbmm(bias, weight, tokens, out=out).unflatten(2, x.shape[2:])  # B, C', H, W


class InhomogeneousDWConv(Fusible):
    """Depth-wise convolution with a kernel for each position, shared by groups of ``group_channels`` channels."""

    def __init__(self, channels: int, kernel_size: int, group_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.reduce = nn.Conv2d(channels, channels // _REDUCTION, 1)
        self.norm = build_norm(norm_cfg, channels // _REDUCTION)
        self.groups = channels // group_channels
        self.generate = KernelGenerator(channels // _REDUCTION, self.groups * kernel_size**2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        reduced = self.norm(self.reduce(x)).relu()  # B, C/4, H, W
        return inhomogeneous_conv(x, self.generate(reduced), self.kernel_size)


class ConvMixer(Fusible):
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
        self.act = nn.ReLU()
        self.conv = conv
        self.norm2 = build_norm(norm_cfg, channels)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm3 = build_norm(norm_cfg, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        size = x.shape[-2:]
        if self.pad_to:
            x = pad_to_multiple(x, self.pad_to)
        x = self.activate(self.norm1, self.expand(x))  # B, C, H', W'
        x = self.activate(self.norm2, self.conv(x))  # B, C, H', W'
        return crop(self.norm3(self.project(x)), size)

    def activate(self, norm: nn.Module, x: Tensor) -> Tensor:
        """Apply a norm and the activation, (B, C, H, W) -> (B, C, H, W)."""
        normed = norm(x)
        # In place where nothing else refers to the norm's output: new memory costs page faults.
        unseen = cpu_inference(x) and normed is not x and is_plain(norm) and is_plain(self.act)
        return normed.relu_() if unseen and type(self.act) is nn.ReLU else self.act(normed)


@MODELS.register_module()
class DWNet(LocalViT):
    """Swin's skeleton with static depth-wise convolutions.

    Takes all arguments of :class:`LocalViT`, and those below. ``window_size`` is the side of the kernels.

    Args:
        arch: 'tiny', 'base' or a dict with embed_dims, depths and drop_path_rate.
        pad_to_window: Pad every block's input to multiples of ``window_size``, as the official detection code
            does (a leftover of its Swin skeleton). A convolution needs no padding, and those cells become
            non-zero and reach the borders; switch it on only to run the released detectors exactly.
    """

    title: ClassVar = "DWNet"
    short_name: ClassVar = "dwnet"
    has_windows: ClassVar = True
    paper: ClassVar = (
        "On the Connection between Local Attention and Dynamic Depth-wise Convolution",
        "https://arxiv.org/abs/2106.04263",
    )
    arch_settings: ClassVar = swin_sizes(heads=False, tiny=0.2, base=0.5)  # drop path rates
    releases: ClassVar = {"tiny": _release("dwnet_tiny", 81.2), "base": _release("dwnet_base", 83.2)}
    official_layout: ClassVar = (
        *SWIN_SKELETON,
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
    warm_starts: ClassVar = {
        "swin": WarmStart(
            (
                *SWIN_SKELETON,
                # The norms inside stages are BatchNorms, whose statistics no LayerNorm has.
                (r"\.blocks\.\d+\.norm\d\.|^out_norms\.", None),
                (r"\.attn\.(query|key|relative)|\.attn\.(proj|value)\.bias", None),
                (r"\.attn\.value\.", ".mixer.expand."),
                (r"\.attn\.proj\.", ".mixer.project."),
            ),
            splits=((r"\.attn\.qkv\.", ((".attn.query.", 1), (".attn.key.", 1), (".attn.value.", 1))),),
        )
    }

    def __init__(self, arch: str | dict = "tiny", pad_to_window: bool = False, **common: Any) -> None:
        super().__init__(arch, **common)
        check_odd("window_size", self.window_size)
        self.pad_to_window = pad_to_window
        self.build()

    def make_mixer_norm(self, channels: int) -> nn.Module:
        """Make none: the mixer normalises after each convolution."""
        return nn.Identity()

    def make_mixer(self, channels: int, stage: int, index: int) -> nn.Module:
        """Make the three convolutions: (B, C, H, W) -> (B, C, H, W)."""
        pad_to = self.window_size if self.pad_to_window else None
        return ConvMixer(channels, self.make_conv(channels), self.norm_cfg, pad_to)

    def make_conv(self, channels: int) -> nn.Module:
        """Make the depth-wise convolution: (B, C, H, W) -> (B, C, H, W)."""
        return DepthwiseConv2d(channels, self.window_size)


@MODELS.register_module()
class DynamicDWNet(DWNet):
    """DWNet with kernels made for each image. Arguments as in :class:`DWNet`.

    The official classification code replaces the dynamic convolution by a static one by mistake (an
    if/if/else); its detection code and the released weights are dynamic, and so is this.
    """

    short_name: ClassVar = "ddwnet"
    releases: ClassVar = {"tiny": _release("dynamic_dwnet_tiny", 81.8), "base": _release("dynamic_dwnet_base", 83.2)}

    def make_conv(self, channels: int) -> nn.Module:
        """Make the depth-wise convolution: (B, C, H, W) -> (B, C, H, W)."""
        return DynamicDWConv(channels, self.window_size, self.norm_cfg)


@MODELS.register_module()
class IDynamicDWNet(DWNet):
    """DWNet with kernels made for each position ("inhomogeneous dynamic"). Arguments as in :class:`DWNet`.

    A kernel is shared by embed_dims/32, doubled by each stage, neighbouring channels: 3/6/12/24 in the tiny
    size and 4/8/16/32 in the base size, as published, which is 32 kernels at every position.
    """

    short_name: ClassVar = "iddwnet"
    releases: ClassVar = {size: Release(warm_start=SWIN_RELEASES[size].address) for size in ("tiny", "base")}

    def make_conv(self, channels: int) -> nn.Module:
        """Make the depth-wise convolution: (B, C, H, W) -> (B, C, H, W)."""
        return InhomogeneousDWConv(channels, self.window_size, max(1, channels // 32), self.norm_cfg)
