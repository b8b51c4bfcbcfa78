"""GG-Transformer, "Glance-and-Gaze Vision Transformer" (arXiv:2106.02277). No official code exists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import WindowAttention, crop
from ..ops import DepthwiseConv2d
from .base import AttentionViT
from .family import SWIN_RELEASES, SWIN_SKELETON, Release, WarmStart, check_odd, for_each_stage, swin_sizes


class GlanceGazeAttention(WindowAttention):
    """Attention over dilated windows (Glance) plus a depth-wise convolution on the values (Gaze).

    The values of all windows are merged back to a feature map, which is convolved; the result is added to the
    attention's output before the projection (section 3.3). Our reading: padding takes no part in the convolution, which
    sees zeros beyond the real feature map; the paper is silent, and this makes the result of real tokens independent of
    padding. ``gaze_kernel`` is the side of its kernel in tokens, odd; all else as in :class:`WindowAttention`.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int,
        gaze_kernel: int,
        position_bias: bool = False,
        **attention: Any,
    ) -> None:
        super().__init__(channels, num_heads, window_size, split="dilated", position_bias=position_bias, **attention)
        # With a bias: the field's convention for depth-wise convolutions; the paper is silent.
        self.gaze = DepthwiseConv2d(channels, gaze_kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        query, key, value = self.project(x)  # each B·windows, heads, ws², d
        glance, values = self.attend(query, key, value, x), self.merge(value, x)  # each B, C, H', W'
        glance, values = (crop(y, x.shape[-2:]) for y in (glance, values))  # each B, C, H, W
        return self.proj_drop(self.proj(glance + self.gaze(values)))


@MODELS.register_module()
class GGTransformer(AttentionViT):
    """Swin's skeleton with Glance-and-Gaze attention in every block.

    Takes all arguments of :class:`AttentionViT`, and those below.

    Args:
        arch: 'tiny', 'small', 'base' or a dict with embed_dims, depths, num_heads and drop_path_rate. The base
            size is our reading: the paper has T and S; B takes Swin-B's widths and depths.
        gaze_kernels: Side of the Gaze kernel per stage, in tokens, or one for all. The default is the paper's
            adaptive setting, about the dilation of the Glance branch at 224 pixels; 3 is its fixed one.
        position_bias: Whether the Glance branch adds Swin's learned bias by relative position to its logits. None is
            our reading: the paper names no position encoding. An implementation by others, derived from Swin, has it.

    Raises:
        ValueError: If a Gaze kernel is even, or there is not one per stage.
    """

    title: ClassVar = "GG-Transformer"
    short_name: ClassVar = "gg"
    has_windows: ClassVar = True
    paper: ClassVar = ("Glance-and-Gaze Vision Transformer", "https://arxiv.org/abs/2106.02277")
    arch_settings: ClassVar = swin_sizes(tiny=0.2, small=0.3, base=0.5)  # drop path rates
    releases: ClassVar = {size: Release(warm_start=swin.address) for size, swin in SWIN_RELEASES.items()}
    # Without the Gaze, GG is Swin on other windows and without its position table.
    warm_starts: ClassVar = {
        "swin": WarmStart(
            (*SWIN_SKELETON, (r"\.attn\.", ".mixer.")), zeros=r"\.mixer\.gaze\.", surplus="relative_position"
        )
    }
    default_norm_cfg: ClassVar = {"type": "LN2d"}

    def __init__(
        self,
        arch: str | dict = "tiny",
        *,
        gaze_kernels: Sequence[int] | int = (9, 5, 3, 3),
        position_bias: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(arch, **common)
        self.gaze_kernels = for_each_stage("gaze_kernels", gaze_kernels, len(self.depths))
        check_odd("gaze_kernels", self.gaze_kernels)
        self.position_bias = position_bias
        self.build()

    def make_mixer(self, channels: int, stage: int, index: int) -> nn.Module:
        """Make Glance and Gaze, the same in every block of a stage: (B, C, H, W) -> (B, C, H, W)."""
        return GlanceGazeAttention(
            channels,
            self.num_heads[stage],
            self.window_size,
            self.gaze_kernels[stage],
            position_bias=self.position_bias,
            **self.attention,
        )
