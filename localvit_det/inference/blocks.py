"""Blocks, MLPs and stems for inference: norms folded, 1×1 layers packed, branches over bands of rows."""

from __future__ import annotations

from torch import Tensor, nn

from ..backbones.shuffle_transformer import ShuffleBlock
from ..backbones.twins import PositionBlock
from ..layers import Block, ConvMlp, ConvStem, Fused, form_of, fused
from ..ops import cpu_inference
from .bands import Banded, add_branch
from .folding import fold_into_residual, fuse_bn_conv, fuse_conv_bn
from .packed import PackedConv1x1, in_place, pack


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
        """Take the norm before the MLP, into the first layer or at least into the bands; nothing is left to apply."""
        self.norm, fc1 = fuse_bn_conv(norm, self.fc1)
        self.fc1 = PackedConv1x1(fc1, self.fc1.act)
        return nn.Identity()

    def gather(self, x: Tensor) -> Tensor:
        """(B, C, rows, W) -> (B, C, rows, W)."""
        return self.fc2(self.fc1(self.norm(x)))


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
    """Compute ``x + new``, in the memory of ``new`` where it may be overwritten."""
    return new.add_(x) if cpu_inference(x) and x.dtype == new.dtype else x + new


def _fused_branch(norm: nn.Module, branch: nn.Module) -> tuple[nn.Module, nn.Module]:
    branch = branch.fuse() if hasattr(branch, "fuse") else fused(branch)
    fold = getattr(branch, "fold_input_norm", None)
    return fold(norm) if fold else norm, branch


class FusedConvStem(Fused):
    """A :class:`ConvStem` without norms, and with activations in place: they are the largest maps of the network.

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
        x = self.act1(self.norm1(self.conv1(x)))
        x = self.act2(self.norm2(self.conv2(x)))
        return self.conv3(x)


form_of(ConvMlp)(FusedMlp)
form_of(Block)(FusedBlock)
form_of(ShuffleBlock)(FusedShuffleBlock)
form_of(PositionBlock)(FusedPositionBlock)
form_of(ConvStem)(FusedConvStem)
