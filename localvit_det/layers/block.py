"""What networks are made of, from the image on: stem, downsampling, blocks, stages.

A stem makes a feature map at a quarter of the image's size; a block is a token mixer and an MLP, each on a residual
branch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from ..ops import checkpointed, recomputed
from .fusible import Fusible
from .norm import build_activation, build_norm, init_trunc_normal
from .window import pad_to_multiple


class ConvStem(Fusible):
    """Two 3×3 convolutions of stride 2, each with a norm and an activation, and a 1×1 convolution.

    Source: Shuffle Transformer, official `models/shuffle_transformer.py`, class PatchEmbedding.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, norm_cfg: dict, act_cfg: dict) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, mid_channels, 3, stride=2, padding=1)
        self.norm1 = build_norm(norm_cfg, mid_channels)
        self.act1 = build_activation(act_cfg)
        self.conv2 = nn.Conv2d(mid_channels, out_channels, 3, stride=2, padding=1)
        self.norm2 = build_norm(norm_cfg, out_channels)
        self.act2 = build_activation(act_cfg)
        self.conv3 = nn.Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉)."""
        x = recomputed(self.act1, self.conv2, self.norm1(self.conv1(x)))  # B, C, ⌈H/4⌉, ⌈W/4⌉
        return recomputed(self.act2, self.conv3, self.norm2(x))


class PatchEmbed(nn.Module):
    """Non-overlapping 4×4 patches (of another ``patch_size`` as well), projected and normalised, as in Swin."""

    def __init__(self, in_channels: int, out_channels: int, patch_size: int = 4) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, out_channels, patch_size, stride=patch_size)
        self.norm = build_norm({"type": "LN2d"}, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, ⌈H/4⌉, ⌈W/4⌉)."""
        return self.norm(self.proj(pad_to_multiple(x, self.patch_size)))


class ConvDownsample(nn.Module):
    """Norm, then a 2×2 convolution of stride 2 without bias.

    Source: Shuffle Transformer, official `models/shuffle_transformer.py`, class PatchMerging. The official
    code needs even sizes; odd ones are padded here, after the norm, so that padding stays zero.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.norm = build_norm(norm_cfg, in_channels)
        self.reduction = nn.Conv2d(in_channels, out_channels, 2, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ⌈H/2⌉, ⌈W/2⌉)."""
        return self.reduction(pad_to_multiple(self.norm(x), 2))


class PatchMerging(nn.Module):
    """Four neighbours after each other in the channels, LayerNorm, projection; as in Swin.

    Source: arXiv:2103.14030, section 3.1. Padding odd sizes before the norm is what its official detection
    code (and DWNet's) does.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = build_norm({"type": "LN2d"}, 4 * in_channels)
        self.reduction = nn.Conv2d(4 * in_channels, out_channels, 1, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the projection anew."""
        init_trunc_normal(self.reduction)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ⌈H/2⌉, ⌈W/2⌉)."""
        x = pad_to_multiple(x, 2)  # B, C, 2·⌈H/2⌉, 2·⌈W/2⌉
        # Swin's order of the four: columns change last. One copy to B, 4C, ⌈H/2⌉, ⌈W/2⌉, channels-last.
        x = rearrange(x.permute(0, 2, 3, 1), "b (h dy) (w dx) c -> b h w (dx dy c)", dy=2, dx=2).permute(0, 3, 1, 2)
        return self.reduction(self.norm(x))


class DropPath(nn.Module):
    """Drops a residual branch of an image at random while training; :func:`add` applies it."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), zero for the images that lose the branch."""
        kept = draw_kept(x, self)
        return x if kept is None else x * (kept / (1 - self.drop_prob))

    def extra_repr(self) -> str:
        """Return what `print(model)` shows."""
        return f"drop_prob={self.drop_prob:g}"


class Block(Fusible):
    """x + mixer(norm1(x)), then x + mlp(norm2(x)), each branch dropped at random while training.

    Args:
        norm1: Before the mixer; ``nn.Identity()`` for mixers that normalise by themselves.
        mixer: Mixes tokens; any module (B, C, H, W) -> (B, C, H, W) for any H×W.
        norm2: Before the MLP.
        mlp: Mixes channels.
        drop_path_rate: Probability of dropping a branch, per image.
    """

    def __init__(
        self, norm1: nn.Module, mixer: nn.Module, norm2: nn.Module, mlp: nn.Module, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.mixer = mixer
        self.norm2 = norm2
        self.mlp = mlp
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        # recomputed(norm, f, x) is f(norm(x)); backward recomputes the norm instead of keeping its output.
        x = add(x, recomputed(self.norm1, self.mixer, x), self.drop_path)
        return add(x, recomputed(self.norm2, self.mlp, x), self.drop_path)


class Stage(nn.Module):
    """Blocks at one resolution, after the downsampling; what they carry in addition to the feature map goes with it."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module], with_cp: bool) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ⌈H/2⌉, ⌈W/2⌉), or the same H×W in the first stage."""
        x = self.downsample(x)
        checkpoint = self.with_cp and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpointed(block, x) if checkpoint else block(x)
        return x


class ConvMlp(Fusible):
    """Two 1×1 convolutions with an activation between, dropout after each: an MLP at every position.

    In channels-last memory a 1×1 convolution is the same matrix product as a Linear over permuted axes;
    written as a convolution it needs no permutation and ran faster on the CPU.
    """

    def __init__(self, channels: int, hidden_channels: int, act_cfg: dict, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden_channels, 1)
        self.act = build_activation(act_cfg)
        self.fc2 = nn.Conv2d(hidden_channels, channels, 1)
        self.drop = nn.Dropout(drop_rate)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise both layers anew."""
        init_trunc_normal(self.fc1, self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.drop(recomputed(self.act, self.shrink, self.fc1(x)))

    def shrink(self, hidden: Tensor) -> Tensor:
        """Apply the second layer: (B, C', H, W) -> (B, C, H, W)."""
        return self.fc2(self.drop(hidden))


def add(x: Tensor, branch: Tensor, drop_path: DropPath) -> Tensor:
    """Compute ``x + drop_path(branch)``, each (B, C, H, W), in one pass over the feature map instead of three."""
    kept = draw_kept(branch, drop_path)
    if kept is None:
        return x + branch
    return torch.addcmul(x, branch, kept, value=1 / (1 - drop_path.drop_prob))


def draw_kept(branch: Tensor, drop_path: DropPath) -> Tensor | None:
    """Draw which images keep a branch: 0 or 1 for each, (B, 1, 1, 1), or None where all do."""
    if not drop_path.training or not drop_path.drop_prob:
        return None
    return branch.new_empty(len(branch), 1, 1, 1).bernoulli_(1 - drop_path.drop_prob)
