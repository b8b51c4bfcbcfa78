"""Block = token mixer + MLP, each on a residual branch; and activation checkpointing of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .attention import WindowAttention
from .bands import POINTWISE, residual
from .fuse import fuse_into_next


class Block(nn.Module):
    """x + mixer(norm1(x)), then x + mlp(norm2(x)), each branch dropped at random while training.

    Args:
        norm1: Before the mixer; ``nn.Identity()`` for mixers that normalise by themselves.
        mixer: Mixes tokens, (B, C, H, W) -> (B, C, H, W) for any H×W. If it has an attribute ``reach``, it may be
            run over bands of rows (see :mod:`localvit_det.layers.bands`).
        norm2: Before the MLP.
        mlp: Mixes channels.
        drop_path_rate: Probability of dropping a branch, per picture.
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
        x = residual(x, self.mix, getattr(self.mixer, "reach", None), self)
        return residual(x, self.transform, POINTWISE, self)

    def mix(self, x: Tensor) -> Tensor:
        """The branch of the mixer: (B, C, H, W) -> (B, C, H, W)."""
        return self.drop_path(self.mixer(self.norm1(x)))

    def transform(self, x: Tensor) -> Tensor:
        """The branch of the MLP: (B, C, H, W) -> (B, C, H, W)."""
        return self.drop_path(self.mlp(self.norm2(x)))

    def fuse(self) -> None:
        """Fold the norms before 1×1 convolutions into these."""
        if isinstance(self.mixer, WindowAttention):
            self.norm1, self.mixer.qkv = fuse_into_next(self.norm1, self.mixer.qkv)
        self.norm2, self.mlp.fc1 = fuse_into_next(self.norm2, self.mlp.fc1)


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block without keeping its activations; backward runs it again.

    The second run must not count a batch twice in BatchNorm's running statistics, which plain
    ``torch.utils.checkpoint`` would do.

    Args:
        block: The block.
        x: Map of shape (B, C, H, W).

    Returns:
        What ``block(x)`` returns.
    """

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _frozen_running_stats(block)

    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _frozen_running_stats(module: nn.Module) -> Iterator[None]:
    # With momentum 0 the same tensors are saved for backward as in the first run, which checkpointing demands.
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
